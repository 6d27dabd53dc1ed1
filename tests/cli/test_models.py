"""`flux-mcp models …` as people and scripts meet it, against a hub on loopback."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flux_mcp.jobs.downloads import Download
from flux_mcp.models.hub.cache import cache_folder, find_snapshot
from flux_mcp.models.registry import load_registry
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.models.hub_server import Fault, HubServer
from tests.models.pulls import DEV, SCHNELL, TOKEN, TRANSFORMER, alone, micro_files

from .processes import TIMEOUT_S, Cli, Ended

FILES = micro_files()
SIZE = len(FILES[TRANSFORMER])
MIB = 1024 * 1024
KLEIN = "black-forest-labs/FLUX.2-klein-4B"
REDUX = "black-forest-labs/FLUX.1-Redux-dev"
REGISTRY = load_registry()


@pytest.fixture
def hub(running_hub: HubServer) -> HubServer:
    running_hub.clear()
    running_hub.add(SCHNELL, FILES)
    return running_hub


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path, hub: HubServer) -> Cli:
    return Cli(tmp_path / "data", weights_dir, **alone(hub, tmp_path))


@dataclass(frozen=True)
class Pulled:
    """A data folder after `models pull flux1-schnell --json`, and what that printed."""

    data_dir: Path
    ended: Ended


@pytest.fixture(scope="module")
def pulled(
    running_hub: HubServer, tmp_path_factory: pytest.TempPathFactory, weights_dir: Path
) -> Pulled:
    folder = tmp_path_factory.mktemp("pulled")
    running_hub.clear()
    running_hub.add(SCHNELL, FILES)
    cli = Cli(folder / "data", weights_dir, **alone(running_hub, folder))
    ended = cli("models", "pull", "flux1-schnell", "--yes", "--json")
    assert ended.code == 0, ended.err
    return Pulled(cli.data_dir, ended)


@pytest.fixture
def installed(pulled: Pulled, cli: Cli) -> Cli:
    """A data folder of the test's own in which flux1-schnell is installed."""
    shutil.copytree(pulled.data_dir, cli.data_dir, symlinks=True)
    return cli


def folder_of(cli: Cli) -> Path:
    return Path(cli("models", "info", "flux1-schnell", "--json").json["folder"])


def state(cli: Cli, model: str) -> str:
    models = cli("models", "list", "--json").json["models"]
    return next(one["state"] for one in models if one["id"] == model)


def newest_download(cli: Cli) -> Download:
    async def look(service: Service) -> Download:
        return await service._database.call(lambda: service.runtime.rooms.downloads._many("")[-1])

    return cli.prepare(look)


def begin(cli: Cli, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        cli.command("models", "pull", *arguments),
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def wait_for_line(process: subprocess.Popen[str], words: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended before it said {words!r}")


# --- pull, list, info, verify, remove ----------------------------------------------------------


def test_the_life_of_weights_on_a_disk(cli: Cli, hub: HubServer):
    assert (state(cli, "flux1-schnell"), state(cli, "micro")) == ("missing", "installed")
    pulled = cli("models", "pull", "flux1-schnell", "--yes")
    assert pulled.code == 0, pulled.err
    assert pulled.out.startswith("flux1-schnell is installed: ")
    assert re.search(r"^Download dl_\S+: agents watch it", pulled.err)
    assert "14 files" in pulled.err
    assert "every file is here, and its hash is right" in pulled.err
    assert state(cli, "flux1-schnell") == "installed"
    info = cli("models", "info", "flux1-schnell", "--json").json
    assert info["revision"] == list(hub.repositories[SCHNELL].commits)[-1]
    assert Path(info["folder"]).is_dir()
    assert cli("models", "info", "flux1-schnell").out.startswith("id ")
    right = cli("models", "verify")
    assert (right.code, right.err) == (0, "")
    assert "14 files, 0.01 GiB: right" in right.out
    assert re.search(r"^flux1-schnell +installed", cli("models", "list").out, re.MULTILINE)
    removed = cli("models", "remove", "flux1-schnell", "--yes")
    assert removed.out.splitlines()[-1] == "0.01 GiB are free again."
    assert state(cli, "flux1-schnell") == "missing"
    hf_cache = cli.data_dir / "hf-cache"
    assert not list(hf_cache.glob("hub/models--*"))
    assert not list(hf_cache.glob("flux-mcp/*.json"))


def test_the_life_of_a_helper_and_of_the_one_it_needs(cli: Cli, hub: HubServer):
    clipseg = {
        "config.json": b"{}",
        "model.safetensors": b"weights" * 1000,
        "preprocessor_config.json": b"{}",
        "vocab.json": b"{}",
        "pytorch_model.bin": b"a pickle",
        "docs/example.json": b"{}",
    }
    named = ("grounding-dino-tiny", "sam2.1-hiera-tiny")
    for one in named:
        files = {**clipseg, "model.safetensors": one.encode() * 1000}
        hub.add(str(REGISTRY.helpers[one].repository), files)
    pulled = cli("models", "pull", named[0], "--yes")
    assert pulled.code == 0, pulled.err
    assert [line.split()[0] for line in pulled.out.splitlines()] == [named[1], named[0]]
    folder = Path(cli("models", "info", named[0], "--json").json["folder"])
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"
    }  # fmt: skip
    right = cli("models", "verify", named[0])
    assert (right.code, right.err) == (0, "")
    helpers = {one["id"]: one["state"] for one in cli("models", "list", "--json").json["helpers"]}
    assert {helpers[one] for one in named} == {"installed"}
    assert helpers["clipseg-rd64"] == "missing"
    assert "needs it" in cli("models", "remove", named[1], "--yes").out
    removed = cli("models", "remove", named[0], "--yes")
    assert removed.code == 0, removed.err
    assert cli("models", "remove", named[1], "--yes").code == 0
    assert not list((cli.data_dir / "hf-cache").glob("hub/models--*"))
    shown = cli("models", "info", named[1])
    assert "models pull sam2.1-hiera-tiny" in shown.out


def test_json_is_one_document_and_progress_is_beside_it(pulled: Pulled, installed: Cli):
    download = Download.model_validate(pulled.ended.json)
    assert (download.status, download.models) == ("completed", ("flux1-schnell",))
    assert download.done_bytes == download.total_bytes > SIZE
    assert " %)" in pulled.ended.err
    checked = installed("models", "verify", "flux1-schnell", "--json").json["snapshots"]
    assert [(one["repository"], one["wrong"]) for one in checked] == [(SCHNELL, [])]
    removed = installed("models", "remove", "flux1-schnell", "--yes", "--json").json
    assert removed["removed"] == [SCHNELL]
    assert removed["freed_bytes"] >= SIZE


def test_what_was_pulled_is_what_the_hub_has_where_the_settings_say(installed: Cli):
    folder = folder_of(installed)
    there = {path for path in folder.rglob("*") if path.is_file()}
    assert folder / TRANSFORMER in there
    for path in there:
        assert path.read_bytes() == FILES[path.relative_to(folder).as_posix()]
    settings = Settings(data_dir=installed.data_dir, weights_dir=installed.weights_dir)
    found = find_snapshot(REGISTRY.find("text2img", "flux1-schnell"), settings)
    assert found is not None
    assert found.folder == folder
    assert folder.parents[1] == settings.paths.hub / cache_folder(SCHNELL)


@pytest.mark.parametrize("with_manifest", [True, False], ids=["pulled by us", "by another"])
def test_verify_finds_one_flipped_bit_offline(
    installed: Cli, hub: HubServer, *, with_manifest: bool
):
    if not with_manifest:
        for manifest in (installed.data_dir / "hf-cache" / "flux-mcp").iterdir():
            manifest.unlink()
    assert installed("models", "verify", "flux1-schnell").code == 0
    with (folder_of(installed) / TRANSFORMER).open("r+b") as stream:
        stream.seek(SIZE // 2)
        byte = stream.read(1)
        stream.seek(SIZE // 2)
        stream.write(bytes([byte[0] ^ 1]))
    wrong = installed("models", "verify")
    assert wrong.code == 1
    assert f"  {TRANSFORMER}: its hash is " in wrong.out
    assert "models pull" in wrong.err
    assert hub.seen == []


def test_verify_finds_what_is_short_or_gone_and_pull_fixes_it(installed: Cli):
    folder = folder_of(installed)
    (folder / TRANSFORMER).write_bytes(b"short")
    short = installed("models", "verify", "flux1-schnell")
    assert (short.code, f"{TRANSFORMER}: it has 5 bytes" in short.out) == (1, True), short.out
    (folder / "vae/config.json").resolve().unlink()
    gone = installed("models", "verify", "flux1-schnell")
    assert (gone.code, "vae/config.json: it is not there" in gone.out) == (1, True), gone.out
    assert installed("models", "pull", "flux1-schnell", "--yes").code == 0
    assert installed("models", "verify").code == 0


def test_a_base_is_pulled_with_what_needs_it_and_stays_while_it_does(cli: Cli, hub: HubServer):
    hub.add(DEV, FILES)
    hub.add(REDUX, {**FILES, TRANSFORMER: FILES[TRANSFORMER][::-1]})
    assert cli("models", "pull", "flux1-redux-dev", "--yes").code == 0
    assert (state(cli, "flux1-dev"), state(cli, "flux1-redux-dev")) == ("installed", "installed")
    kept = cli("models", "remove", "flux1-dev", "--yes")
    assert (kept.code, state(cli, "flux1-dev")) == (0, "installed")
    assert kept.out == f"{DEV} stays: flux1-redux-dev needs it. Remove that first.\n"
    gone = cli("models", "remove", "flux1-redux-dev", "--yes", "--json").json
    # The text encoders and the VAE are one file under two names: only the transformer is freed.
    assert SIZE <= gone["freed_bytes"] < SIZE + 1000
    assert (state(cli, "flux1-dev"), state(cli, "flux1-redux-dev")) == ("installed", "missing")
    assert cli("models", "verify").code == 0
    assert cli("models", "remove", "flux1-dev", "--yes").out.startswith(f"{DEV} is removed.")


# --- Ctrl-C, kills, several at once ------------------------------------------------------------


def partial_bytes(cli: Cli) -> int:
    (partial,) = cli.data_dir.glob("hf-cache/hub/*/blobs/*.incomplete")
    return partial.stat().st_size


def test_control_c_and_a_kill_leave_what_the_next_pull_goes_on_with(cli: Cli, hub: HubServer):
    hub.faults[TRANSFORMER] = [Fault(hold_after=3 * MIB), Fault(hold_after=MIB)]
    with begin(cli, "flux1-schnell", "--yes") as process:
        wait_for_line(process, " %)")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-2:] == [
        "Stopping. What was downloaded is kept: run the same command again to go on.",
        "Interrupted: the download has stopped.",
    ]
    assert "Traceback" not in err
    assert psutil.wait_procs(children, timeout=TIMEOUT_S)[1] == []
    assert newest_download(cli).status == "cancelled"
    assert state(cli, "flux1-schnell") == "partial"
    after_control_c = partial_bytes(cli)
    assert after_control_c > MIB
    # The next one goes on, and is killed: its process goes with it, and it is seen as lost.
    with begin(cli, "flux1-schnell", "--yes") as process:
        wait_for_line(process, " %)")
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(TIMEOUT_S)
        assert psutil.wait_procs(children, timeout=TIMEOUT_S)[1] == []
    killed = newest_download(cli)
    assert state(cli, "flux1-schnell") == "partial"
    have = partial_bytes(cli)
    assert have >= after_control_c
    hub.sent.clear()
    assert cli("models", "pull", "flux1-schnell", "--yes").code == 0
    assert hub.sent[TRANSFORMER] == SIZE - have

    async def look(service: Service) -> Download:
        return await service.downloads.find(killed.id)

    assert cli.prepare(look).error.code == "download_lost"


def test_two_pulls_and_a_removal_at_once_do_not_meet(cli: Cli, hub: HubServer):
    hub.faults[TRANSFORMER] = [Fault(hold_after=MIB)]
    with begin(cli, "flux1-schnell", "--yes") as first:
        wait_for_line(first, " %)")
        for command in (("pull", "flux1-dev"), ("remove", "flux1-schnell")):
            second = cli("models", *command, "--yes")
            assert (second.code, second.err.count("[download_running]")) == (3, 1), second.err
        hub.let_go.set()
        first.communicate(timeout=TIMEOUT_S)
        assert first.returncode == 0
    assert state(cli, "flux1-schnell") == "installed"


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pull",), 2, "Name either models or a GPU"),
        (("pull", "flux1-dev", "--for", "24GB"), 2, "Name either models or a GPU"),
        (("pull", "flux9"), 2, "[unknown_model]"),
        (("pull", "micro"), 2, "comes with the package"),
        (("pull", "flux1-schnell"), 2, "Nobody can be asked here. Give --yes"),
        (("pull", "--for", "1GB"), 2, "No model fits a GPU of 1 GiB"),
        (("pull", "--for", "big"), 2, "is not the size of a GPU's memory"),
        (("pull", "flux1-dev", "--yes"), 1, "[hub]"),
        (("info", "flux9"), 2, "[unknown_model]"),
        (("verify", "micro"), 2, "comes with the package"),
        (("verify", "flux1-dev"), 1, "models pull flux1-dev"),
        (("remove", "micro"), 2, "comes with the package"),
        (("remove", "flux9"), 2, "[unknown_model]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told_with_its_exit_code(
    cli: Cli, arguments: tuple[str, ...], code: int, says: str
):
    ended = cli("models", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert not list(cli.data_dir.glob("hf-cache/hub/models--*"))


def test_removal_asks_where_nobody_can_answer_it_is_refused(installed: Cli):
    ended = installed("models", "remove", "flux1-schnell")
    assert (ended.code, "Give --yes" in ended.err) == (2, True)
    assert state(installed, "flux1-schnell") == "installed"


def test_a_disk_that_is_too_small_is_told(cli: Cli, hub: HubServer):
    ended = cli("models", "pull", "flux1-schnell", "--yes", FLUX_MCP_DISK_RESERVE_GIB="1e9")
    assert (ended.code, ended.out) == (1, "")
    assert "[storage]" in ended.err
    assert "disk_reserve_gib" in ended.err
    assert hub.sent[TRANSFORMER] == 0


def test_a_gpu_gets_a_recommendation_that_says_why_and_what_fits_as_well(cli: Cli, hub: HubServer):
    hub.add(KLEIN, FILES)
    ended = cli("models", "pull", "--for", "80GB", "--yes")
    head, *table, first, why = ended.err.splitlines()[:7]
    others = ended.err.splitlines()[7:]
    assert head == "With every model pulled, on 80 GiB:"
    assert [line.split()[0] for line in table] == ["quality", "low", "standard", "high"]
    assert first == "For 80 GiB: flux2-klein-4b (FLUX.2 klein 4B, apache-2.0), the first to pull."
    loaded = r"It would be loaded in bf16, resident, \d+\.\d GiB at most, and takes about \d+ s\."
    assert re.fullmatch(loaded, why)
    assert "Fits as well: flux1-schnell (apache-2.0, gated), bf16, resident" in others[0]
    assert ended.code == 0, ended.err
    assert state(cli, "flux2-klein-4b") == "installed"


def test_the_setting_licences_keeps_a_recommendation_from_others(cli: Cli):
    ended = cli("models", "pull", "--for", "80GB", FLUX_MCP_LICENCES='["flux-non-commercial"]')
    assert ended.code == 2, "nobody can be asked here"
    assert "\nFor 80 GiB: flux1-dev (FLUX.1 dev, flux-non-commercial), " in ended.err
    assert "apache-2.0" not in ended.err
    none = cli("models", "pull", "--for", "80GB", FLUX_MCP_LICENCES='["mit"]')
    assert (none.code, none.out) == (2, "")
    assert "none may be chosen" in none.err


# --- the token ---------------------------------------------------------------------------------


def everything(ended: Ended, data_dir: Path) -> Iterator[bytes]:
    yield (ended.out + ended.err).encode()
    yield from (path.read_bytes() for path in data_dir.rglob("*") if path.is_file())


@pytest.mark.parametrize("is_member", [True, False], ids=["admitted", "not admitted"])
def test_the_token_is_nowhere_but_in_what_is_sent_to_the_hub(
    cli: Cli, hub: HubServer, *, is_member: bool
):
    hub.add(SCHNELL, FILES, gated=True)
    hub.accounts[TOKEN] = "ada"
    hub.members |= {"ada"} if is_member else set()
    ended = cli(
        "models", "pull", "flux1-schnell", "--yes", HF_TOKEN=TOKEN, HF_DEBUG="1",
        FLUX_MCP_LOG_LEVEL="debug",
    )  # fmt: skip
    assert ended.code == (0 if is_member else 1)
    assert ("[gated]" in ended.err) != is_member
    assert all(TOKEN.encode() not in content for content in everything(ended, cli.data_dir))
    assert {one.token for one in hub.seen} == ({TOKEN, None} if is_member else {TOKEN})
    again = newest_download(cli)
    assert again.status == ("completed" if is_member else "failed")


def test_a_model_without_a_licence_names_the_page_and_the_ways_to_log_in(cli: Cli, hub: HubServer):
    hub.add(SCHNELL, FILES, gated=True)
    ended = cli("models", "pull", "flux1-schnell", "--yes")
    assert ended.code == 1
    for words in (f"https://huggingface.co/{SCHNELL}", "HF_TOKEN", "hf auth login", "keyring set"):
        assert words in ended.err
