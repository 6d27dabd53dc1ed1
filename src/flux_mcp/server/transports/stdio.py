"""stdio: one client on this process's stdin and stdout, and an orderly end whatever happens.

The SDK, and what answers calls, are imported here, behind the guard of stdout: an import that
prints would break the protocol. The first answers need only the SDK; the service is made shortly
after them, or for the first call.

The process leaves through `os._exit`: text that a library left in a buffer is then never flushed
onto the pipe of the protocol.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from flux_mcp import __version__
from flux_mcp.server.transports.stdout import StdoutGuard, claim_stdin
from flux_mcp.settings.settings import Settings

if TYPE_CHECKING:
    from flux_mcp.server.asking import ImagePage
    from flux_mcp.service.service import Service

logger = logging.getLogger(__name__)

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
DRAIN_S = 5
"""How long answers that are under way may take after a signal."""
FLUSH_S = 1.0
"""How long a client that was told to stop may go without reading its last answers."""
CLOSE_TIMEOUT_S = 30.0
OPEN_AFTER_S = 1.0
"""Long enough for a client's handshake and list of tools, on a slow machine too."""


def end_at_once_next_time() -> None:
    """Let the system do what it does with these signals when nobody handles them."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def default_service(settings: Settings) -> "Service":
    """Return the product's own service; imports it."""
    from flux_mcp.service.service import Service

    return Service(settings)


def serve_stdio(
    settings: Settings,
    guard: StdoutGuard,
    make_service: "Callable[[Settings], Service]" = default_service,
) -> None:
    """Serve until stdin closes or a signal comes; then close the service and leave the process.

    Args:
        settings: Read once by the caller.
        guard: Keeps everything but the protocol off stdout, since the process began.
        make_service: Called in a thread, once, when a call needs it or the client has been quiet
            for a moment.
    """
    extra = {"transport": "stdio", "data_dir": str(settings.data_dir), "version": __version__}
    logger.info("serving", extra=extra)
    # Nothing that is imported is garbage: looking for some takes a tenth of the start.
    gc.disable()
    asyncio.run(_serve_and_leave(settings, guard, make_service))


async def _serve_and_leave(
    settings: Settings, guard: StdoutGuard, make_service: "Callable[[Settings], Service]"
) -> None:
    status = await _serve_stdio(settings, guard, make_service)
    from flux_mcp.observability.tracing import stop_tracing

    stop_tracing()
    sys.stderr.flush()
    guard.stderr.close()
    # From here, not after the loop: it would first cancel the calls that are still open.
    os._exit(status)


async def _serve_stdio(
    settings: Settings, guard: StdoutGuard, make_service: "Callable[[Settings], Service]"
) -> int:
    from flux_mcp.server.app import FluxServer
    from flux_mcp.server.on_demand import OnDemand
    from flux_mcp.server.transports.lines import Lines

    async def opening() -> "Service":
        made = await asyncio.to_thread(make_service, settings)
        made.open_in_background()
        return made

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        logger.info("received a signal, shutting down")
        end_at_once_next_time()
        stop.set()

    for number in ENDING_SIGNALS:
        try:
            loop.add_signal_handler(number, end)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))
    service = OnDemand(opening)
    server = FluxServer(service, settings, open_page=_open_page)
    # What stands now stays until the end; garbage is looked for in what comes after it.
    gc.freeze()
    gc.enable()
    lines = Lines(claim_stdin(), guard.pipe, settings.max_body_bytes)
    serving = asyncio.create_task(server.serve_streams(lines.streams()), name="flux-mcp-stdio")
    # A client that has just started us is answered first; its first call loads at once.
    loop.call_later(OPEN_AFTER_S, server.load_in_background)
    announcing = asyncio.create_task(server.announce_changes(), name="flux-mcp-announce")
    stopping = asyncio.create_task(stop.wait(), name="flux-mcp-stop")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        await server.finish_calls(DRAIN_S)
    await lines.flush(FLUSH_S if stop.is_set() else DRAIN_S)
    announcing.cancel()
    trouble = serving.exception() if serving.done() else None
    failed = trouble is not None and not is_client_gone(trouble)
    if failed:
        logger.error("the stdio transport ended", exc_info=trouble)
    elif trouble is not None:
        logger.info("the client is gone")
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            made = await service.if_begun()
            if made is not None:
                # The stdin reader cannot be interrupted: after a signal it is left behind.
                await made.close()
    except Exception:
        logger.exception("the service did not close in order")
        return 1
    return 1 if failed else 0


async def _open_page(service: "Service") -> "ImagePage":
    """Open a page for an image: whoever started this process sits at this machine."""
    from flux_mcp.server.transports.ask_page import open_page

    return await open_page(service)


def is_client_gone(error: BaseException) -> bool:
    """Whether all that went wrong is that nobody reads our answers any more."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_client_gone(one) for one in error.exceptions)
    return isinstance(error, ConnectionError)  # a broken pipe is one
