"""What a server over HTTP asks of its process: read back from a process that served."""

import gc
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flux_mcp.server.transports.http import FULL_COLLECTION_EVERY, SWITCH_INTERVAL_S, _listen
from flux_mcp.settings.settings import Settings

# Serves until all is open, ends as a signal would end it, and says how the process was left.
SERVED = """
import asyncio, gc, json, os, signal, sys
from flux_mcp.settings.settings import Settings
from flux_mcp.server.app import FluxServer
from flux_mcp.server.on_demand import OnDemand
from flux_mcp.server.transports.http import serve_http
from flux_mcp.service.service import Service

class Once(FluxServer):
    async def announce_changes(self):
        await service.open()
        os.kill(os.getpid(), signal.SIGTERM)

settings = Settings(data_dir=sys.argv[1], transport="http", port=0, loopback_without_token=True)
service = Service(settings, executes=False)
serve_http(service, Once(OnDemand.ready(service), settings))
print(json.dumps([sys.getswitchinterval(), gc.get_freeze_count(), gc.get_threshold()]))
"""
# Counts the heaps that malloc has made for four threads which all hold some memory.
HEAPS = """
import ctypes, sys, threading

if sys.argv[1] == "shared":
    from flux_mcp.server.transports.http import share_heap

    share_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)

def hold():
    libc.malloc(5000)
    together.wait()

threads = [threading.Thread(target=hold) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_databases_thread_is_let_in_soon_and_full_collections_are_short_and_rare(
    tmp_path: Path,
) -> None:
    switch_interval_s, frozen, thresholds = json.loads(run(SERVED, str(tmp_path / "data")))
    assert switch_interval_s == pytest.approx(SWITCH_INTERVAL_S)
    assert frozen > 50_000
    assert thresholds == [*gc.get_threshold()[:2], FULL_COLLECTION_EVERY]


@pytest.mark.skipif(sys.platform != "linux", reason="heaps of glibc")
def test_all_threads_share_one_heap(tmp_path: Path) -> None:
    info = tmp_path / "malloc_info.xml"
    run(HEAPS, "alone", str(info))
    if "<heap nr=" not in info.read_text():
        pytest.skip("another C library")
    assert info.read_text().count("<heap nr=") > 1
    run(HEAPS, "shared", str(info))
    assert info.read_text().count("<heap nr=") == 1


def test_no_answer_waits_for_an_acknowledgement(tmp_path: Path) -> None:
    """Accepted connections have Nagle's algorithm off, as asyncio's own listeners have."""
    settings = Settings(data_dir=tmp_path, transport="http", port=0)
    with (
        _listen(settings, backlog=16) as listener,
        socket.create_connection(listener.getsockname()[:2]),
    ):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
