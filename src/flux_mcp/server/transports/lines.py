"""Lines: JSON-RPC messages on two file descriptors, one message a line, as stdio has them.

The SDK's own transport reads a line that is no message without a word, so that its sender waits for
ever; and it reads on however much is waiting to be written. Here every line that asks for something
is answered, and while a client does not read its answers, no more of its requests are read.
"""

import asyncio
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
from mcp.shared._context_streams import (
    ContextReceiveStream,
    ContextSendStream,
    create_context_streams,
)
from mcp.shared.message import SessionMessage
from mcp.types import (
    INTERNAL_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from flux_mcp.server.transports.messages import (
    HEAD_BYTES,
    Refused,
    can_be_sent,
    read_message,
    too_long,
)

logger = logging.getLogger(__name__)

MAX_UNREAD_BYTES = 8 * 1024 * 1024
"""Of answers that the client has not read; with more, no request is read. An answer has at most
1 MiB, the list of tools 40 kB."""
MAX_UNANSWERED = 256
"""Requests that are being answered at the same time; with more, one line a second is read."""
THROTTLED_S = 1.0
LOOK_S = 0.5
"""How often to look, while nothing is read, whether the client is still there."""
PATIENCE_S = 5.0
"""How long a client that is gone may take to read on before its answers are given up."""
_CHUNK_BYTES = 64 * 1024
_CANCELLED = "notifications/cancelled"


# --- what is written ---------------------------------------------------------------------------


class Outbox:
    """Lines that wait for the client to read them; a thread writes them.

    Args:
        fd: Where to.
        changed: Set whenever some of it was read.
    """

    def __init__(self, fd: int, changed: asyncio.Event) -> None:
        self._fd = fd
        self._changed_loop = asyncio.get_running_loop()
        self._changed = changed
        self._ready = threading.Condition()
        self._lines: deque[bytes] = deque()
        self.unread_bytes = 0
        """Of what has not been written yet."""
        self.error: OSError | None = None
        """Why nothing can be written any more."""
        threading.Thread(target=self._write, name="stdout", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Have a line written after those that wait already."""
        with self._ready:
            self._lines.append(line)
            self.unread_bytes += len(line)
            self._ready.notify()

    def _write(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: bool(self._lines))
                left = memoryview(self._lines.popleft())
            while left:
                try:
                    written = os.write(self._fd, left[:_CHUNK_BYTES])
                except BlockingIOError:
                    select.select((), (self._fd,), ())
                    continue
                except OSError as error:
                    self.error = error
                    self._tell()
                    return
                left = left[written:]
                with self._ready:
                    self.unread_bytes -= written
                self._tell()

    def _tell(self) -> None:
        try:
            self._changed_loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop has ended
            return


# --- the transport -----------------------------------------------------------------------------


class Lines:
    """One client on two file descriptors.

    Args:
        stdin: File descriptor to read from.
        stdout: File descriptor to write to.
        max_line_bytes: A longer line is refused.
    """

    def __init__(self, stdin: int, stdout: int, max_line_bytes: int) -> None:
        self._stdin = stdin
        self._max_bytes = max_line_bytes
        self._changed = asyncio.Event()
        self._outbox = Outbox(stdout, self._changed)
        self._unanswered: set[str] = set()

    @asynccontextmanager
    async def streams(
        self,
    ) -> AsyncIterator[
        tuple[ContextReceiveStream[SessionMessage | Exception], ContextSendStream[SessionMessage]]
    ]:
        """Give the streams that the SDK's server is run on, until the client is gone.

        Raises:
            ExceptionGroup: of a `BrokenPipeError`, where nobody reads the answers any more.
        """
        received, to_server = create_context_streams[SessionMessage | Exception](0)
        from_server, sent = create_context_streams[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._receive, received)
            tasks.start_soon(self._send, sent)
            yield to_server, from_server

    async def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until all that was answered is written; return whether it is.

        Args:
            patience_s: Not longer than this without the client reading anything.
        """
        while self._outbox.unread_bytes and self._outbox.error is None:
            before = self._outbox.unread_bytes
            self._changed.clear()
            try:
                async with asyncio.timeout(patience_s):
                    await self._changed.wait()
            except TimeoutError:
                if self._outbox.unread_bytes == before:
                    return False
        return not self._outbox.unread_bytes

    # --- reading -------------------------------------------------------------------------------

    async def _receive(self, received: ContextSendStream[SessionMessage | Exception]) -> None:
        try:
            async with received:
                async for line in self._lines():
                    if isinstance(line, Refused):
                        self._refuse(line)
                        continue
                    message = read_message(line)
                    if isinstance(message, Refused):
                        self._refuse(message)
                    elif message is not None:
                        self._begin(message)
                        await received.send(SessionMessage(message))
                    if not await self._has_room():
                        logger.info("the client is gone and reads no answers")
                        return
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # the server has ended

    async def _lines(self) -> AsyncIterator[bytes | Refused]:
        """Yield each line without its end; of one that is too long, why it is refused."""
        kept, head, is_long = bytearray(), b"", False
        while chunk := await anyio.to_thread.run_sync(
            os.read, self._stdin, _CHUNK_BYTES, abandon_on_cancel=True
        ):
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                kept += piece
                if is_long or len(kept) > self._max_bytes:
                    head = head or bytes(kept[:HEAD_BYTES])
                    yield too_long(head, bytes(kept[-HEAD_BYTES:]), self._max_bytes)
                else:
                    yield bytes(kept)
                kept, head, is_long = bytearray(), b"", False
            kept += rest
            if len(kept) > self._max_bytes:
                # The rest is read and forgotten, but for its end, which may have the id.
                is_long, head = True, head or bytes(kept[:HEAD_BYTES])
                del kept[:-HEAD_BYTES]
        if kept and not is_long:
            yield bytes(kept)  # a last line without an end is a line too

    def _refuse(self, refused: Refused) -> None:
        logger.info(
            "a line that is no message was refused",
            extra={"code": refused.code, "answered": refused.answer is not None},
        )
        if refused.answer is not None:
            self._put(refused.answer)

    def _begin(self, message: JSONRPCMessage) -> None:
        if isinstance(message, JSONRPCRequest):
            self._unanswered.add(_key(message.id))
        elif isinstance(message, JSONRPCNotification) and message.method == _CANCELLED:
            # What is cancelled may never be answered.
            self._unanswered.discard(_key((message.params or {}).get("requestId")))

    async def _has_room(self) -> bool:
        """Wait while answers are unread; return False where the client is gone meanwhile.

        While many requests are being answered, one more is read each second: it may be a
        cancellation, or the client waits for one that will never be answered.
        """
        waited_s, before = 0.0, 0
        while (is_unread := self._outbox.unread_bytes > MAX_UNREAD_BYTES) or (
            len(self._unanswered) >= MAX_UNANSWERED and waited_s < THROTTLED_S
        ):
            if self._outbox.error is not None:
                raise self._outbox.error
            unread_bytes = self._outbox.unread_bytes
            waited_s = waited_s + LOOK_S if unread_bytes == before else 0.0
            before = unread_bytes
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            if is_unread and waited_s >= PATIENCE_S and _is_hung_up(self._stdin):
                return False
        return True

    # --- writing -------------------------------------------------------------------------------

    async def _send(self, sent: ContextReceiveStream[SessionMessage]) -> None:
        async with sent:
            async for message in sent:
                if self._outbox.error is not None:
                    raise self._outbox.error
                self._put(message.message)

    def _put(self, message: JSONRPCMessage) -> None:
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._unanswered.discard(_key(message.id))
            self._changed.set()
        self._outbox.put(_encoded(message) + b"\n")


def _encoded(message: JSONRPCMessage) -> bytes:
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except ValueError:
        # Text that is not Unicode, or a number of thousands of digits; one answer must not end all.
        logger.exception("an answer cannot be written as JSON")
        found = getattr(message, "id", None)
        if found is None or isinstance(message, JSONRPCRequest):
            raise
        error: Any = {"code": INTERNAL_ERROR, "message": "[internal] The answer is no JSON."}
        request_id = found if can_be_sent(found) else None
        return _encoded(JSONRPCError(jsonrpc="2.0", id=request_id, error=error))


def _key(request_id: object) -> str:
    return str(request_id)  # as the SDK does: a cancellation may name 1 as "1"


def _is_hung_up(fd: int) -> bool:
    """Whether the other end of a pipe is closed, though not all that was written has been read."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
