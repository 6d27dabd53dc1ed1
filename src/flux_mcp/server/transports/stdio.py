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
from flux_mcp.observability.tracing import stop_tracing
from flux_mcp.server.transports.stdout import StdoutGuard
from flux_mcp.service.service import Service

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
DRAIN_S = 5
"""How long answers that are under way may take when the server is told to end."""


def end_at_once_next_time() -> None:
    """Let the system do what it does with these signals when nobody handles them."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 30.0
OPEN_AFTER_S = 1.0
"""Long enough for a client's handshake and list of tools, on a slow machine too."""


def serve_stdio(service: Service, guard: StdoutGuard) -> None:
    """Serve until stdin closes or a signal comes; then close the service and leave the process."""
    data_dir = str(service.settings.data_dir)
    logger.info(
        "serving", extra={"transport": "stdio", "data_dir": data_dir, "version": __version__}
    )
    asyncio.run(_serve_and_leave(service, guard))


async def _serve_and_leave(service: Service, guard: StdoutGuard) -> None:
    status = await _serve_stdio(service, guard)
    stop_tracing()
    sys.stderr.flush()
    # From here, not after the loop: it would first cancel the calls that are still open.
    os._exit(status)


async def _serve_stdio(service: Service, guard: StdoutGuard) -> int:
    # Imported here, behind the guard: an import that prints would break the protocol.
    from flux_mcp.server.app import build_server  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        logger.info("told to end")
        end_at_once_next_time()
        stop.set()

    for number in ENDING_SIGNALS:
        try:
            loop.add_signal_handler(number, end)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))
    # A client that has just started us is answered first; its first call opens at once.
    loop.call_later(OPEN_AFTER_S, service.open_in_background)
    server = build_server(service)
    guard.open()
    serving = asyncio.create_task(server.run_stdio_async(), name="flux-mcp-stdio")
    announcing = asyncio.create_task(server.announce_changes(), name="flux-mcp-announce")
    stopping = asyncio.create_task(stop.wait(), name="flux-mcp-stop")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        await server.finish_calls(DRAIN_S)
    guard.shut()
    announcing.cancel()
    trouble = serving.exception() if serving.done() else None
    failed = trouble is not None and not is_client_gone(trouble)
    if failed:
        logger.error("the stdio transport ended", exc_info=trouble)
    elif trouble is not None:
        logger.info("the client is gone")
    try:
        # The stdin reader cannot be interrupted, so a signal leaves it behind: the process ends.
        await asyncio.wait_for(service.close(), CLOSE_TIMEOUT_S)
    except Exception:
        logger.exception("the service did not close in order")
        return 1
    return 1 if failed else 0


def is_client_gone(error: BaseException) -> bool:
    """Whether all that went wrong is that nobody reads our answers any more."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_client_gone(one) for one in error.exceptions)
    return isinstance(error, ConnectionError)  # a broken pipe is one
