"""The command line as people and scripts meet it: two streams and an exit code."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from flux_mcp import __version__
from flux_mcp.cli.app import COMMANDS, command_tree, load
from flux_mcp.service.answers import (
    DryRunAnswer,
)
from flux_mcp.service.service import Service
from tests.e2e.light import light_worker
from tests.jobs.factories import make_plan_row
from tests.server.images import keep_image, noise, queue_job, run_job

from .processes import TIMEOUT_S, Cli, Ended

FAST = ("--width", "64", "--height", "64", "--steps", "4", "--seed", "7")
SLOW = (
    "--width", "256", "--height", "256", "--steps", "64", "--count", "8",
    "--negative-prompt", "a circle",
)  # fmt: skip
"""The light worker holds a job of so many steps until it is interrupted."""
HELP_MODULES = {
    "flux_mcp",
    "flux_mcp.cli",
    "flux_mcp.cli.app",
    "flux_mcp.cli.common",
    "flux_mcp.cli.completing",
    "flux_mcp.cli.entry",
    "flux_mcp.cli.interrupts",
    "flux_mcp.errors",
    "flux_mcp.settings",
    "flux_mcp.settings.environment",
}
"""Modules of ours that a help may import besides the flags of its command: a new one is slower."""
HELP_PACKAGES = {"flux_mcp", "typer", "annotated_doc", "shellingham"}
"""Typer with what it imports itself, unless it converts a value: then pydantic as well."""
NEVER_FOR_A_LIST = {
    "PIL",
    "diffusers",
    "flux_mcp.compose.library",
    "flux_mcp.jobs.process_fleet",
    "flux_mcp.models.planning.machine",
    "flux_mcp.requests.plan",
    "flux_mcp.service.dry_runs",
    "flux_mcp.service.inputs",
    "flux_mcp.service.outputs",
    "flux_mcp.service.planner",
    "flux_mcp.service.recovery",
    "mcp",
    "numpy",
    "pandas",
    "tokenizers",
    "torch",
    "transformers",
}
"""What takes long to import, and what a list has no use for."""


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir)


# --- without drawing ---------------------------------------------------------------------------


def paths_of(command: Any, path: str) -> Iterator[str]:
    """Yield every command and group of a tree, as it is called."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from paths_of(below, f"{path} {name}".strip())


def test_every_command_has_a_help_text_worth_reading(cli: Cli) -> None:
    commands = [path for path in paths_of(command_tree(), "") if path]
    assert len(commands) > 25
    for command in commands:
        ended = cli(*command.split(), "--help")
        assert (ended.code, ended.err) == (0, "")
        usage, about = ended.out.split("\n\n")[:2]
        assert f"flux-mcp {command} " in usage
        assert len(about.split()) >= 4, "what it does, in a sentence"
        for line in ended.out.splitlines():
            assert len(line) <= 80
            named = re.match(r"  (-h, )?(--)?[a-z_-]+ +<[^>]+>( .*)", line)
            assert named is None or not re.search(r"<\w+>", named.group(3)), line
    assert not cli.data_dir.exists(), "help touches nothing"


def test_the_root_lists_every_command_with_its_own_first_line(cli: Cli) -> None:
    ended = cli("--help")
    words = " ".join(ended.out.split())
    for name, row in COMMANDS.items():
        assert f"{name} {row.about}" in words
        about, *_ = (load(name).help or "").split("\n\n")
        assert about == row.about, name
    assert "Start with 'flux-mcp doctor'" in ended.out


def test_help_imports_the_flags_of_its_command_and_nothing_that_works(cli: Cli) -> None:
    helps = [(*path.split(), "--help") for path in paths_of(command_tree(), "") if path]
    none, *each = cli.imports_after_each(("--version",), *helps)
    assert not {row.module for row in COMMANDS.values()} & none
    called: set[str] = set()
    for words, loaded in zip(helps, each, strict=True):
        called.add(COMMANDS[words[0]].module)
        ours = {name for name in loaded if name.partition(".")[0] == "flux_mcp"}
        flags = {name for name in ours if name.startswith("flux_mcp.cli.commands")}
        assert flags == {"flux_mcp.cli.commands", *called}, words
        assert ours - flags <= HELP_MODULES, words
        packages = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
        assert {name for name in packages if name[0] != "_"} <= HELP_PACKAGES, words


def test_a_list_imports_little_besides_what_it_lists(cli: Cli) -> None:
    """In this order, as nothing is unloaded: the first may import least."""
    lists = (
        ("models", "list"),
        ("loras", "list"),
        ("jobs", "list"),
        ("jobs", "list", "--all"),
        ("gallery", "search"),
    )
    loaded = dict(zip(lists, cli.imports_after_each(*lists), strict=True))
    for words, modules in loaded.items():
        assert not NEVER_FOR_A_LIST & modules, words
        may_open = words[0] in ("jobs", "gallery")
        assert ("sqlite_utils" in modules) == may_open, words
        assert may_open or "flux_mcp.service.service" not in modules, words
        assert "flux_mcp.requests.schemas" not in modules, words


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out == f"flux-mcp {__version__}\n"


def test_a_step_cache_is_a_flag_of_generate(cli: Cli) -> None:
    ended = cli("generate", "a circle", "--dry-run", "--step-cache", "first_block", "--json")
    answer = DryRunAnswer.model_validate(ended.json)
    assert any("step_cache 'first_block': approximate" in notice for notice in answer.notices)
    refused = cli("generate", "a circle", "--steps", "4", "--step-cache", "first_block")
    assert refused.code == 2
    assert "4 steps are too few to skip any" in refused.err


def test_a_dry_run_shows_the_plan_and_queues_nothing(cli: Cli) -> None:
    text = cli("generate", "a circle", "--dry-run", "--seed", "3", "--aspect-ratio", "16:9")
    assert text.code == 0, text.err
    assert "Would generate 1 image of 176x96 with micro in 8 steps" in text.out
    assert "seed 3. Nothing is queued." in text.out
    answer = DryRunAnswer.model_validate(cli("generate", "a circle", "--dry-run", "--json").json)
    assert answer.plan.prompt == "a circle"
    assert cli("jobs", "list", "--all", "--json").json == {"jobs": [], "notices": []}
    assert "No job yet." in cli("jobs", "list", "--all").out
    assert "The gallery is empty." in cli("gallery", "search").out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("generate", "x", "--width", "100", "--height", "100"), 2, "Ask for 96x96."),
        (("generate", "x", "--width", "64"), 2, "Width and height must be given together."),
        (("generate", "x", "--model", "flux9"), 2, "[unknown_model]"),
        (("generate", "x", "--model", "flux1-dev"), 1, "flux-mcp models pull flux1-dev"),
        (("generate", "x", "--aspect-ratio", "2:9"), 2, "'16:9'"),
        (("generate", "x", "--steps", "many"), 2, "'--steps'"),
        (("generate", " "), 2, "prompt: is blank."),
        (("generate",), 2, "Give either a prompt or --pack."),
        (("generate", "x", "--widht", "64"), 2, "--width"),
        (("jobs", "show", "job_x"), 2, "'flux-mcp jobs list --all' shows"),
        (("jobs", "cancel", "job_x"), 2, "[unknown_job]"),
        (("jobs", "cancel"), 2, "Give either the id of a job or --session."),
        (("jobs", "cancel", "job_x", "--session", "s"), 2, "either"),
        (("gallery", "show", "img_x"), 2, "'flux-mcp gallery search' shows"),
        (("gallery", "search", "--cursor", "x"), 2, "[invalid_cursor]"),
        (("gallery", "search", "--created-after", "monday"), 2, "2026-01-31"),
        (("gallery", "search", "--limit", "51"), 2, "limit"),
        (("frobnicate",), 2, "No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told_on_stderr_with_its_exit_code_and_nothing_on_stdout(
    cli: Cli, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_a_process_ends_with_the_code_of_its_mistake(cli: Cli) -> None:
    ended = cli.process("loras", "show", "x")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("[unknown_lora]")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FLUX_MCP_QUEUE_LIMIT", "many", "valid integer"),
        ("FLUX_MCP_QUEUE_LIMIT", "0", "greater than or equal to 1"),
        ("FLUX_MCP_DEVICE", "tpu", "'cuda'"),
        ("FLUX_MCP_ALLOWED_DIRS", "/home/me", "it is not JSON"),
        ("FLUX_MCP_ALLOWED_DIRS", '{"a": 1}', "It takes: list of path."),
    ],
)
def test_a_bad_variable_is_named(cli: Cli, variable: str, value: str, says: str) -> None:
    ended = cli("jobs", "list", **{variable: value})
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"{variable}")
    assert says in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [("jobs", "list"), ("generate", "x"), ("doctor",)])
def test_an_unusable_data_folder_is_one_clear_sentence(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("in its place", encoding="utf-8")
    ended = cli(*command, "--data-dir", str(tmp_path / "file"))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == (
        f"[storage] The data folder {tmp_path}/file cannot be used: Not a directory. "
        "Choose another with --data-dir or FLUX_MCP_DATA_DIR.\n"
    )


def test_a_damaged_database_is_set_aside_and_one_of_a_newer_version_is_a_clear_sentence(
    cli: Cli,
) -> None:
    damaged = b"not a database" * 100
    cli.data_dir.mkdir()
    (cli.data_dir / "gallery.sqlite").write_bytes(damaged)
    ended = cli("gallery", "search")
    assert (ended.code, "The gallery is empty." in ended.out) == (0, True)
    assert "the database is damaged" in ended.err
    assert "Traceback" not in ended.err
    (aside,) = cli.data_dir.glob("gallery.sqlite.damaged-*")
    assert aside.read_bytes() == damaged
    cli.update_database()
    ended = cli("gallery", "search")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("[storage] The database was changed by a newer version ")
    assert "Traceback" not in ended.err


def test_the_flag_wins_over_the_variable(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert cli("jobs", "list", "--data-dir", str(other)).code == 0
    assert (other / "gallery.sqlite").is_file()
    assert not cli.data_dir.exists()


# --- lists -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> tuple[Cli, list[str]]:
    """Jobs and images with the longest names there are."""
    cli = Cli(tmp_path_factory.mktemp("crowded") / "data", weights_dir)

    async def fill(service: Service) -> list[str]:
        plan = make_plan_row(kind="kontext", model="flux1-kontext-dev", prompt="\x1b[31m水 " * 500)
        session = "a name of a session that goes on and on " * 2
        running = await run_job(service, plan=plan, session=session)
        waiting = [await queue_job(service, plan=plan, session=session) for _ in range(2)]
        for n in range(50):
            await keep_image(
                service,
                noise(16, 16),
                16,
                16,
                index=n,
                prompt="\x1b[31m 'quoted' 水 " * 120,
                model="flux1-kontext-dev",
                seed=2**53,
            )
        return [running.id, *(job.id for job in waiting)]

    return cli, cli.prepare(fill)


def test_ids_stay_whole_in_eighty_columns_and_jobs_of_a_session_are_cancelled_together(
    crowded: tuple[Cli, list[str]],
) -> None:
    cli, jobs = crowded
    for arguments in (("jobs", "list"), ("jobs", "list", "--all")):
        listed = cli(*arguments)
        assert listed.code == 0, listed.err
        firsts = [line.split()[0] for line in listed.out.splitlines()]
        assert set(jobs) <= set(firsts)
        assert all(len(line) <= 80 for line in listed.out.splitlines())
        assert "\x1b" not in listed.out, "what is stored is never obeyed by a terminal"
    found = cli("gallery", "search", "--limit", "50")
    images = [line.split()[0] for line in found.out.splitlines() if line.startswith("img_")]
    assert len(images) == 50
    assert "\x1b" not in found.out

    running, *waiting = jobs
    shown = cli("jobs", "show", waiting[0], "--json").json
    assert (shown["status"], shown["position"]) == ("queued", 2)
    ended = cli("jobs", "cancel", "--session", shown["session"])
    assert ended.out.splitlines() == [f"{job}  cancelled" for job in (running, *waiting)], (
        "no process runs what was left running: it is over at once"
    )
    assert cli("jobs", "cancel", "--session", "nobody").out == "There was nothing to cancel.\n"


@pytest.mark.parametrize("arguments", ["gallery search --json", "gallery search"])
def test_a_reader_that_leaves_early_is_no_error(
    crowded: tuple[Cli, list[str]], arguments: str
) -> None:
    cli, _ = crowded
    process = subprocess.Popen(
        cli.command(*arguments.split(), "--limit", "50"),
        env=cli.environment(COLUMNS="5000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(TIMEOUT_S)
    process.stderr.close()


@pytest.mark.parametrize("arguments", ["jobs list --json", "doctor"])
def test_a_reader_that_is_gone_already_is_no_error(cli: Cli, arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        cli.command(*arguments.split()),
        env=cli.environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


# --- Ctrl-C ------------------------------------------------------------------------------------


@contextmanager
def held(cli: Cli) -> Iterator[tuple["subprocess.Popen[str]", list[psutil.Process]]]:
    """Give a command whose job is at its second step and stays there, and its worker."""
    with subprocess.Popen(
        cli.command("generate", "a blue square", *SLOW),
        env=cli.environment(**light_worker(holds=True)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            seen = next(line for line in process.stderr if line.startswith("denoising"))
            workers = psutil.Process(process.pid).children(recursive=True)
            assert workers, seen
            yield process, workers
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_cancels_the_job_says_so_at_once_and_leaves_no_worker(
    cli: Cli, number: signal.Signals, code: int
) -> None:
    with held(cli) as (process, workers):
        if number == signal.SIGINT:
            # As a terminal does it: to every process of the group, the worker too.
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (code, "")
    (job,) = cli("jobs", "list", "--all", "--json").json["jobs"]
    assert err.splitlines()[-2:] == [
        f"Stopping: job {job['job_id']} is cancelled and stops at its next step.",
        f"Interrupted: job {job['job_id']} is cancelled.",
    ]
    assert "Traceback" not in err
    assert (job["status"], job["images"]) == ("cancelled", [])
    gone, alive = psutil.wait_procs(workers, timeout=TIMEOUT_S)
    assert len(gone) == len(workers)
    assert alive == []


def test_what_a_killed_command_leaves_is_seen_with_what_starts_it_and_can_be_cancelled(
    cli: Cli,
) -> None:
    with held(cli) as (process, workers):
        alone = cli("jobs", "list")
        assert "No process runs" not in alone.err, "the command itself runs it"
        assert re.search(r"  step 2/512 +generate +micro", alone.out)
        assert cli("doctor", "--json").json["queue"] == {
            "waiting": 0, "running": 1, "has_executor": True,
        }  # fmt: skip
        process.kill()
        process.wait(TIMEOUT_S)
    psutil.wait_procs(workers, timeout=TIMEOUT_S)
    listed = cli("jobs", "list")
    assert "  waiting 1  " in listed.out, "nothing is said to run that does not"
    serve = f"flux-mcp serve --data-dir {cli.data_dir}"
    for ended in (listed, cli("jobs", "list", "--all"), cli("jobs", "show", listed_id(listed))):
        assert "No process runs the jobs of this data folder" in ended.err
        assert serve in ended.err
    (notice,) = cli("jobs", "list", "--json").json["notices"]
    assert serve in notice
    examined = cli("doctor", "--json").json
    assert examined["queue"] == {"waiting": 1, "running": 0, "has_executor": False}
    (step,) = [one for one in examined["next"] if "no process runs the queue" in one["text"]]
    assert step["command"].endswith(serve)
    cancelled = cli("jobs", "cancel", listed_id(listed))
    assert cancelled.out == f"{listed_id(listed)}  cancelled\n"
    assert "No process runs" not in cli("jobs", "list").err, "nothing waits for one"


def listed_id(listed: Ended) -> str:
    found = re.search(r"^job_\S+", listed.out, re.MULTILINE)
    assert found is not None
    return found.group()
