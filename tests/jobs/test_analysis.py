"""The process that looks at images: started, kept, ended. What it sees is in tests/pipelines."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image, ImageDraw

from flux_mcp.errors import EngineUnavailableError, WeightsInvalidError
from flux_mcp.jobs.analysis import AnalysisProcess
from flux_mcp.worker_protocol.analysis import AnalysisModel, DepthMessage, EdgesMessage, Map

from .conftest import settings_in

EDGES = EdgesMessage(low=50, high=200)
_OURS = {"flux_mcp.pipelines.analysis", "puppet.py"}


@pytest.fixture
def analysis(tmp_path: Path) -> Iterator[AnalysisProcess]:
    process = AnalysisProcess(settings_in(tmp_path))
    yield process
    process.close()
    assert _children() == []


def test_an_image_is_answered_by_a_process_that_is_kept(analysis: AnalysisProcess) -> None:
    answer, blobs = analysis.ask(EDGES, _png())
    (child,) = _children()
    assert isinstance(answer, Map)
    lines = np.frombuffer(blobs["map"], np.uint8).reshape(48, 64)
    assert set(np.unique(lines)) == {0, 255}
    assert lines[24, 10:20].any()
    assert not lines[24, 20:60].any()
    analysis.ask(EDGES, _png())
    assert _children() == [child]


def test_requests_of_several_threads_are_answered_one_after_the_other(
    analysis: AnalysisProcess,
) -> None:
    sizes = [(64 + 8 * one, 48) for one in range(8)]
    found: dict[tuple[int, int], int] = {}

    def ask(size: tuple[int, int]) -> None:
        found[size] = len(analysis.ask(EDGES, _png(size))[1]["map"])

    threads = [threading.Thread(target=ask, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {size: size[0] * size[1] for size in sizes}
    assert len(_children()) == 1


def test_what_it_refuses_is_raised_as_the_error_it_is(
    analysis: AnalysisProcess, tmp_path: Path
) -> None:
    model = AnalysisModel(model_class="DepthAnythingForDepthEstimation", folder=tmp_path)
    with pytest.raises(WeightsInvalidError, match="cannot be loaded"):
        analysis.ask(DepthMessage(model=model), _png())
    assert analysis.ask(EDGES, _png())  # by the same process
    assert len(_children()) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_one_that_is_killed_is_replaced(analysis: AnalysisProcess) -> None:
    analysis.ask(EDGES, _png())
    (child,) = _children()
    child.kill()
    child.wait()
    assert analysis.ask(EDGES, _png())
    assert [one.pid for one in _children()] != [child.pid]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_one_that_ends_while_it_looks_is_told_and_replaced(tmp_path: Path) -> None:
    puppet = tmp_path / "puppet.py"
    puppet.write_text("import sys; sys.stdin.buffer.read(4); sys.exit(9)")
    process = AnalysisProcess(settings_in(tmp_path), (sys.executable, str(puppet)))
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match="ended"):
            process.ask(EDGES, _png())
    process.close()


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    puppet = tmp_path / "puppet.py"
    puppet.write_text("import time; time.sleep(600)")
    process = AnalysisProcess(settings_in(tmp_path), (sys.executable, str(puppet)), timeout_s=0.2)
    with pytest.raises(EngineUnavailableError, match="longer than"):
        process.ask(EDGES, _png())
    assert _children() == []
    process.close()


def test_an_idle_one_ends_and_is_started_again(tmp_path: Path) -> None:
    process = AnalysisProcess(settings_in(tmp_path), idle_s=0.05)
    process.ask(EDGES, _png())
    deadline = time.monotonic() + 30
    while _children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _children() == []
    assert process.ask(EDGES, _png())
    process.close()


def test_the_end_of_the_server_does_not_wait_for_a_request(tmp_path: Path) -> None:
    puppet = tmp_path / "puppet.py"
    puppet.write_text("import time; time.sleep(600)")
    process = AnalysisProcess(settings_in(tmp_path), (sys.executable, str(puppet)))
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            process.ask(EDGES, _png())
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
        process.ask(EDGES, _png())
    assert _children() == []


def _children() -> list[psutil.Process]:
    """Return the running processes of these tests; others may have been left by other tests."""
    children = psutil.Process(os.getpid()).children()
    running = [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in running if _OURS & {Path(part).name for part in one.cmdline()}]


def _png(size: tuple[int, int] = (64, 48)) -> bytes:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((16, 8, 60, 40), fill="navy")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
