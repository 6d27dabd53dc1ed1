"""The checks for a CUDA GPU run where there is none, with small parts: they are in order."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from flux_mcp.models.planning.speed import step_flops
from flux_mcp.pipelines.device import Device

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARKS = REPOSITORY / "benchmarks"
COMMAND = [sys.executable, str(BENCHMARKS / "gpu.py")]
TINY = ["--scale", "tiny", "--device", "cpu"]
NEEDS_FP8 = {"dev_fp8_compiled", "schnell_fp8_compiled", "kontext_fp8_compiled"}
RUN = (
    "rates", "dev_bf16", "kontext_bf16", "schnell_bf16_compiled", "dev_fp8_compiled",
    "skipped_steps", "vae", "encoders", "switch_resident", "switch_from_host", "five_kinds",
    "small_gpu_15", "cancel", "server", "out_of_memory", "idle_unload",
)  # fmt: skip
"""Every function of a case at least once; of those that only differ in size, one."""


@pytest.fixture(autouse=True)
def _import_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Behind everything else: their names must not hide those of a library.
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])


def environment() -> dict[str, str]:
    """Without the settings of the tests: they are not the benchmark's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FLUX_MCP_")}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The lines of one run of every function of a case."""
    folder = tmp_path_factory.mktemp("gpu-checks")
    output = folder / "gpu.jsonl"
    only = [part for name in RUN for part in ("--only", name)]
    ended = run(*TINY, *only, "--scratch", folder / "scratch", "--output", output)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "small_gpu_15" in ended.stdout
    return lines


def figures_of(lines: list[dict[str, Any]], case: str) -> dict[str, dict[str, Any]]:
    return {line["figure"]: line for line in lines if line["case"] == case and "figure" in line}


def test_every_case_that_was_asked_for_has_a_last_line_that_says_how_it_ended(tiny):
    ends = {line["case"]: line for line in tiny if line["status"] != "measured"}
    assert list(ends) == list(RUN)
    assert [line["case"] for line in tiny if line["status"] == "not run"] == ["dev_fp8_compiled"]
    assert ends["dev_fp8_compiled"]["reason"] == "needs a GPU of compute capability 8.9"
    assert {line["status"] for line in tiny} == {"measured", "done", "not run"}


def test_a_line_says_when_where_and_with_what_it_was_measured(tiny):
    for line in tiny:
        assert line["benchmark"] == "gpu"
        assert (line["scale"], line["device"]) == ("tiny", "cpu")
        assert line["date"]
        assert line["commit"]
        assert line["run"] == tiny[0]["run"]
        assert line["machine"]["torch"]
        assert line["machine"]["cores"] >= 1
        if line["status"] == "measured":
            assert line["value"] >= 0
            assert (line["goal"], line["reached"]) == (None, None)  # goals are for full size


def test_figures_stand_beside_the_least_that_physics_allows(tiny):
    for case in ("dev_bf16", "kontext_bf16", "schnell_bf16_compiled"):
        found = figures_of(tiny, case)
        assert {"first_image_s", "image_s", "step_s"} <= set(found)
        image, step = found["image_s"], found["step_s"]
        assert image["floor"] > step["floor"] > 0
        assert image["ratio"] == pytest.approx(image["value"] / image["floor"])
        assert step["value"] < image["value"]
    assert (
        figures_of(tiny, "kontext_bf16")["step_s"]["floor"]
        > (figures_of(tiny, "dev_bf16")["step_s"]["floor"])
    )


def test_what_a_goal_is_set_for_is_measured(tiny):
    from gpu_checks.cases import CASES
    from gpu_checks.goals import GOALS

    only_on_a_gpu = {("idle_unload", "left_mib"), ("five_kinds", "held_bytes")}
    for goal in GOALS:
        case = next(case for case in CASES if case.name == goal.case)
        twin = case.name if case.name in RUN and case.name not in NEEDS_FP8 else "dev_bf16"
        if (goal.case, goal.figure) not in only_on_a_gpu:
            assert goal.figure in figures_of(tiny, twin), goal


def test_half_of_the_steps_are_left_out_by_the_fixed_mask(tiny):
    assert figures_of(tiny, "skipped_steps")["computed_share"]["value"] == 0.5


def test_the_server_draws_the_pixels_of_the_bare_pipeline(tiny):
    details = figures_of(tiny, "server")["overhead"]["details"]
    assert details["same_pixels"] == details["images"] > 0


def test_the_vae_is_measured_in_each_way(tiny):
    ways = [
        line["details"]["way"]
        for line in tiny
        if line["case"] == "vae" and line.get("figure") == "decode_s"
    ]
    assert ways == ["plain", "channels last", "channels last, compiled"]


def test_a_plan_for_a_small_gpu_is_what_the_planner_says(tiny):
    details = figures_of(tiny, "small_gpu_15")["image_s"]["details"]
    assert (details["precision"], details["placement"]) != ("bf16", "resident")


def test_a_case_whose_process_dies_fails_and_the_next_ones_run(tmp_path, monkeypatch):
    from gpu_checks.results import Results
    from gpu_checks.runner import Runner

    class Deadly(Results):
        """Kills the process that measures, in its first case."""

        struck = False

        def begin(self) -> None:
            if not self.struck:
                self.struck = True
                below = psutil.Process().children()
                (child,) = (one for one in below if COMMAND[1] in one.cmdline())
                child.kill()

    for name in [name for name in os.environ if name.startswith("FLUX_MCP_")]:
        monkeypatch.delenv(name)
    results = Deadly(tmp_path / "gpu.jsonl", "tiny", "cpu")
    # The first takes seconds: it cannot be over before it is struck.
    Runner(results, "tiny", "cpu", tmp_path).run(["dev_bf16", "dev_fp8_compiled"])
    assert [(line["case"], line["status"], line["reason"]) for line in results.lines] == [
        ("dev_bf16", "failed", "its process ended with -9"),
        ("dev_fp8_compiled", "not run", "needs a GPU of compute capability 8.9"),
    ]
    written = (tmp_path / "gpu.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["case"] for line in written] == [
        line["case"] for line in results.lines
    ]


@pytest.mark.skipif(
    any(Path("/dev").glob("nvidia[0-9]*")), reason="this machine has a GPU to measure"
)
def test_a_device_that_torch_does_not_find_fails_every_case_at_once(tmp_path, monkeypatch):
    from gpu_checks.results import Results
    from gpu_checks.runner import Runner

    for name in [name for name in os.environ if name.startswith("FLUX_MCP_")]:
        monkeypatch.delenv(name)
    results = Results(None, "tiny", "cuda")
    Runner(results, "tiny", "cuda", tmp_path).run(["rates", "vae"])
    assert [(line["case"], line["status"]) for line in results.lines] == [
        ("rates", "failed"),
        ("vae", "failed"),
    ]
    assert "torch finds none" in results.lines[0]["reason"]


def test_what_the_budget_leaves_no_time_for_is_listed_as_not_run(tmp_path):
    output = tmp_path / "gpu.jsonl"
    asked = ("--only", "rates", "--only", "parts", "--budget-s", 0)
    ended = run(*TINY, *asked, "--output", output)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert ended.returncode == 0
    assert [(line["case"], line["status"]) for line in lines] == [
        ("rates", "not run"),
        ("vae", "not run"),
        ("encoders", "not run"),
    ]
    assert lines[0]["reason"] == "the budget of 0 s was used up"


def test_the_list_shows_every_case_and_an_unknown_one_is_refused():
    from gpu_checks.cases import CASES

    listed = run("--list").stdout
    assert all(case.name in listed for case in CASES)
    refused = run("--only", "nonsense")
    assert refused.returncode == 2
    assert "there is no case 'nonsense'" in refused.stderr


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


@pytest.mark.skipif(
    any(Path("/dev").glob("nvidia[0-9]*")), reason="this machine has a GPU to measure"
)
def test_without_a_gpu_it_says_so_and_fails(tmp_path):
    ended = run("--output", tmp_path / "gpu.jsonl")
    assert ended.returncode == 2
    assert "No CUDA GPU" in ended.stderr
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
    """Two ways to the same number: torch's counter on FLUX.1 itself, and a formula."""
    from gpu_checks.scale import FULL
    from gpu_checks.work import square_tokens
    from gpu_checks.work import step_flops as counted

    flops = counted(FULL, square_tokens(1024), 512)
    assert flops.total == pytest.approx(step_flops("flux1-12b", 1024 * 1024 / 1e6), rel=1e-3)
    assert flops.total == pytest.approx(74.38e12, rel=1e-3)
    assert flops.attention / flops.total == pytest.approx(0.2, abs=0.001)


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


def gpu_tests(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tests_for_a_gpu_can_be_collected_without_one():
    ended = gpu_tests("--collect-only")
    assert ended.returncode == 0, ended.stdout[-2000:]
    for module in ("kinds", "cancelling", "formats", "placements", "memory"):
        assert f"tests/gpu/test_{module}.py" in ended.stdout


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="this machine has a GPU to test")
def test_the_tests_for_a_gpu_fail_where_there_is_none():
    ended = gpu_tests()
    assert ended.returncode == 2
    assert "No CUDA GPU" in ended.stdout + ended.stderr


def test_the_tests_for_a_gpu_are_no_part_of_the_usual_run():
    import tomllib

    document = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "tests/gpu" in document["tool"]["pytest"]["ini_options"]["norecursedirs"]
