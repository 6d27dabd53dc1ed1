"""The checks for a CUDA GPU run where there is none, with small parts: they are in order."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flux_mcp.models.planning.speed import step_flops
from flux_mcp.pipelines.device import Device

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARKS = REPOSITORY / "benchmarks"
HAS_GPU = any(Path("/dev").glob("nvidia[0-9]*"))
COMMAND = [sys.executable, str(BENCHMARKS / "gpu.py")]
TINY = ["--scale", "tiny", "--device", "cpu"]
FEW = ("schnell_bf16", "small_gpu_15")
"""A bare pipeline, and the engine with weights on disk. Each case is a process with torch."""
NEEDS_FP8 = {"dev_fp8_compiled", "schnell_fp8_compiled", "kontext_fp8_compiled"}
MANY = (
    "rates", "dev_bf16", "kontext_bf16", "schnell_bf16_compiled", "dev_fp8_compiled",
    "skipped_steps", "vae", "encoders", "switch_resident", "switch_from_host", "five_kinds",
    "small_gpu_15", "cancel", "server", "out_of_memory", "idle_unload",
)  # fmt: skip
"""Every function of a case at least once; of those that only differ in size, one."""

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _import_the_benchmarks() -> Iterator[None]:
    # Behind everything else: their names must not hide those of a library.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
        yield


@pytest.fixture(scope="module")
def own_settings() -> Iterator[None]:
    """Without the settings of the tests: they are not the benchmark's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FLUX_MCP_")]:
            patch.delenv(name)
        yield


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; return its exit code."""
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    return gpu.main()


def lines_of(file: Path) -> Lines:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Run:
    """One run: its lines as they lie in the file, and the table of them."""

    lines: Lines
    table: str


def run_cases(names: Sequence[str], folder: Path) -> Run:
    output = folder / "gpu.jsonl"
    only = [part for name in names for part in ("--only", name)]
    ended = run(*TINY, *only, "--scratch", folder / "scratch", "--output", output)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return Run(lines_of(output), ended.stdout)


@pytest.fixture(scope="module")
def few(own_settings: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_cases(FEW, tmp_path_factory.mktemp("gpu-checks"))


@pytest.fixture(scope="module")
def many(own_settings: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_cases(MANY, tmp_path_factory.mktemp("gpu-checks"))


def figures_of(lines: list[dict[str, Any]], case: str) -> dict[str, dict[str, Any]]:
    return {line["figure"]: line for line in lines if line["case"] == case and "figure" in line}


def ends_of(lines: Lines) -> dict[str, tuple[str, str]]:
    return {
        line["case"]: (line["status"], line["reason"])
        for line in lines
        if line["status"] != "measured"
    }


NO_FP8 = ("not run", "needs a GPU of compute capability 8.9")


def check_lines(run: Run) -> None:
    """A line says when, where and with what it was measured."""
    for line in run.lines:
        assert line["benchmark"] == "gpu"
        assert (line["scale"], line["device"]) == ("tiny", "cpu")
        assert line["date"]
        assert line["commit"]
        assert line["run"] == run.lines[0]["run"]
        assert line["machine"]["torch"]
        assert line["machine"]["cores"] >= 1
        if line["status"] == "measured":
            assert line["value"] >= 0
            assert (line["goal"], line["reached"]) == (None, None)  # goals are for full size


def check_floors(found: dict[str, dict[str, Any]]) -> None:
    """Figures of a drawing stand beside the least that physics allows."""
    assert {"first_image_s", "image_s", "step_s"} <= set(found)
    image, step = found["image_s"], found["step_s"]
    assert image["floor"] > step["floor"] > 0
    assert image["ratio"] == pytest.approx(image["value"] / image["floor"])
    assert step["value"] < image["value"]


def check_small_gpu(lines: Lines) -> None:
    """A plan for a small GPU is what the planner says."""
    details = figures_of(lines, "small_gpu_15")["image_s"]["details"]
    assert (details["precision"], details["placement"]) != ("bf16", "resident")


def check_ends(run: Run, names: Sequence[str]) -> None:
    """Every case that was asked for has a last line that says how it ended, and is shown."""
    ends = ends_of(run.lines)
    assert list(ends) == list(names)
    assert ends == {name: NO_FP8 if name in NEEDS_FP8 else ("done", "") for name in names}
    assert all(name in run.table for name in names)


@pytest.mark.torture
def test_what_a_few_cases_measure_is_told_whole(few: Run):
    check_ends(few, FEW)
    check_lines(few)
    check_floors(figures_of(few.lines, "schnell_bf16"))
    check_small_gpu(few.lines)


def test_every_case_has_a_function_and_every_function_runs_in_the_long_run():
    from gpu_checks.cases import CASES

    functions = {case.name: (case.module, case.function) for case in CASES}
    for module, function in functions.values():
        assert callable(getattr(importlib.import_module(f"gpu_checks.{module}"), function))
    assert {functions[name] for name in MANY} == set(functions.values())


@pytest.mark.torture
def test_every_case_that_was_asked_for_has_a_last_line_that_says_how_it_ended(many: Run):
    check_ends(many, MANY)
    check_lines(many)
    assert {"t5_s", "clip_s", "reference_s"} <= set(figures_of(many.lines, "encoders"))


@pytest.mark.torture
def test_figures_stand_beside_the_least_that_physics_allows(many: Run):
    for case in ("dev_bf16", "kontext_bf16", "schnell_bf16_compiled"):
        check_floors(figures_of(many.lines, case))
    assert (
        figures_of(many.lines, "kontext_bf16")["step_s"]["floor"]
        > (figures_of(many.lines, "dev_bf16")["step_s"]["floor"])
    )
    check_small_gpu(many.lines)


@pytest.mark.torture
def test_what_a_goal_is_set_for_is_measured(many: Run):
    from gpu_checks.cases import CASES
    from gpu_checks.goals import GOALS

    only_on_a_gpu = {("idle_unload", "left_mib"), ("five_kinds", "held_bytes")}
    for goal in GOALS:
        case = next(case for case in CASES if case.name == goal.case)
        twin = case.name if case.name in MANY and case.name not in NEEDS_FP8 else "dev_bf16"
        if (goal.case, goal.figure) not in only_on_a_gpu:
            assert goal.figure in figures_of(many.lines, twin), goal


@pytest.mark.torture
def test_half_of_the_steps_are_left_out_by_the_fixed_mask(many: Run):
    assert figures_of(many.lines, "skipped_steps")["computed_share"]["value"] == 0.5


@pytest.mark.torture
def test_the_server_draws_the_pixels_of_the_bare_pipeline(many: Run):
    details = figures_of(many.lines, "server")["overhead"]["details"]
    assert details["same_pixels"] == details["images"] > 0


@pytest.mark.torture
def test_the_vae_is_measured_in_each_way(many: Run):
    ways = [
        line["details"]["way"]
        for line in many.lines
        if line["case"] == "vae" and line.get("figure") == "decode_s"
    ]
    assert ways == ["plain", "channels last", "channels last, compiled"]


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU to measure")
def test_a_device_that_torch_does_not_find_fails_every_case_at_once(own_settings, tmp_path):
    from gpu_checks.results import Results
    from gpu_checks.runner import Runner

    results = Results(None, "tiny", "cuda")
    Runner(results, "tiny", "cuda", tmp_path).run(["rates", "vae"])
    assert [(line["case"], line["status"]) for line in results.lines] == [
        ("rates", "failed"),
        ("vae", "failed"),
    ]
    assert "torch finds none" in results.lines[0]["reason"]


PUPPET = """
import json, sys, threading
def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)
say("ready", environment={"torch": "none", "device_name": "puppet"})
for case in sys.argv[1:]:
    say("begin", case=case)
    if case == "vae":
        threading.Event().wait()
    say("figure", case=case, name="seconds", value=1.0, unit="s", floor=0.5, details={})
    say("end", case=case, status="done")
"""
"""A child that measures nothing, and waits in one case until somebody ends it."""


def test_a_case_whose_process_dies_fails_and_the_next_ones_run(own_settings, tmp_path, monkeypatch):
    from gpu_checks.results import Results
    from gpu_checks.runner import Runner

    class Deadly(Results):
        """Kills the process that measures, in its second case."""

        begun = 0

        def begin(self) -> None:
            self.begun += 1
            if self.begun == 2:
                below = psutil.Process().children()
                (child,) = (one for one in below if PUPPET in one.cmdline())
                child.kill()

    monkeypatch.setattr(
        Runner, "_command", lambda _runner, names: [sys.executable, "-c", PUPPET, *names]
    )
    results = Deadly(tmp_path / "gpu.jsonl", "tiny", "cpu")
    Runner(results, "tiny", "cpu", tmp_path).run(["rates", "vae", "encoders"])
    assert lines_of(tmp_path / "gpu.jsonl") == results.lines
    assert ends_of(results.lines) == {
        "rates": ("done", ""),
        "vae": ("failed", "its process ended with -9"),
        "encoders": ("done", ""),
    }
    assert set(figures_of(results.lines, "vae")) == set()
    assert figures_of(results.lines, "encoders")["seconds"]["ratio"] == 2.0


def test_what_the_budget_leaves_no_time_for_is_listed_as_not_run(
    own_settings, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "gpu.jsonl"
    asked = ("--only", "rates", "--only", "parts", "--budget-s", 0)
    assert run_here(monkeypatch, *TINY, *asked, "--output", output) == 0
    reason = "the budget of 0 s was used up"
    assert ends_of(lines_of(output)) == dict.fromkeys(
        ("rates", "vae", "encoders"), ("not run", reason)
    )
    assert "encoders" in capsys.readouterr().out


def test_the_list_shows_every_case_and_an_unknown_one_is_refused(monkeypatch, capsys):
    from gpu_checks.cases import CASES

    assert run_here(monkeypatch, "--list") == 0
    listed = capsys.readouterr().out
    assert all(case.name in listed for case in CASES)
    with pytest.raises(SystemExit) as refused:
        run_here(monkeypatch, "--only", "nonsense")
    assert refused.value.code == 2
    assert "there is no case 'nonsense'" in capsys.readouterr().err


def test_the_page_names_every_case_with_its_goal():
    from gpu_checks.cases import CASES
    from gpu_checks.goals import GOALS

    page = (REPOSITORY / "docs" / "gpu.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for case in CASES:
        assert any(f"`{case.name}`" in row.split("|")[1] for row in rows), case.name
    for goal in GOALS:
        (row,) = (row for row in rows if f"`{goal.case}`" in row.split("|")[1])
        told = {f"{goal.at_most:g}", f"{goal.at_most * 1000:g} ms"}
        assert any(number in row.split("|")[3] for number in told), goal


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU to measure")
def test_without_a_gpu_it_says_so_and_fails(monkeypatch, capsys, tmp_path):
    assert run_here(monkeypatch, "--output", tmp_path / "gpu.jsonl") == 2
    assert "No CUDA GPU" in capsys.readouterr().err
    assert not (tmp_path / "gpu.jsonl").exists()


def test_a_gpu_that_is_too_small_for_a_case_is_told_what_it_needs(tmp_path):
    from gpu_checks.bench import Bench, NotRunError
    from gpu_checks.cases import CASES
    from gpu_checks.scale import FULL

    class SmallGpu(Bench):
        free_gib = 23.6

    class NoGpu(Bench):
        free_gib = None

    cases = {case.name: case for case in CASES}
    given = (FULL, Device("cpu"), tmp_path, print, print)
    with pytest.raises(NotRunError, match=r"needs 40 GiB of the GPU, 23\.6 are free"):
        cases["dev_bf16"].needs.check(SmallGpu(*given))
    with pytest.raises(NotRunError, match="needs a CUDA GPU"):
        cases["dev_bf16"].needs.check(NoGpu(*given))
    cases["rates"].needs.check(SmallGpu(*given))
    no_ram = replace(cases["small_gpu_8"].needs, ram_gib=10**6)
    with pytest.raises(NotRunError, match="needs 1e\\+06 GiB of host memory"):
        no_ram.check(SmallGpu(*given))


# --- the numbers every figure is divided by -------------------------------------------------------


def test_the_counted_work_of_a_step_is_that_of_the_planner(torch_threads):
    """Two ways to the same number: torch's counter on FLUX.1's own blocks, and a formula.

    All blocks of a sort are alike: what one more of each adds is counted, and taken as often as
    there are blocks.
    """
    from gpu_checks.scale import FULL
    from gpu_checks.work import Flops, square_tokens
    from gpu_checks.work import step_flops as counted

    def flops_of(double: int, single: int) -> Flops:
        blocks = {"num_layers": double, "num_single_layers": single}
        scale = replace(FULL, transformer={**FULL.transformer, **blocks})
        return counted(scale, square_tokens(1024), 512)

    one, more_double, more_single = flops_of(1, 1), flops_of(2, 1), flops_of(1, 2)
    double, single = (FULL.transformer[name] - 1 for name in ("num_layers", "num_single_layers"))

    def whole(part: str) -> float:
        least = getattr(one, part)
        return (
            least
            + double * (getattr(more_double, part) - least)
            + single * (getattr(more_single, part) - least)
        )

    assert whole("total") == pytest.approx(step_flops("flux1-12b", 1024 * 1024 / 1e6), rel=1e-3)
    assert whole("total") == pytest.approx(74.38e12, rel=1e-3)
    assert whole("attention") / whole("total") == pytest.approx(0.2, abs=0.001)


def test_a_floor_is_the_sum_of_its_parts():
    from gpu_checks.rates import Rates
    from gpu_checks.scale import TINY as SCALE
    from gpu_checks.work import (
        ELEMENTWISE_BYTES,
        Drawing,
        image_floor_s,
        step_floor_s,
        step_flops,
        text_flops,
        vae_flops,
    )

    rates = Rates(
        product=1e9,
        product_fp8=2e9,
        attention={"flash/700": 5e8, "cudnn/700": 6e8, "flash/100000": 1e12},
        copy_on_device=1e8,
        to_device_pinned=1.0,
        to_device=1.0,
        from_device_pinned=1.0,
    )
    drawing = Drawing(steps=4, side_px=256, text_tokens=512)
    flops = step_flops(SCALE, 256, 512)
    elementwise = ELEMENTWISE_BYTES * 768 * SCALE.width * SCALE.blocks
    beside = flops.attention / 6e8 + elementwise / 1e8
    step = step_floor_s(drawing, SCALE, rates)
    assert step == pytest.approx(flops.linear / 1e9 + beside)
    in_fp8 = step_floor_s(drawing, SCALE, rates, fp8=True)
    assert in_fp8 == pytest.approx(flops.linear / 2e9 + beside)
    ends = text_flops(SCALE, 512).total + vae_flops(SCALE, 256)[0].total
    assert image_floor_s(drawing, SCALE, rates) == pytest.approx(4 * step + ends / 1e9)
    assert step_floor_s(drawing, SCALE, replace(rates, product_fp8=None), fp8=True) is None


def test_a_goal_counts_on_the_gpu_it_is_meant_for():
    from gpu_checks.goals import Goal, is_reached

    seconds = Goal("dev", "image_s", 3.4, "value", "H200")
    assert is_reached(seconds, "NVIDIA H200", 3.4, 2.9) is True
    assert is_reached(seconds, "NVIDIA H200", 3.5, 2.9) is False
    assert is_reached(seconds, "NVIDIA GeForce RTX 4090", 9.0, 8.0) is None
    ratio = Goal("switch", "switch_s", 1.1, "ratio")
    assert is_reached(ratio, "any", 1.1, 1.0) is True
    assert is_reached(ratio, "any", 1.2, 1.0) is False
    assert is_reached(ratio, "any", 1.2, None) is None


def test_what_the_drivers_tool_cannot_tell_is_left_out():
    from gpu_checks.gpu import parse_gpu

    line = "NVIDIA H200, 580.65.06, 143771, 4, 1980, 3201, 121.53, 700.00, 34\n"
    told = parse_gpu(line)
    assert (told["name"], told["driver"]) == ("NVIDIA H200", "580.65.06")
    assert (told["used_mib"], told["sm_mhz"], told["power_w"]) == (4.0, 1980.0, 121.53)
    assert "power_w" not in parse_gpu(line.replace("121.53", "[N/A]"))
    assert parse_gpu("No devices were found\n") == {}


# --- models without a download --------------------------------------------------------------------


@pytest.fixture
def torch_threads() -> Any:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_random_parts_are_of_realistic_size_and_the_same_each_time(torch_threads):
    import torch
    from gpu_checks import parts
    from gpu_checks.scale import TINY as SCALE

    one, other = (parts.transformer(SCALE, "cpu").state_dict() for _ in range(2))
    assert all(one[name].equal(other[name]) for name in one)
    assert torch.get_default_dtype() == torch.float32
    for name, tensor in one.items():
        assert tensor.dtype == torch.bfloat16, name
        assert tensor.isfinite().all(), name
        assert (tensor != 0).float().mean() > 0.98, name
        assert tensor.abs().max() < 8, name


def test_a_transformer_is_quantised_as_the_product_would(torch_threads):
    from gpu_checks import parts
    from gpu_checks.drawing_cases import quantise
    from gpu_checks.scale import TINY as SCALE
    from torchao.quantization import Int8Tensor

    model = parts.transformer(SCALE, "cpu")
    quantise(model, "int8")
    assert isinstance(model.transformer_blocks[0].attn.to_q.weight, Int8Tensor)
    with pytest.raises(ValueError, match="nothing that torchao makes"):
        quantise(model, "bf16")


def test_a_file_of_zeros_is_read_like_any_other_and_takes_no_disk(tmp_path):
    from gpu_checks.folders import write_holes
    from safetensors.torch import load_file

    path = tmp_path / "zeros.safetensors"
    write_holes(path, {"weight": (4096, 4096), "bias": (7,)})
    tensors = load_file(path)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "weight": (4096, 4096),
        "bias": (7,),
    }
    assert not any(tensor.any() for tensor in tensors.values())
    assert path.stat().st_size > 4096 * 4096 * 2
    assert path.stat().st_blocks * 512 < 100_000


# --- the tests for a GPU -------------------------------------------------------------------------


def test_the_tests_for_a_gpu_can_be_imported_without_one_and_refuse_to_run_then():
    names = [file.stem for file in (REPOSITORY / "tests" / "gpu").glob("test_*.py")]
    assert len(names) > 4
    for name in names:
        importlib.import_module(f"tests.gpu.{name}")
    loop = importlib.import_module("tests.gpu.conftest").pytest_runtestloop
    for collects, device in ((True, "cuda"), (False, "cpu")):
        option = SimpleNamespace(collectonly=collects, gpu_device=device)
        loop(SimpleNamespace(config=SimpleNamespace(option=option)))
    if not HAS_GPU:
        option = SimpleNamespace(collectonly=False, gpu_device="cuda")
        with pytest.raises(pytest.exit.Exception, match="No CUDA GPU") as refused:
            loop(SimpleNamespace(config=SimpleNamespace(option=option)))
        assert refused.value.returncode == 2


@pytest.mark.torture
def test_the_tests_for_a_gpu_can_be_collected_without_one_and_fail_then():
    # Where there is a GPU they would run, and they are not asked for here.
    only_collect = ["--collect-only"] if HAS_GPU else []
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", "-p", "no:cacheprovider", *only_collect],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    # With a module that cannot be collected the line goes on: "/ 1 error".
    collected = re.search(r"^collected (\d+) items$", ended.stdout, re.MULTILINE)
    assert collected is not None, ended.stdout[-2000:]
    assert int(collected[1]) > 50
    if not HAS_GPU:
        assert ended.returncode == 2
        assert "No CUDA GPU" in ended.stdout + ended.stderr


def test_the_tests_for_a_gpu_are_no_part_of_the_usual_run():
    import tomllib

    document = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "tests/gpu" in document["tool"]["pytest"]["ini_options"]["norecursedirs"]
