"""What to do next, from an examination: steps in order, each with its command."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from flux_mcp.doctor.facts import Examination, ProgramFact, PullFact, Step
from flux_mcp.models.planning.device import Obstacle
from flux_mcp.models.registry import KIND_NAMES
from flux_mcp.settings.installation import command_path

WORTH_ENDING_GIB = 1.0
"""Less than that, used by other programs, is not worth ending them."""
TORCH_SITE = "https://pytorch.org/get-started/locally"


def next_steps(
    found: Examination, pulling: Callable[[Sequence[str]], str], serving: str
) -> Iterator[Step]:
    """Yield what to do: first what keeps it from generating, then models, then how to use it.

    Args:
        found: Everything but the steps.
        pulling: Returns the command that downloads models, by their ids.
        serving: The command that runs the queue.
    """
    pulls = partial(_pulls, pulling)
    with_a_gpu = (pulls, _partial, _extras, _other_programs, _use)
    # On a CPU micro is quick, and real models take many minutes an image.
    without = (_use, pulls, _partial, _extras)
    later = without if found.device.kind == "cpu" else with_a_gpu
    queue = partial(_queue, serving)
    for steps in (_packages, _worker, _disk, _gpu, _own_models, queue, *later, _connect):
        yield from steps(found)


# --- what keeps it from generating -------------------------------------------------------------


def _packages(found: Examination) -> Iterator[Step]:
    missing = [name for name, version in found.packages.items() if version is None]
    if missing:
        yield Step(
            text=f"Install {', '.join(missing)}: the worker cannot generate without.",
            command=f"{_python()} -m pip install {' '.join(missing)}",
        )


def _worker(found: Examination) -> Iterator[Step]:
    if found.worker is not None and found.worker.error is not None:
        yield Step(
            text="The worker cannot generate. The end of its log, above, says why; after a change, "
            "ask it again:",
            command=f"{_ours()} doctor --worker",
        )


def _disk(found: Examination) -> Iterator[Step]:
    disk = found.disk
    if disk.network is not None:
        yield Step(
            text=f"The data folder is on a network file system ({disk.network}), where the "
            "database may be damaged and two machines may generate at once. Choose a folder on a "
            "local disk with --data-dir or FLUX_MCP_DATA_DIR.",
            command=None,
        )
    if disk.free_gib < disk.reserve_gib:
        yield Step(
            text=f"The disk is nearly full: {disk.free_gib} GiB are free. See what the models "
            "take, and remove one:",
            command=f"{_ours()} models list",
        )


def _gpu(found: Examination) -> Iterator[Step]:
    obstacle = found.device.obstacle
    if found.device.setting not in ("auto", "cuda") or obstacle not in _FIXES:
        return
    yield _FIXES[obstacle](found)


def _fix_driver(found: Examination) -> Step:
    return Step(
        text=f"{found.driver_problem or ''} Restart the machine if its driver was just updated, "
        "else install NVIDIA's driver again. This answers when it is well:",
        command="nvidia-smi",
    )


def _fix_torch(found: Examination) -> Step:
    version = (found.torch.version or "").partition("+")[0]
    put = f"{_python()} -m pip install --force-reinstall torch=={version}"
    what = (
        f"There is an NVIDIA GPU, but torch {found.torch.version} is a CPU build. Put the CUDA "
        "build in its place"
    )
    if found.platform.startswith("Linux"):
        return Step(
            text=f"{what}; on Linux the package index has it under the plain version (not where "
            "pip is set to an index of CPU builds):",
            command=put,
        )
    return Step(
        text=f"{what}, URL being the index that {TORCH_SITE} names:",
        command=f"{put} --index-url URL",
    )


def _fix_old_driver(found: Examination) -> Step:
    return Step(
        text=f"Install a newer NVIDIA driver: torch is built with CUDA {found.torch.cuda}, which "
        f"takes driver {found.torch.least_driver} or newer; {found.gpus[0].driver} is installed. "
        f"Or take a torch for an older CUDA, from the index that {TORCH_SITE} names.",
        command=None,
    )


def _fix_hidden(_: Examination) -> Step:
    return Step(
        text="CUDA_VISIBLE_DEVICES hides the GPU from every program that is started here, and "
        "from servers whose client sets it: take it away there.",
        command="unset CUDA_VISIBLE_DEVICES",
    )


_FIXES: Mapping[Obstacle | None, Callable[[Examination], Step]] = {
    "driver_fails": _fix_driver,
    "cpu_build": _fix_torch,
    "old_driver": _fix_old_driver,
    "hidden": _fix_hidden,
}


def _own_models(found: Examination) -> Iterator[Step]:
    if any(notice.startswith("Not used: ") for notice in found.notices):
        text = "Fix your models.toml: it is out of use, and the notes say what is wrong where."
        yield Step(text=text, command=None)


def _queue(serving: str, found: Examination) -> Iterator[Step]:
    queue = found.queue
    if queue is not None and queue.waiting and not queue.has_executor:
        yield Step(
            text=f"{_jobs(queue.waiting)} and no process runs the queue. Start one; the server of "
            "a connected MCP client does as well:",
            command=serving,
        )


def _jobs(waiting: int) -> str:
    return "1 job waits" if waiting == 1 else f"{waiting} jobs wait"


# --- models and extras -------------------------------------------------------------------------


def _pulls(pulling: Callable[[Sequence[str]], str], found: Examination) -> Iterator[Step]:
    """Yield one step for what comes at once, and one for what asks for an account."""
    for pulls in (
        [pull for pull in found.pulls if not pull.licence_pages],
        [pull for pull in found.pulls if pull.licence_pages],
    ):
        if pulls:
            command = pulling([pull.model for pull in pulls])
            yield Step(text=_about_pulls(pulls, found), command=command)


def _about_pulls(pulls: Sequence[PullFact], found: Examination) -> str:
    kinds = [KIND_NAMES[kind] for pull in pulls for kind in pull.kinds]
    models = [f"{one.model} ({one.why})" if one.why else one.model for one in pulls]
    pages = list(dict.fromkeys(page for one in pulls for page in one.licence_pages))
    first = f" First accept the licence at {_and(pages)}; it asks for a token." if pages else ""
    needed_gib = sum(one.disk_gib for one in pulls)
    is_tight = needed_gib > found.disk.free_gib - found.disk.reserve_gib
    tight = f" Only {found.disk.free_gib:.0f} are free: make room first." if is_tight else ""
    return (
        f"{_and(kinds)} {_s(kinds, 'use')} micro, a demonstration. Pull {_and(models)}: "
        f"{_and(list(dict.fromkeys(one.licence for one in pulls)))}, "
        f"{needed_gib:.0f} GiB of disk.{tight}{first}"
    )


def _partial(found: Examination) -> Iterator[Step]:
    for model in found.models:
        if model.state == "partial" and model.command and not _is_pulled(model.id, found):
            yield Step(
                text=f"{model.id} is not complete on this disk: resume its download.",
                command=model.command,
            )


def _is_pulled(model: str, found: Examination) -> bool:
    return any(pull.model == model for pull in found.pulls)


def _extras(found: Examination) -> Iterator[Step]:
    commands = {extra.name: extra.command for extra in found.extras}
    needed = {
        name: model.id
        for model in found.models
        if model.state == "installed"
        for name in model.missing_extras
    }
    for name, model_id in needed.items():
        yield Step(
            text=f"{model_id} is here, and needs the extra {name} to be used.",
            command=commands.get(name),
        )
    for extra in found.extras:
        if extra.helps and extra.name not in needed:
            yield Step(text=f"The extra {extra.name} gives {extra.helps}.", command=extra.command)


def _other_programs(found: Examination) -> Iterator[Step]:
    for gpu in found.gpus:
        others = [one for one in gpu.programs if not one.is_ours and one.used_gib]
        held_gib = sum(one.used_gib or 0.0 for one in others)
        if gpu.name == found.device.gpu and held_gib >= WORTH_ENDING_GIB:
            yield Step(
                text=f"{_and([_program(one) for one in others])} {_s(others, 'use')} "
                f"{held_gib:.1f} GiB of the GPU: plans use what is left.",
                command=None,
            )


# --- use it ------------------------------------------------------------------------------------


def _use(found: Examination) -> Iterator[Step]:
    if None not in found.packages.values():
        yield Step(
            text="Try it:", command=f'{_ours()} generate "a red circle on a blue background"'
        )


def _connect(_: Examination) -> Iterator[Step]:
    yield Step(text="Connect an MCP client:", command=f"{_ours()} connect")


def _program(one: ProgramFact) -> str:
    return f"{one.name or 'a program'} ({one.pid})"


def _and(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _s(subjects: Sequence[object], verb: str) -> str:
    return verb if len(subjects) > 1 else f"{verb}s"


def _ours() -> str:
    return command_path("flux-mcp")


def _python() -> str:
    return shlex.quote(sys.executable)
