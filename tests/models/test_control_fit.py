"""Control LoRAs without torch: recognised, installed, chosen, and refused where they are none."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from flux_mcp.errors import (
    InvalidLoraError,
    InvalidRequestError,
    WeightsInvalidError,
    WeightsMissingError,
)
from flux_mcp.models.hub.cache import (
    find_snapshot,
    is_installed,
    require_snapshot,
    state_of,
)
from flux_mcp.models.hub.manifest import checkable
from flux_mcp.models.hub.remove import plan_removal
from flux_mcp.models.hub.selection import rows_to_pull
from flux_mcp.models.loras.fit import control_config, fit_control
from flux_mcp.models.loras.header import read_control_header, read_header
from flux_mcp.models.loras.library import architecture_of, open_loras
from flux_mcp.models.planning.candidates import Choices, Wanted, candidates
from flux_mcp.models.planning.support import full_load_support, load_support_with
from flux_mcp.models.planning.tiers import choose_without_gpu
from flux_mcp.models.registry import QUALITIES, ModelSpec, Registry, load_registry
from flux_mcp.models.user_rows import open_registry, read_own_rows
from flux_mcp.settings.settings import PACKAGE_DIR, Settings

from .control_lora_files import bfl, in_diffusers_names
from .hub import COMMIT, put_in_hub_cache
from .lora_files import pair, write

REGISTRY = load_registry()
DEV = REGISTRY.find("text2img", "flux1-dev")
CANNY = REGISTRY.find("control", "flux1-canny-dev-lora")
MICRO = json.loads((PACKAGE_DIR / "weights/micro/text2img/transformer/config.json").read_text())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", weights_dir=PACKAGE_DIR / "weights")


def put_lora(settings: Settings, *names: str, commit: str = COMMIT) -> Path:
    """Lay the LoRA's repository out as a pull does: files at the top, and no model_index.json."""
    snapshot = put_in_hub_cache(settings, CANNY.repository, names, commit)
    (snapshot / "model_index.json").unlink()
    return snapshot


# --- on disk -------------------------------------------------------------------------------------


def test_it_is_installed_with_its_base(settings):
    assert state_of(CANNY, settings) == "missing"
    snapshot = put_lora(settings, "flux1-canny-dev-lora.safetensors")
    found = find_snapshot(CANNY, settings)
    assert (found.folder, found.revision) == (snapshot, COMMIT)
    assert found.loras == (snapshot / "flux1-canny-dev-lora.safetensors",)
    assert state_of(CANNY, settings) == "installed"
    assert not is_installed(CANNY, REGISTRY, settings)
    with pytest.raises(WeightsMissingError, match="flux1-dev"):
        require_snapshot(CANNY, REGISTRY, settings)
    put_in_hub_cache(settings, DEV.repository)
    assert is_installed(CANNY, REGISTRY, settings)
    assert require_snapshot(CANNY, REGISTRY, settings) == found


def test_a_pinned_revision_is_the_only_one_that_counts(settings):
    put_lora(settings, "one.safetensors")
    assert find_snapshot(CANNY.model_copy(update={"revision": COMMIT}), settings)
    assert find_snapshot(CANNY.model_copy(update={"revision": "f" * 40}), settings) is None


@pytest.mark.parametrize("revision", ["..", "../../elsewhere", f"../snapshots/{COMMIT}"])
def test_a_revision_leads_nowhere_else(settings, revision):
    snapshot = put_lora(settings, "one.safetensors")
    for folder in (snapshot.parents[1], settings.paths.hub / "elsewhere"):
        write(folder / "one.safetensors", pair("transformer.x_embedder", 8, 8))
    assert find_snapshot(CANNY.model_copy(update={"revision": revision}), settings) is None


def test_a_file_whose_content_is_not_there_does_not_count(settings):
    snapshot = put_lora(settings, "one.safetensors")
    (snapshot / "one.safetensors").resolve().unlink()
    assert find_snapshot(CANNY, settings) is None
    assert state_of(CANNY, settings) == "partial"


def test_what_another_program_downloaded_lacks_no_index(settings):
    put_lora(settings, "one.safetensors")
    assert [file.path for file in checkable(CANNY, settings).files] == []
    put_in_hub_cache(settings, DEV.repository)
    (find_snapshot(DEV, settings).folder / "model_index.json").unlink()
    pinned = DEV.model_copy(update={"revision": COMMIT})
    assert [file.path for file in checkable(pinned, settings).files] == ["model_index.json"]


# --- rows ----------------------------------------------------------------------------------------


def own_row(settings: Settings, lines: str) -> ModelSpec:
    path = settings.paths.models
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[[model]]\nid = "mine"\nextends = "flux1-canny-dev-lora"\n{lines}\n')
    registry = open_registry(settings)
    assert registry.notices == ()
    return registry.find("control", "mine")


def test_a_users_row_names_a_file_of_its_own(settings):
    row = own_row(settings, 'file = "mine.safetensors"')
    file = settings.paths.models.parent / "mine.safetensors"
    assert (row.form, row.file, row.repository, row.gated) == ("lora", file, None, False)
    registry = Registry((DEV, row))
    put_in_hub_cache(settings, DEV.repository)
    with pytest.raises(WeightsMissingError) as refused:
        require_snapshot(row, registry, settings)
    assert refused.value.hint == f"Put the file there: {file}; or fix its row in {row.origin}."
    file.touch()
    with pytest.raises(WeightsInvalidError, match="is empty"):
        require_snapshot(row, registry, settings)
    write(file, bfl(MICRO, 32))
    assert require_snapshot(row, registry, settings).loras == (file,)


def test_a_users_row_lays_it_over_another_base_and_repository(settings):
    row = own_row(settings, 'repository = "me/canny"\nbase = "flux1-krea-dev"\nprecision = "int8"')
    assert (row.repository, row.base, row.form) == ("me/canny", "flux1-krea-dev", "lora")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('extends = "flux1-canny-dev-lora"\nfolder = "x"', 1, "repository and file names a LoRA"),
        ('extends = "flux1-dev"\nlora = true\nbase = "flux1-dev"', 1, "go into data/loras/"),
        ('extends = "flux1-canny-dev-lora"\nfile = "x.ckpt"', 4, "does not end in .safetensors"),
    ],
)
def test_a_row_that_is_wrong_is_told_with_its_line(tmp_path, text, line, says):
    path = tmp_path / "models.toml"
    path.write_text(f'[[model]]\nid = "mine"\n{text}\n')
    (problem,) = read_own_rows(path, REGISTRY).problems
    assert says in str(problem)
    assert problem.line == line


def test_a_lora_is_no_row_of_a_kind_it_cannot_make():
    with pytest.raises(ValidationError, match="go into data/loras/"):
        ModelSpec.model_validate(CANNY.model_dump() | {"kind": "kontext", "structures": ()})


# --- pulled --------------------------------------------------------------------------------------


def test_pulling_it_pulls_its_base_where_that_is_missing(settings):
    rows = rows_to_pull(REGISTRY, [CANNY.id], lambda _: False)
    assert [row.id for row in rows] == ["flux1-dev", "flux1-canny-dev-lora"]
    rows = rows_to_pull(REGISTRY, [CANNY.id], lambda row: row.id == "flux1-dev")
    assert [row.id for row in rows] == ["flux1-canny-dev-lora"]
    mine = own_row(settings, 'file = "mine.safetensors"')
    registry = Registry((DEV, mine))
    assert rows_to_pull(registry, ["mine"], lambda _: False) == (DEV,)
    with pytest.raises(InvalidRequestError, match="and is not removed by itself"):
        plan_removal("mine", registry, settings)
    with pytest.raises(InvalidRequestError, match="mine lies in your own files: there is nothing"):
        rows_to_pull(registry, ["mine"], lambda _: True)


# --- chosen --------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("structure", ["canny", "depth"])
def test_the_full_model_is_preferred_and_the_lora_is_enough(quality, structure):
    full, lora = f"flux1-{structure}-dev", f"flux1-{structure}-dev-lora"

    def choose(*installed: str) -> str | None:
        choices = Choices(REGISTRY, lambda row: row.id in installed, load_support_with(()))
        found = choose_without_gpu(Wanted("control", quality, structure=structure), choices)
        return found and found[0].id

    assert choose(full, lora) == full
    assert choose(lora) == lora
    assert choose("flux1-dev") is None


@pytest.mark.parametrize(("precision", "takes"), [("bf16", True), ("fp8", False), ("int4", False)])
def test_only_a_base_that_takes_loras_is_planned_for_it(precision, takes):
    engine = full_load_support()
    row = CANNY.model_copy(update={"precision": precision})
    assert engine.can_load(row) is takes
    full = REGISTRY.find("control", "flux1-canny-dev").model_copy(update={"precision": precision})
    assert engine.can_load(full)
    choices = Choices(Registry((DEV, row)), lambda _: True, engine)
    wanted = Wanted("control", "standard", model=row.id)
    from flux_mcp.models.planning.candidates import Gpu, Machine

    held = {one.loaded_as.precision for one in candidates(wanted, Machine(Gpu(80, 80)), choices)}
    assert (precision in held) is takes


# --- files ---------------------------------------------------------------------------------------


def fit(path: Path, in_channels: int = 64):
    return fit_control(read_control_header(path), "micro", "micro", MICRO, in_channels)


def test_every_tensor_of_a_file_has_its_place(tmp_path):
    tensors = bfl(MICRO, 64)
    found = fit(write(tmp_path / "one.safetensors", tensors))
    used = {name for one in found.placed for name in one.layer.tensors.values()}
    assert used | set(found.norms.values()) == set(tensors)
    assert found.norms["transformer_blocks.1.attn.norm_added_k.weight"] == (
        "double_blocks.1.txt_attn.norm.key_norm.scale"
    )
    renamed = fit(write(tmp_path / "two.safetensors", in_diffusers_names(tensors)))
    assert set(renamed.norms) == set(found.norms)
    assert {target for one in renamed.placed for target in one.targets} == {
        target for one in found.placed for target in one.targets
    }


def test_norms_are_a_control_loras_alone(tmp_path):
    layer = "transformer.transformer_blocks.0.attn.to_out.0"
    norm = {"transformer.transformer_blocks.0.attn.norm_q.weight": np.ones(32, np.float32)}
    path = write(tmp_path / "style.safetensors", pair(layer, 128, 128) | norm)
    with pytest.raises(InvalidLoraError, match="changes 1 norms of the transformer"):
        read_header(path)
    with pytest.raises(InvalidLoraError, match="no control LoRA"):
        fit(path)


def test_the_width_that_comes_out_stays():
    assert control_config({"in_channels": 64}, 128) == {"in_channels": 128, "out_channels": 64}
    assert control_config({}, 128)["out_channels"] == 64
    assert control_config({"in_channels": 64, "out_channels": 32}, 128)["out_channels"] == 32


def test_a_plans_loras_are_measured_against_the_widened_base(settings, tmp_path):
    """A LoRA for the first layer of the base does not fit the wider one, nor the other way."""
    row = ModelSpec.model_validate(
        REGISTRY.find("control", "micro").model_dump(exclude={"folder", "parts_folder"})
        | {"id": "edges", "lora": True, "base": "micro", "file": tmp_path / "edges.safetensors"}
    )
    (tmp_path / "edges.safetensors").touch()
    micro = REGISTRY.find("text2img", "micro")
    folder = settings.weights_dir / str(micro.folder)
    layers, base = architecture_of(row, folder), architecture_of(micro, folder)
    assert layers.linears["x_embedder"] == (64, 128)
    assert {name for name in layers.linears if layers.linears[name] != base.linears[name]} == {
        "x_embedder"
    }


def test_one_that_is_dropped_among_loras_is_told_where_it_belongs(settings):
    folder = settings.paths.loras
    whole = {**MICRO, "num_attention_heads": 24, "attention_head_dim": 128}
    whole |= {"joint_attention_dim": 4096, "pooled_projection_dim": 768, "out_channels": 64}
    write(folder / "canny.safetensors", bfl({**whole, "num_layers": 1}, 128, rank=1))
    (found,) = open_loras(settings, REGISTRY).listing()
    assert found.error.message.startswith("It is a control LoRA")
    assert "give it a row in models.toml" in found.error.hint
