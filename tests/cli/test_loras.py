"""`flux-mcp loras …`; test_generate.py draws with some."""

from pathlib import Path

import pytest

from flux_mcp.cli.loras import read_loras
from flux_mcp.errors import InvalidRequestError
from flux_mcp.service.answers import LoraAnswer
from tests.models.lora_files import lokr_of, pair, put_striped, write

from .processes import Cli


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir)


@pytest.fixture
def folder(cli: Cli) -> Path:
    folder = cli.data_dir / "loras"
    put_striped(folder)
    (folder / "striped.toml").write_text('trigger_words = ["striped"]\nweight_range = [0.5, 1.2]')
    return folder


def test_loras_need_no_torch_no_server_and_no_database(cli: Cli, folder: Path) -> None:
    heavy = {"torch", "diffusers", "transformers", "safetensors", "peft", "mcp", "sqlite_utils"}
    words = (["list"], ["show", "striped"])
    assert not (heavy | {"PIL"}) & cli.imports(*(("loras", *one) for one in words))
    assert [path.name for path in cli.data_dir.iterdir()] == [folder.name], "looking writes nothing"


def test_an_empty_folder_says_where_to_put_them(cli: Cli) -> None:
    ended = cli("loras", "list")
    assert (ended.code, ended.err) == (0, "")
    assert "There are no LoRAs." in ended.out
    assert str(cli.data_dir / "loras") in ended.out


def test_each_is_listed_and_what_is_wrong_with_any(cli: Cli, folder: Path) -> None:
    write(folder / "odd.safetensors", pair("transformer.odd", 8, 8))
    (folder / "old.pt").write_bytes(b"x")
    out = cli("loras", "list").out.splitlines()
    assert out[0].startswith("odd      cannot be used: [invalid_lora] It fits no model")
    assert "is a pickle" in out[1]
    assert out[2].split()[:4] == ["striped", "micro", "rank", "8"]
    assert out[2].endswith("trigger words: striped")
    rows = cli("loras", "list", "--json").json["loras"]
    answers = [LoraAnswer.model_validate(row) for row in rows]
    assert [(one.name, one.usable) for one in answers] == [
        ("odd", False), ("old", False), ("striped", True)
    ]  # fmt: skip
    assert out[2].split()[4] == (answers[2].sha256 or "")[:12]


@pytest.mark.usefixtures("folder")
def test_one_is_shown(cli: Cli) -> None:
    out = cli("loras", "show", "striped").out
    for fact in ("family        micro", "weights       0.5 to 1.2", "26 (rank 8, alpha 8)", "F16"):
        assert fact in out
    answer = LoraAnswer.model_validate(cli("loras", "show", "striped", "--json").json)
    assert answer.sha256 in out


def test_a_lokr_in_a_folder_is_shown_with_what_is_not_used(cli: Cli, folder: Path) -> None:
    lokr = lokr_of("transformer.transformer_blocks.0.attn.to_q", 128, 128)
    words = pair("lora_te1_x", 8, 8, ends="lora_down")
    write(folder / "styles" / "my ink (v2).safetensors", lokr, words)
    assert "styles/my ink (v2)  micro   LoKr  " in cli("loras", "list").out
    out = cli("loras", "show", "styles/my ink (v2)").out
    assert "1 (LoKr)" in out
    assert "not used      1 layers of text encoders" in out
    dry = cli("generate", "a red circle", "--lora", "styles/my ink (v2):0.5", "--dry-run")
    assert "LoRA styles/my ink (v2), weight 0.5, " in dry.out
    assert "Of the LoRA 'styles/my ink (v2)' is not used: 1 layers of text" in dry.out + dry.err


@pytest.mark.usefixtures("folder")
def test_one_that_is_not_there_is_refused_with_what_is(cli: Cli) -> None:
    ended = cli("loras", "show", "strip")
    assert ended.code == 2
    assert "[unknown_lora]" in ended.err
    assert "Did you mean 'striped'?" in ended.err


@pytest.mark.usefixtures("folder")
def test_a_dry_run_names_it_with_its_weight(cli: Cli) -> None:
    dry = cli("generate", "a red circle", "--lora", "striped:0.5", "--dry-run")
    assert dry.code == 0, dry.err
    assert "LoRA striped, weight 0.5, " in dry.out


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ink", ("ink", 1.0)),
        ("ink:0.8", ("ink", 0.8)),
        ("ink:-1", ("ink", -1.0)),
        ("a:b:2", ("a:b", 2.0)),
    ],
)
def test_a_flag_is_a_name_or_a_name_with_a_weight(written: str, read: tuple[str, float]) -> None:
    assert read_loras([written]) == [{"name": read[0], "weight": read[1]}]


@pytest.mark.parametrize("written", ["ink:", "ink:strong"])
def test_a_weight_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no weight"):
        read_loras([written])
