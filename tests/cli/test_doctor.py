"""`flux-mcp doctor` as people and programs meet it, on machines that files stand in for.

The driver's tool is a real program on PATH; torch of another build is a distribution's files in
front of the installed ones: `doctor` imports it no more than the real one.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from flux_mcp import __version__
from flux_mcp.cli.doctor import print_examination
from flux_mcp.doctor import machine
from flux_mcp.doctor.advice import next_steps
from flux_mcp.doctor.facts import Examination
from flux_mcp.jobs.scheduler import TimedJob
from flux_mcp.models.planning.candidates import Choices
from flux_mcp.models.planning.machine import GpuReader, nvidia_tool, this_load_support
from flux_mcp.models.planning.recommending import usual
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.planning.tiers import choose_tier
from flux_mcp.models.registry import QUALITIES, ROW_KINDS, load_registry
from flux_mcp.service.service import Service
from flux_mcp.settings.installation import command_path
from flux_mcp.settings.settings import Settings
from tests.e2e.light import light_worker
from tests.models.hub import put_in_hub_cache
from tests.models.nvidia import RTX_4090, gpu, program, put_nvidia_smi

from .processes import Cli, Ended

KLEIN = "black-forest-labs/FLUX.2-klein-4B"
SCHNELL = "black-forest-labs/FLUX.1-schnell"
DEV = "black-forest-labs/FLUX.1-dev"
FLUX2_DEV = "black-forest-labs/FLUX.2-dev"
OURS = command_path("flux-mcp")


class Machine:
    """A data folder, a driver's tool, a build of torch; and `flux-mcp doctor` on them."""

    def __init__(self, folder: Path, weights_dir: Path) -> None:
        self._folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.site: Path | None = None
        self.cli = Cli(folder / "data", weights_dir)
        self.settings = Settings(data_dir=self.cli.data_dir, weights_dir=weights_dir)

    def put_torch(self, version: str, cuda: str | None, says: str | None = None) -> None:
        self.site = self._folder / "site"
        info = self.site / f"torch-{version}.dist-info"
        for folder in (info, self.site / "torch"):
            folder.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n", encoding="utf-8"
        )
        (self.site / "torch" / "version.py").write_text(
            f"__version__ = {(says or version)!r}\ncuda = {cuda!r}\nhip = None\n", encoding="utf-8"
        )

    def environment(self, **more: str) -> dict[str, str]:
        paths = [str(self.site)] if self.site else []
        paths += filter(None, [os.environ.get("PYTHONPATH", "")])
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        return {"PATH": path, "PYTHONPATH": os.pathsep.join(paths), **more}

    def __call__(self, *flags: str, **environment: str) -> Ended:
        path = [str(self.site), *sys.path] if self.site else sys.path
        with patch.object(sys, "path", path):
            return self.cli("doctor", *flags, **self.environment(**environment))

    def found(self, *flags: str, **environment: str) -> Examination:
        ended = self("--json", *flags, **environment)
        assert ended.code == 0, ended.err
        return Examination.model_validate(ended.json)


@pytest.fixture
def bare(tmp_path: Path, weights_dir: Path) -> Machine:
    """A machine without a GPU."""
    if nvidia_tool() is not None:
        pytest.skip("this machine has a GPU")
    return Machine(tmp_path, weights_dir)


@pytest.fixture
def gamer(tmp_path: Path, weights_dir: Path) -> Machine:
    """An RTX 4090 of which 20,000 of 24,564 MiB are free, and a torch for it."""
    machine = Machine(tmp_path, weights_dir)
    put_nvidia_smi(machine.bin, [gpu()])
    machine.put_torch("2.13.0", "13.0")
    return machine


Prints = Callable[[Examination], str]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prints:
    """Print what was found as the command does, in eighty columns, without a process of its own."""
    monkeypatch.setenv("COLUMNS", "80")

    def print_it(found: Examination) -> str:
        print_examination(found)
        return capsys.readouterr().out

    return print_it


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def steps(found: Examination) -> list[str]:
    return [f"{step.text} {step.command or ''}" for step in found.next]


def fits(found: Examination, kind: str, quality: str) -> Any:
    (row,) = (row for row in found.fits.rows if (row.kind, row.quality) == (kind, quality))
    return row


# --- without a GPU ------------------------------------------------------------------------------


def test_without_a_gpu_micro_draws_and_what_a_gpu_would_give_is_told(
    bare: Machine, printed: Prints
):
    found = bare.found()
    assert (found.version, found.gpus, found.driver_problem) == (__version__, (), None)
    assert (found.device.kind, found.device.obstacle) == ("cpu", "no_gpu")
    assert found.disk.data_dir == str(bare.cli.data_dir)
    assert found.disk.free_gib > 0
    assert found.packages["torch"] == found.torch.version or found.torch.version is not None
    assert all(row.now is not None and row.now.is_demonstration for row in found.fits.rows)
    assert [one.vram_gib for one in found.with_a_gpu] == sorted(
        one.vram_gib for one in found.with_a_gpu
    )
    assert all(one.fit.model and one.fit.peak_gib for one in found.with_a_gpu)
    ended = bare()
    assert (ended.code, ended.err) == (0, "")
    assert "micro, a demonstration that needs no GPU" in ended.out
    assert "With a GPU (generate" in ended.out
    assert ended.out.splitlines()[0] == printed(found).splitlines()[0]


def test_what_to_pull_first_is_free_and_asks_for_no_account(bare: Machine):
    found = bare.found()
    assert found.pulls[0].model == "flux2-klein-4b"
    assert found.pulls[0].licence_pages == ()
    assert found.pulls[0].kinds == ("text2img", "kontext")
    assert [kind for pull in found.pulls for kind in pull.kinds] == list(ROW_KINDS)
    redux = next(pull for pull in found.pulls if pull.kinds == ("redux",))
    assert redux.licence_pages == (
        "https://huggingface.co/black-forest-labs/FLUX.1-Redux-dev",
        f"https://huggingface.co/{DEV}",
    ), "its base is to be downloaded as well, and is gated too"
    try_it, free, gated, connect = steps(found)
    assert try_it == f'Try it: {OURS} generate "a red circle on a blue background"'
    assert free.endswith(f"{OURS} models pull flux2-klein-4b --data-dir {bare.cli.data_dir}")
    assert "First accept the licence at https://huggingface.co/" in gated
    assert " models pull flux1-fill-dev flux1-canny-dev flux1-redux-dev " in gated
    assert connect == f"Connect an MCP client: {OURS} connect"


def test_a_disk_without_room_is_told_first_and_beside_what_to_pull(bare: Machine):
    first, *_, free, _, _ = steps(bare.found(FLUX_MCP_DISK_RESERVE_GIB="1e9"))
    assert first.startswith("The disk is nearly full")
    assert "are free: make room first." in free


def test_a_data_folder_on_a_network_is_told_first(bare: Machine, monkeypatch: pytest.MonkeyPatch):
    assert bare.found().disk.network is None
    monkeypatch.setattr(machine, "network_file_system", lambda _: "nfs4")
    disk = machine.disk_of(bare.settings)
    found = bare.found().model_copy(update={"disk": disk})
    (step, *_) = next_steps(found, lambda _: "", "")
    assert "network file system (nfs4)" in step.text


def test_it_reads_well_in_eighty_columns(gamer: Machine, printed: Prints):
    put_in_hub_cache(gamer.settings, SCHNELL)
    put_in_hub_cache(gamer.settings, FLUX2_DEV)
    put_nvidia_smi(gamer.bin, [gpu()], [program(os.getpid(), 3072)])
    found = gamer.found()
    text = printed(found)
    for line in text.splitlines():
        is_path_alone = re.fullmatch(r"(\w+)? +/\S+", line)
        is_command = line.strip() in {step.command for step in found.next}
        assert len(line) <= 80 or is_path_alone or is_command
    for step in found.next:
        if step.command is not None:
            assert f"    {step.command}\n" in text, "commands stay on one line, to be copied"
    assert len(text.splitlines()) < 100, "no wall of text"


def test_neither_torch_nor_the_network_is_touched(bare: Machine):
    loaded = bare.cli.imports(("doctor",))
    assert "flux_mcp.doctor.examine" in loaded
    assert not loaded & {
        "torch",
        "diffusers",
        "transformers",
        "httpx2",
        "flux_mcp.models.hub.process",
    }


# --- with a GPU -------------------------------------------------------------------------------


def test_with_a_gpu_what_fits_is_what_the_planner_says(gamer: Machine, printed: Prints):
    put_in_hub_cache(gamer.settings, SCHNELL)
    found = gamer.found()
    (one,) = found.gpus
    assert (one.name, one.driver, one.compute) == (RTX_4090, "580.95.05", 8.9)
    assert (one.total_gib, one.free_gib) == (23.99, 19.53)
    assert (found.device.kind, found.device.gpu) == ("cuda", RTX_4090)
    assert (found.torch.build, found.torch.cuda, found.torch.least_driver) == ("cuda", "13.0", 580)
    assert [(row.kind, row.quality) for row in found.fits.rows] == [
        (kind, quality) for kind in ROW_KINDS for quality in QUALITIES
    ]
    now, pulled = fits(found, "text2img", "standard").now, fits(found, "text2img", "high").pulled
    assert now.model == "flux1-schnell"
    registry = load_registry()
    choices = Choices(registry, lambda row: row.id == "flux1-schnell", this_load_support())
    machine = GpuReader(gamer.cli.data_dir, str(gamer.bin / "nvidia-smi")).read()
    assert machine is not None
    planned = choose_tier(usual("text2img", "standard"), machine, choices)
    assert planned is not None
    loaded_as = planned.chosen.loaded_as
    assert (now.precision, now.text_precision) == (loaded_as.precision, loaded_as.text_precision)
    assert (now.placement, now.vae_tile_px) == (loaded_as.placement, loaded_as.tile_px)
    assert now.peak_gib == round(planned.chosen.peak_gib, 2)
    assert now.notices == planned.notices
    assert pulled.model == "flux1-dev"
    assert fits(found, "fill", "low").now.is_demonstration
    assert all(row.pulled.peak_gib <= 19.53 for row in found.fits.rows if row.pulled.model)
    text = printed(found)
    assert "With what is installed (19.5 GiB of a GPU free" in text
    assert "With every model pulled" in text


def test_who_is_on_the_gpu_is_told_and_our_own_worker_by_its_data_folder(
    gamer: Machine, printed: Prints
):
    wait = "import sys; print('up', flush=True); sys.stdin.read()"

    def start(*words: str, data_dir: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", wait, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "FLUX_MCP_DATA_DIR": str(data_dir)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    worker = ("-m", "flux_mcp.pipelines.worker")
    ours = start(*worker, data_dir=gamer.cli.data_dir)
    theirs = start(*worker, data_dir=Path("/elsewhere"))
    try:
        held = [program(ours.pid, 2048), program(theirs.pid, 1024), program(os.getpid(), 512)]
        put_nvidia_smi(gamer.bin, [gpu()], held)
        found = gamer.found()
    finally:
        for process in (ours, theirs):
            process.communicate()
    first, second, third = found.gpus[0].programs
    assert (first.pid, first.is_ours, first.used_gib) == (ours.pid, True, 2.0)
    assert (second.is_ours, second.data_dir) == (False, "/elsewhere")
    assert (third.pid, third.data_dir) == (os.getpid(), None)
    assert found.gpus[0].other_gib == round((24564 - 20000 - 2048 - 1024 - 512) / 1024, 2)
    assert found.fits.vram_gib == round((20000 + 2048) / 1024, 2), "ours counts as free"
    text = unwrapped(printed(found))
    assert f"({ours.pid}), the worker of this data folder: counts as free" in text
    assert "a worker of flux-mcp for /elsewhere" in text
    assert "other: the driver itself, the screen, programs it does not list" in text
    assert any(f"({os.getpid()}) use 1.5 GiB of the GPU" in step for step in steps(found))


def test_a_cpu_build_of_torch_beside_a_gpu_comes_first(gamer: Machine):
    gamer.put_torch("2.13.0", None, says="2.13.0+cpu")
    found = gamer.found()
    assert (found.device.kind, found.device.obstacle) == ("cpu", "cpu_build")
    assert found.fits.vram_gib is None, "the GPU does not draw"
    assert "torch 2.13.0+cpu is a CPU build" in found.next[0].text
    assert found.next[0].command is not None
    assert "-m pip install --force-reinstall torch==2.13.0" in found.next[0].command


@pytest.mark.parametrize(
    ("driver", "visible", "obstacle", "says"),
    [
        ("535.183.01", "0", "old_driver", "takes driver 580 or newer; 535.183.01 is installed"),
        ("580.95.05", "", "hidden", "CUDA_VISIBLE_DEVICES hides the GPU"),
    ],
)
def test_what_else_keeps_a_gpu_from_drawing_comes_first(
    gamer: Machine, driver: str, visible: str, obstacle: str, says: str
):
    put_nvidia_smi(gamer.bin, [gpu(driver=driver)])
    found = gamer.found(CUDA_VISIBLE_DEVICES=visible)
    assert (found.device.kind, found.device.obstacle) == ("cpu", obstacle)
    assert says in found.next[0].text


def test_a_driver_that_fails_is_told_in_its_own_words(gamer: Machine, printed: Prints):
    put_nvidia_smi(gamer.bin, code=9, words="NVIDIA-SMI has failed because it couldn't.")
    found = gamer.found()
    assert found.driver_problem is not None
    assert "couldn't" in found.driver_problem
    assert (found.device.kind, found.device.obstacle) == ("cpu", "driver_fails")
    assert found.next[0].command == "nvidia-smi"
    assert "couldn't" in printed(found)


def test_a_split_gpu_and_one_without_memory_of_its_own_are_planned_without(
    gamer: Machine, printed: Prints
):
    split = gpu(name="NVIDIA A100-SXM4-40GB", total_mib=40960, free_mib=40000, mig="Enabled")
    put_nvidia_smi(gamer.bin, [split])
    found = gamer.found()
    assert (found.device.kind, found.fits.vram_gib) == ("cuda", None)
    assert "split into instances (MIG)" in found.gpus[0].notes[0]
    put_nvidia_smi(gamer.bin, [gpu(name="NVIDIA GB10", total_mib="[N/A]", free_mib="[N/A]")])
    put_in_hub_cache(gamer.settings, SCHNELL)
    found = gamer.found()
    now = fits(found, "text2img", "low").now
    assert (now.model, now.precision, now.peak_gib) == ("flux1-schnell", None, None)
    assert "its memory is not known" in printed(found)


def test_what_finished_jobs_took_counts(gamer: Machine):
    put_in_hub_cache(gamer.settings, SCHNELL)
    before = fits(gamer.found(), "text2img", "low").now
    assert not before.is_measured

    async def learn(service: Service) -> None:
        figure = Figure(
            "flux1-schnell", "text2img", before.precision, before.placement, 1.05, 0.1, None
        )
        rooms = service.runtime.rooms
        timed = TimedJob("text2img/flux1-schnell", draw_s=0.4, load=None, load_s=None)
        await service._database.call(lambda: rooms.measurements.add(RTX_4090, figure, timed))

    gamer.cli.prepare(learn)
    after = fits(gamer.found(), "text2img", "low").now
    assert after.is_measured
    assert after.seconds == pytest.approx(0.4, abs=0.05), "four steps of a tenth of a second"


def test_a_database_that_cannot_be_read_is_a_note_and_no_more(gamer: Machine, printed: Prints):
    gamer.cli.update_database()
    found = gamer.found()
    assert any("What finished jobs took is not known" in notice for notice in found.notices)
    assert "What finished jobs took is not known" in unwrapped(printed(found))


# --- what is here ------------------------------------------------------------------------------


def test_what_is_here_is_told_with_its_size_licence_and_what_it_lacks(
    gamer: Machine, printed: Prints
):
    put_in_hub_cache(gamer.settings, SCHNELL)
    put_in_hub_cache(gamer.settings, FLUX2_DEV)
    (put_in_hub_cache(gamer.settings, DEV) / "model_index.json").unlink()
    found = gamer.found(FLUX_MCP_LICENCES='["apache-2.0"]')
    models = {model.id: model for model in found.models}
    assert "micro" not in models
    assert models["flux1-schnell"].state == "installed"
    assert models["flux1-schnell"].folder is not None
    assert models["flux1-schnell"].command is None
    assert models["flux1-dev"].state == "partial"
    assert models["flux1-dev"].command is not None
    assert models["flux1-krea-dev"].state == "missing"
    assert models["flux2-dev"].kinds == ("text2img", "kontext")
    assert models["flux2-dev"].missing_extras == ("flux2-dev",)
    assert not models["flux2-dev"].is_drawable
    assert models["flux1-schnell"].used_gib <= 0.01 < models["flux1-schnell"].disk_gib
    assert found.allowed_licences == ("apache-2.0",)
    about = {one.licence: one for one in found.licences}
    assert about["apache-2.0"].models == ("flux1-schnell",)
    assert about["apache-2.0"].is_allowed
    assert about["flux-non-commercial"].models == ("flux2-dev",)
    assert not about["flux-non-commercial"].is_allowed
    assert any("flux1-dev is not complete" in step for step in steps(found))
    assert any("flux2-dev is here, and needs the extra flux2-dev" in step for step in steps(found))
    assert all(row.pulled.licence == "apache-2.0" for row in found.fits.rows if row.pulled.model)
    text = printed(found)
    for words in ("Models on this disk", "not complete", "lacks the extra flux2-dev", "any use"):
        assert words in text


def test_an_extra_that_would_help_here_says_how(gamer: Machine):
    put_nvidia_smi(gamer.bin, [gpu(total_mib=8188, free_mib=8000)])
    found = gamer.found()
    extras = {extra.name: extra for extra in found.extras}
    if "bitsandbytes" not in extras:
        pytest.skip("it is installed here")
    helps = extras["bitsandbytes"].helps
    assert helps is not None
    assert "nf4" in helps
    assert extras["bitsandbytes"].command.endswith("install 'bitsandbytes>=0.46.1'")
    assert any(helps in step for step in steps(found))
    put_nvidia_smi(gamer.bin, [gpu(total_mib=81559, free_mib=81000)])
    roomy = {extra.name: extra for extra in gamer.found().extras}
    assert roomy["bitsandbytes"].helps is None, "nothing is held in 4 bit there"


def test_own_models_with_a_mistake_are_told_with_their_line(bare: Machine, printed: Prints):
    bare.cli.data_dir.mkdir()
    (bare.cli.data_dir / "models.toml").write_text(
        '[[model]]\nid = "mine"\nextends = "flux1-dex"\n', encoding="utf-8"
    )
    found = bare.found()
    (notice,) = found.notices
    assert "models.toml line 3" in notice
    assert "Fix your models.toml" in found.next[0].text
    assert "line 3" in printed(found)


# --- before one buys ---------------------------------------------------------------------------


def test_a_gpu_one_does_not_have_can_be_looked_at(bare: Machine, printed: Prints):
    found = bare.found("--vram", "12", "--ram", "32")
    assert (found.fits.vram_gib, found.fits.ram_gib, found.fits.is_this_machine) == (12, 32, False)
    assert all(row.now is None for row in found.fits.rows)
    assert fits(found, "text2img", "standard").pulled.peak_gib <= 12
    assert found.with_a_gpu == ()
    assert found.pulls[0].why is not None
    small = bare.found("--vram", "1")
    assert all(row.pulled.model is None and row.pulled.refusal for row in small.fits.rows)
    text = printed(small)
    assert "nothing fits" in text
    assert "would do" in text


def test_a_size_that_is_none_is_refused(bare: Machine):
    ended = bare("--vram", "-3")
    assert (ended.code, ended.out) == (2, "")
    assert "--vram is a size in GiB" in ended.err


# --- the worker --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=pytest.mark.torture)])
def test_a_worker_is_asked_and_its_word_counts(bare: Machine, *, is_real: bool):
    more = {} if is_real else light_worker(holds=False)
    found = bare.found("--worker", **more)
    assert found.worker is not None
    assert found.worker.environment is not None
    assert found.device.kind == found.worker.environment.device.partition(":")[0]
    assert found.device.reason.startswith("a worker said ")


def test_a_worker_that_cannot_draw_is_an_exit_code_and_a_step(bare: Machine):
    bare.put_torch("2.13.0", "13.0")
    assert bare.site is not None
    # In front of the real one, which takes seconds to import.
    (bare.site / "torch" / "__init__.py").write_text("raise ImportError('a broken torch')")
    ended = bare("--worker", "--json")
    found = Examination.model_validate(ended.json)
    assert ended.code == 1
    assert found.worker is not None
    assert found.worker.error == "its libraries or its device cannot be used"
    assert "a broken torch" in (found.worker.log or "")
    assert found.next[0].command == f"{OURS} doctor --worker"
