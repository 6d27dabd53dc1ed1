"""The downloading process against a hub on loopback: what it takes, and all that breaks."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from flux_mcp.models.hub.cache import cache_folder, find_snapshot, state_of
from flux_mcp.models.hub.manifest import read_manifest
from flux_mcp.models.hub.selection import licence_page
from flux_mcp.models.registry import load_registry
from flux_mcp.settings.settings import Settings

from .hub_server import Fault, HubServer
from .pulls import (
    DEV,
    MICRO,
    SCHNELL,
    TIMEOUT_S,
    TOKEN,
    TRANSFORMER,
    Puller,
    micro_files,
    pull,
    request,
    start,
    wait_for_bytes,
)

ROW = load_registry().find("text2img", "flux1-schnell")
FILES = micro_files()
SIZE = len(FILES[TRANSFORMER])
WANTED = {path.relative_to(MICRO).as_posix() for path in MICRO.rglob("*") if path.is_file()}
MIB = 1024 * 1024


def snapshot_files(settings: Settings) -> dict[str, bytes]:
    snapshot = find_snapshot(ROW, settings)
    assert snapshot is not None
    return {
        path.relative_to(snapshot.folder).as_posix(): path.read_bytes()
        for path in snapshot.folder.rglob("*")
        if path.is_file()
    }


def partials(settings: Settings) -> list[Path]:
    return list(settings.paths.hub.glob("models--*/blobs/*.incomplete"))


# --- what is taken -----------------------------------------------------------------------------


def test_a_pull_takes_what_the_parts_need_and_nothing_else(hub: HubServer, folder: Settings):
    revision = hub.add(SCHNELL, FILES)
    ran = pull(hub, folder, request(SCHNELL))
    assert (ran.code, ran.err) == (0, "")
    got = snapshot_files(folder)
    assert set(got) == WANTED
    assert all(content == FILES[path] for path, content in got.items())
    assert find_snapshot(ROW, folder).revision == revision
    assert ran.last == {"type": "finished"}
    assert ran.only("listed")["missing_bytes"] <= sum(len(FILES[path]) for path in WANTED)
    assert all(hub.sent[path] == 0 for path in set(FILES) - WANTED)
    assert not partials(folder)


def test_the_manifest_says_what_was_pulled(hub: HubServer, puller: Puller, folder: Settings):
    revision = hub.add(SCHNELL, FILES)
    puller.pull(folder, request(SCHNELL))
    manifest = read_manifest(folder.paths, SCHNELL, revision)
    assert (manifest.revision, manifest.endpoint) == (revision, hub.url)
    assert {file.path: file.size_bytes for file in manifest.files} == {
        path: len(FILES[path]) for path in WANTED
    }
    keys = {file.path: file.key for file in manifest.files}
    assert keys[TRANSFORMER] == hashlib.sha256(FILES[TRANSFORMER]).hexdigest()
    assert len(keys["model_index.json"]) == 40


def test_nothing_is_downloaded_twice(hub: HubServer, puller: Puller, folder: Settings):
    hub.add(SCHNELL, FILES)
    puller.pull(folder, request(SCHNELL))
    before = dict(hub.sent)
    again = puller.pull(folder, request(SCHNELL))
    assert again.only("pulled")["downloaded_bytes"] == 0
    assert dict(hub.sent) == before


def test_what_another_repository_holds_is_shared_on_disk(
    hub: HubServer, puller: Puller, folder: Settings
):
    hub.add(SCHNELL, FILES)
    other = {**FILES, TRANSFORMER: FILES[TRANSFORMER][::-1]}
    hub.add(DEV, other)
    puller.pull(folder, request(SCHNELL))
    hub.sent.clear()
    ran = puller.pull(folder, request(DEV))
    assert ran.code == 0
    assert {path: sent for path, sent in hub.sent.items() if sent} == {TRANSFORMER: SIZE}
    key = hashlib.sha256(FILES["vae/diffusion_pytorch_model.safetensors"]).hexdigest()
    blobs = list(folder.paths.hub.glob(f"models--*/blobs/{key}"))
    assert len(blobs) == 2
    assert blobs[0].samefile(blobs[1])


def test_files_of_equal_content_in_one_repository_are_received_once(
    hub: HubServer, puller: Puller, folder: Settings
):
    path = "vae/diffusion_pytorch_model.safetensors"
    hub.add(SCHNELL, {**FILES, TRANSFORMER: FILES[path]})
    assert puller.pull(folder, request(SCHNELL)).code == 0
    got = snapshot_files(folder)
    assert got[TRANSFORMER] == got[path] == FILES[path]
    assert hub.sent[TRANSFORMER] + hub.sent[path] == len(FILES[path])


def test_a_pinned_revision_is_taken_and_the_newest_is_recorded(
    hub: HubServer, puller: Puller, folder: Settings
):
    old = hub.add(SCHNELL, {**FILES, "vae/config.json": b"{}"})
    new = hub.add(SCHNELL, FILES)
    pinned = ROW.model_copy(update={"revision": old})
    assert puller.pull(folder, request(SCHNELL, revision=old)).code == 0
    assert find_snapshot(pinned, folder).revision == old
    assert find_snapshot(ROW, folder) is None, "nobody said that this is the newest"
    assert puller.pull(folder, request(SCHNELL)).code == 0
    assert find_snapshot(ROW, folder).revision == new
    assert find_snapshot(pinned, folder).revision == old


def test_a_model_that_is_installed_stays_usable_while_a_newer_one_comes(
    hub: HubServer, puller: Puller, folder: Settings
):
    old = hub.add(SCHNELL, FILES)
    puller.pull(folder, request(SCHNELL))
    hub.add(SCHNELL, {**FILES, TRANSFORMER: FILES[TRANSFORMER][::-1]})
    hub.faults[TRANSFORMER] = [Fault(status=503)] * 3
    assert puller.pull(folder, request(SCHNELL)).last["code"] == "hub"
    assert find_snapshot(ROW, folder).revision == old


# --- what breaks -------------------------------------------------------------------------------


def test_a_broken_line_is_taken_up_where_it_broke(hub: HubServer, puller: Puller, folder: Settings):
    hub.add(SCHNELL, FILES)
    hub.faults[TRANSFORMER] = [Fault(break_after=MIB), Fault(break_after=MIB)]
    ran = puller.pull(folder, request(SCHNELL))
    assert ran.code == 0
    assert snapshot_files(folder)[TRANSFORMER] == FILES[TRANSFORMER]
    begins = [int(one.range[6:-1]) for one in hub.requests_for(TRANSFORMER) if one.range]
    assert begins
    assert begins == sorted(begins)
    # What was under way when the line broke is sent again, no more.
    assert SIZE <= hub.sent[TRANSFORMER] <= SIZE + 2 * 512 * 1024


@pytest.mark.parametrize("how", ["killed", "its command is gone"])
def test_a_process_that_ends_leaves_what_the_next_one_goes_on_with(
    hub: HubServer, puller: Puller, folder: Settings, how: str
):
    hub.add(SCHNELL, FILES)
    hub.faults[TRANSFORMER] = [Fault(hold_after=3 * MIB)]
    with start(hub, folder, request(SCHNELL)) as process:
        wait_for_bytes(process, TRANSFORMER, 2 * MIB)
        if how == "killed":
            process.send_signal(signal.SIGKILL)
        else:
            process.stdin.close()
        assert process.wait(TIMEOUT_S) != 0
        assert state_of(ROW, folder) == "partial"
    key = hashlib.sha256(FILES[TRANSFORMER]).hexdigest()
    (partial,) = [path for path in partials(folder) if path.stem == key]
    have = partial.stat().st_size
    assert have >= 2 * MIB
    hub.sent.clear()
    ran = puller.pull(folder, request(SCHNELL))
    assert ran.code == 0
    assert hub.sent[TRANSFORMER] == SIZE - have
    assert snapshot_files(folder)[TRANSFORMER] == FILES[TRANSFORMER]
    assert not partials(folder)


def test_a_server_that_knows_no_ranges_sends_it_all_again(
    hub: HubServer, puller: Puller, folder: Settings
):
    hub.add(SCHNELL, FILES)
    hub.faults[TRANSFORMER] = [Fault(break_after=MIB), Fault(ignores_range=True)]
    assert puller.pull(folder, request(SCHNELL)).code == 0
    assert snapshot_files(folder)[TRANSFORMER] == FILES[TRANSFORMER]


@pytest.mark.parametrize("left", [b"x" * MIB, b"x" * SIZE, b"x" * (SIZE + 1)])
def test_a_damaged_leftover_is_thrown_away(
    hub: HubServer, puller: Puller, folder: Settings, left: bytes
):
    hub.add(SCHNELL, FILES)
    key = hashlib.sha256(FILES[TRANSFORMER]).hexdigest()
    blobs = folder.paths.hub / cache_folder(SCHNELL) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{key}.incomplete").write_bytes(left)
    assert puller.pull(folder, request(SCHNELL)).code == 0
    assert snapshot_files(folder)[TRANSFORMER] == FILES[TRANSFORMER]


def test_a_file_on_disk_that_changed_is_had_again(hub: HubServer, puller: Puller, folder: Settings):
    hub.add(SCHNELL, FILES)
    puller.pull(folder, request(SCHNELL))
    blob = (find_snapshot(ROW, folder).folder / TRANSFORMER).resolve()
    blob.write_bytes(b"x" * SIZE)
    assert puller.pull(folder, request(SCHNELL)).only("pulled")["downloaded_bytes"] == SIZE
    assert snapshot_files(folder)[TRANSFORMER] == FILES[TRANSFORMER]


@pytest.mark.parametrize("path", [TRANSFORMER, "vae/config.json", "model_index.json"])
def test_other_bytes_than_the_hash_promises_are_deleted_and_told(
    hub: HubServer, puller: Puller, folder: Settings, path: str
):
    hub.add(SCHNELL, FILES)
    hub.faults[path] = [Fault(flip=True)]
    ran = puller.pull(folder, request(SCHNELL))
    assert (ran.code, ran.last["code"]) == (1, "weights_invalid")
    assert path in str(ran.last["message"])
    assert find_snapshot(ROW, folder) is None
    key = hashlib.sha256(FILES[path]).hexdigest()
    assert not list(folder.paths.hub.rglob(f"{key}*"))
    assert puller.pull(folder, request(SCHNELL)).code == 0


@pytest.mark.parametrize(
    ("where", "status"),
    [
        pytest.param(where, status, marks=[] if at == nth else [pytest.mark.torture])
        for at, where in enumerate(("api", "model_index.json", TRANSFORMER))
        for nth, status in enumerate((429, 500, 503))
    ],
)
def test_trouble_that_passes_is_waited_out(
    hub: HubServer, puller: Puller, folder: Settings, where: str, status: int
):
    hub.add(SCHNELL, FILES)
    hub.faults[where] = [Fault(status=status, headers={"Retry-After": "0"})] * 2
    assert puller.pull(folder, request(SCHNELL)).code == 0


@pytest.mark.parametrize(
    ("where", "fault", "code", "says"),
    [
        ("api", Fault(status=500), "hub", "answered 500"),
        (TRANSFORMER, Fault(status=503), "hub", "answered 503"),
        (TRANSFORMER, Fault(status=404), "hub", "answered 404"),
        (TRANSFORMER, Fault(status=403), "gated", "gated"),
        (TRANSFORMER, Fault(break_after=0), "hub", "broke off too often"),
    ],
)
def test_trouble_that_stays_is_told_and_the_rest_is_kept(
    hub: HubServer, puller: Puller, folder: Settings, where: str, fault: Fault, code: str, says: str
):
    hub.add(SCHNELL, FILES)
    hub.faults[where] = [fault] * 9
    ran = puller.pull(folder, request(SCHNELL))
    assert (ran.code, ran.last["code"]) == (1, code)
    assert says in str(ran.last["message"])
    assert "Traceback" not in ran.err
    hub.faults.clear()
    assert puller.pull(folder, request(SCHNELL)).code == 0


def test_a_hub_that_is_not_there_is_told(hub: HubServer, folder: Settings):
    ran = pull(hub, folder, request(SCHNELL, tries=2), HF_ENDPOINT="http://127.0.0.1:9")
    assert (ran.code, ran.last["code"]) == (1, "hub")
    assert "HF_ENDPOINT" in str(ran.last["hint"])


def test_a_hub_that_falls_silent_is_told(hub: HubServer, folder: Settings):
    hub.add(SCHNELL, FILES)
    hub.faults[TRANSFORMER] = [Fault(hold_after=MIB)] * 9
    ran = pull(hub, folder, request(SCHNELL, tries=1), HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert (ran.code, ran.last["code"]) == (1, "hub")
    assert "ReadTimeout" in str(ran.last["message"])


@pytest.mark.parametrize(
    ("repository", "revision", "says"),
    [("nobody/nothing", None, "answered 404"), (SCHNELL, "f" * 40, "answered 404")],
)
def test_what_the_hub_has_not_is_told(
    hub: HubServer,
    puller: Puller,
    folder: Settings,
    repository: str,
    revision: str | None,
    says: str,
):
    hub.add(SCHNELL, FILES)
    ran = puller.pull(folder, request(repository, revision=revision))
    assert (ran.code, ran.last["code"]) == (1, "hub")
    assert says in str(ran.last["message"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model_index.json": b"not json"}, "cannot be read"),
        ({"model_index.json": b"{}"}, "any part"),
        (
            {"model_index.json": None, "flux1-schnell.safetensors": None},
            "neither a model_index.json nor a safetensors file",
        ),
        ({TRANSFORMER: None}, "nothing to load for transformer"),
        ({"vae/config.json": None, "vae/diffusion_pytorch_model.safetensors": None}, "for vae"),
    ],
)
def test_a_repository_that_cannot_be_drawn_with_is_refused_before_it_is_downloaded(
    hub: HubServer, puller: Puller, folder: Settings, changed: dict[str, bytes | None], says: str
):
    files = {path: content for path, content in {**FILES, **changed}.items() if content is not None}
    hub.add(SCHNELL, files)
    ran = puller.pull(folder, request(SCHNELL))
    assert (ran.code, ran.last["code"]) == (1, "weights_invalid")
    assert says in str(ran.last["message"])
    assert sum(hub.sent.values()) <= len(FILES["model_index.json"])


def test_a_disk_that_is_too_small_is_refused_before_anything_is_downloaded(
    hub: HubServer, puller: Puller, folder: Settings
):
    hub.add(SCHNELL, FILES)
    ran = puller.pull(folder, request(SCHNELL, reserve_bytes=2**60))
    assert (ran.code, ran.last["code"]) == (1, "storage")
    assert "are to stay free" in str(ran.last["message"])
    assert "models remove" in str(ran.last["hint"])
    assert sum(hub.sent.values()) == len(FILES["model_index.json"])


def test_two_pulls_at_once_do_not_meet(hub: HubServer, puller: Puller, folder: Settings):
    hub.add(SCHNELL, FILES)
    hub.faults[TRANSFORMER] = [Fault(hold_after=MIB)]
    with start(hub, folder, request(SCHNELL)) as first:
        wait_for_bytes(first, TRANSFORMER, 512 * 1024)
        second = puller.pull(folder, request(SCHNELL))
        assert (second.code, second.last["code"]) == (1, "download_running")
        hub.let_go.set()
        assert first.stdout.read().endswith('{"type":"finished"}\n')
        assert first.wait(TIMEOUT_S) == 0
    assert hub.sent[TRANSFORMER] == SIZE


# --- gated repositories ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_token", "accounts", "says"),
    [
        (False, {}, "no token that says who you are"),
        (True, {}, "does not know the token from HF_TOKEN"),
        (True, {TOKEN: "ada"}, "the account 'ada', whose token comes from HF_TOKEN"),
    ],
    ids=["no token", "unknown token", "licence not accepted"],
)
def test_a_gated_repository_is_explained(
    hub: HubServer,
    puller: Puller,
    puller_with_token: Puller,
    folder: Settings,
    *,
    has_token: bool,
    accounts: dict[str, str],
    says: str,
):
    hub.add(SCHNELL, FILES, gated=True)
    hub.accounts.update(accounts)
    one = puller_with_token if has_token else puller
    ran = one.pull(folder, request(SCHNELL))
    assert (ran.code, ran.last["code"]) == (1, "gated")
    assert says in str(ran.last["message"])
    assert licence_page(SCHNELL) in str(ran.last["hint"]) or has_token
    assert "settings/tokens" in str(ran.last["hint"])
    assert TOKEN not in json.dumps(ran.events) + ran.err


@pytest.mark.parametrize("place", ["variable", "file", "keyring"])
def test_a_token_opens_a_gated_repository_and_goes_to_the_hub_only(
    hub: HubServer, puller_with_token: Puller, folder: Settings, tmp_path: Path, place: str
):
    hub.add(SCHNELL, FILES, gated=True)
    hub.accounts[TOKEN] = "ada"
    hub.members.add("ada")
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    where = {
        "variable": {},
        "file": {"HF_TOKEN_PATH": str(tmp_path / "token")},
        "keyring": {
            "PYTHON_KEYRING_BACKEND": "tests.models.file_keyring.Keyring",
            "TEST_KEYRING_FILE": str(tmp_path / "token"),
        },
    }[place]
    if place == "variable":
        ran = puller_with_token.pull(folder, request(SCHNELL))
    else:
        ran = pull(hub, folder, request(SCHNELL), **where)
    assert ran.code == 0, ran.last
    assert {one.token for one in hub.seen if one.host.startswith("127.")} == {TOKEN}
    assert {one.token for one in hub.seen if one.path.startswith("/cdn/")} == {None}
    assert TOKEN not in json.dumps(ran.events) + ran.err
    for path in folder.data_dir.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_offline_variables_do_not_stop_a_pull_that_was_asked_for(
    hub: HubServer, puller: Puller, folder: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.add(SCHNELL, FILES)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert puller.pull(folder, request(SCHNELL)).code == 0
