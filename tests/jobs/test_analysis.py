"""The process that looks at images: started, kept, ended. What it sees is in tests/pipelines."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from flux_mcp.errors import EngineUnavailableError, WeightsInvalidError
from flux_mcp.jobs.analysis import AnalysisProcess
from flux_mcp.worker_protocol.analysis import AnalysisModel, DepthMessage, Map

from .conftest import settings_in

PUPPET = """
import sys
from flux_mcp.worker_protocol.analysis import Map, NotDone, parse_request
from flux_mcp.worker_protocol.frames import encode, read_frame_blocking
from flux_mcp.worker_protocol.messages import ErrorInfo
while (frame := read_frame_blocking(sys.stdin.buffer)) is not None:
    parse_request(frame.header)
    wrong = ErrorInfo(code="weights_invalid", message="The weights are not whole.")
    answer = NotDone(error=wrong) if frame.blobs["image"] == b"wrong" else Map()
    sys.stdout.buffer.write(b"".join(encode(answer.model_dump(), {"map": frame.blobs["image"]})))
    sys.stdout.buffer.flush()
"""
"""Speaks the protocol, without the libraries of the real one."""
DEPTH = DepthMessage(model=AnalysisModel(model_class="Any", folder=Path("anywhere")))
_OURS = {"flux_mcp.pipelines.analysis", "puppet.py"}


def puppet(folder: Path, code: str = PUPPET) -> tuple[str, ...]:
    """Return the command that runs a puppet."""
    file = folder / "puppet.py"
    file.write_text(code)
    return (sys.executable, "-u", str(file))


@pytest.fixture
def analysis(tmp_path: Path) -> Iterator[AnalysisProcess]:
    process = AnalysisProcess(settings_in(tmp_path), puppet(tmp_path))
    yield process
    process.close()
    assert _children() == []


def test_an_image_is_answered_by_a_process_that_is_kept(analysis: AnalysisProcess) -> None:
    answer, blobs = analysis.ask(DEPTH, b"one")
    (child,) = _children()
    assert isinstance(answer, Map)
    assert blobs == {"map": b"one"}
    assert analysis.ask(DEPTH, b"two")[1] == {"map": b"two"}
    assert _children() == [child]


def test_requests_of_several_threads_are_answered_one_after_the_other(
    analysis: AnalysisProcess,
) -> None:
    images = [bytes([one]) * 100_000 for one in range(8)]
    found: dict[bytes, bytes] = {}

    def ask(image: bytes) -> None:
        found[image] = analysis.ask(DEPTH, image)[1]["map"]

    threads = [threading.Thread(target=ask, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {image: image for image in images}
    assert len(_children()) == 1


def test_what_it_refuses_is_raised_as_the_error_it_is(analysis: AnalysisProcess) -> None:
    with pytest.raises(WeightsInvalidError, match="not whole"):
        analysis.ask(DEPTH, b"wrong")
    assert analysis.ask(DEPTH, b"right")  # by the same process
    assert len(_children()) == 1


@pytest.mark.torture
def test_the_real_one_says_what_is_wrong_with_the_files_of_a_model(tmp_path: Path) -> None:
    process = AnalysisProcess(settings_in(tmp_path))
    image = io.BytesIO()
    Image.new("RGB", (16, 16)).save(image, "PNG")
    model = AnalysisModel(model_class="DepthAnythingForDepthEstimation", folder=tmp_path)
    with pytest.raises(WeightsInvalidError, match="cannot be loaded"):
        process.ask(DepthMessage(model=model), image.getvalue())
    process.close()
    assert _children() == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_one_that_is_killed_is_replaced(analysis: AnalysisProcess) -> None:
    analysis.ask(DEPTH, b"image")
    (child,) = _children()
    child.kill()
    child.wait()
    assert analysis.ask(DEPTH, b"image")
    assert [one.pid for one in _children()] != [child.pid]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_one_that_ends_while_it_looks_is_told_and_replaced(tmp_path: Path) -> None:
    command = puppet(tmp_path, "import sys; sys.stdin.buffer.read(4); sys.exit(9)")
    process = AnalysisProcess(settings_in(tmp_path), command)
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match="ended"):
            process.ask(DEPTH, b"image")
    process.close()


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    command = puppet(tmp_path, "import time; time.sleep(600)")
    process = AnalysisProcess(settings_in(tmp_path), command, timeout_s=0.2)
    with pytest.raises(EngineUnavailableError, match="longer than"):
        process.ask(DEPTH, b"image")
    assert _children() == []
    process.close()


def test_an_idle_one_ends_and_is_started_again(tmp_path: Path) -> None:
    process = AnalysisProcess(settings_in(tmp_path), puppet(tmp_path), idle_s=0.05)
    process.ask(DEPTH, b"image")
    deadline = time.monotonic() + 30
    while _children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _children() == []
    assert process.ask(DEPTH, b"image")
    process.close()


def test_the_end_of_the_server_does_not_wait_for_a_request(tmp_path: Path) -> None:
    command = puppet(tmp_path, "import time; time.sleep(600)")
    process = AnalysisProcess(settings_in(tmp_path), command)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            process.ask(DEPTH, b"image")
        except EngineUnavailableError as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not _children():
        time.sleep(0.01)
    process.close()
    asking.join(30)
    assert len(raised) == 1
    with pytest.raises(EngineUnavailableError, match="server ends"):
        process.ask(DEPTH, b"image")
    assert _children() == []


def _children() -> list[psutil.Process]:
    """Return the running processes of this test; others belong to fixtures of other tests."""
    children = psutil.Process(os.getpid()).children()
    running = [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
    return [
        one
        for one in running
        if one not in _before and _OURS & {Path(part).name for part in one.cmdline()}
    ]


_before: list[psutil.Process] = []


@pytest.fixture(autouse=True)
def others() -> None:
    """Note what runs before a test."""
    _before.clear()
    _before.extend(_children())
