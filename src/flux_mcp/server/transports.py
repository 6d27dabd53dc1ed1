"""stdio: one client on this process's stdin and stdout, and an orderly end whatever happens.

The process leaves through `os._exit`: text that a library left in a buffer is then never flushed
onto the wire, which the SDK has given back by that time (wire.py).
"""

import asyncio
import logging
import os
import signal
import sys

from flux_mcp import __version__
from flux_mcp.server.wire import WireGuard
from flux_mcp.service import Service
from flux_mcp.telemetry import stop_tracing

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 30.0
OPEN_AFTER_S = 1.0
"""Long enough for a client's handshake and list of tools, on a slow machine too."""


def serve_stdio(service: Service, guard: WireGuard) -> None:
    """Serve until stdin closes or a signal comes; then close the service and leave the process."""
    data_dir = str(service.settings.data_dir)
    logger.info(
        "serving", extra={"transport": "stdio", "data_dir": data_dir, "version": __version__}
    )
    status = asyncio.run(_serve_stdio(service, guard))
    stop_tracing()
    sys.stderr.flush()
    os._exit(status)


async def _serve_stdio(service: Service, guard: WireGuard) -> int:
    # Imported here, behind the guard: an import that prints would break the protocol.
    from flux_mcp.server.app import build_server  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    # A client that has just started us is answered first; its first call opens at once.
    loop.call_later(OPEN_AFTER_S, service.open_soon)
    server = build_server(service)
    guard.open()
    serving = asyncio.create_task(server.run_stdio_async(), name="flux-mcp-stdio")
    announcing = asyncio.create_task(server.announce_changes(), name="flux-mcp-announce")
    stopping = asyncio.create_task(stop.wait(), name="flux-mcp-stop")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    guard.shut()
    announcing.cancel()
    failed = serving.done() and serving.exception() is not None
    if failed:
        logger.error("the stdio transport ended", exc_info=serving.exception())
    try:
        # The stdin reader cannot be interrupted, so a signal leaves it behind: the process ends.
        await asyncio.wait_for(service.close(), CLOSE_TIMEOUT_S)
    except Exception:
        logger.exception("the service did not close in order")
        return 1
    return 1 if failed else 0
