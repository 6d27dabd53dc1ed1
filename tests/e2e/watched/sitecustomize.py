"""Python imports this at its start: every connection of the process is written down.

Not of the test's own process; `test_downloads.py` puts this folder before others for those it
starts. Audit hooks see what C extensions do through the socket module, and cannot be taken out.
"""

import os
import sys


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event not in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        return
    where = arguments[1] if event != "socket.getaddrinfo" else arguments[0]
    if isinstance(where, (str, bytes)) and event != "socket.getaddrinfo":
        return  # a socket of this machine's own
    descriptor = os.open(os.environ["CONNECTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{sys.argv[0]} {event} {where}\n".encode())
    os.close(descriptor)


if "CONNECTIONS" in os.environ:
    sys.addaudithook(_note)
