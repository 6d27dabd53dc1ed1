"""Which LoRAs there are, what each is for, and what is wrong with those that cannot be used."""

import hashlib
import unicodedata
from pathlib import Path

import pytest

from flux_mcp.errors import InvalidLoraError, LoraMismatchError, UnknownLoraError
from flux_mcp.models.architectures import Architecture
from flux_mcp.models.loras.library import (
    BadLora,
    Lora,
    LoraLibrary,
    architecture_of,
    open_loras,
    require_fit,
)
from flux_mcp.models.registry import ModelSpec, load_registry
from flux_mcp.settings.settings import Settings

from .lora_files import STRIPED, flux1, pair, put_striped, write

REGISTRY = load_registry()
MICRO = REGISTRY.find("text2img", "micro")


@pytest.fixture
def folder(settings: Settings) -> Path:
    settings.paths.loras.mkdir(parents=True)
    return settings.paths.loras


@pytest.fixture
def library(settings: Settings, folder: Path) -> LoraLibrary:
    return open_loras(settings, REGISTRY)


def bad(library: LoraLibrary, name: str) -> str:
    (found,) = [one for one in library.listing() if one.name == name]
    assert isinstance(found, BadLora), found
    return found.error.message


def test_a_folder_that_is_not_there_has_none(settings):
    library = open_loras(settings, REGISTRY)
    assert library.listing() == ()
    with pytest.raises(UnknownLoraError) as refused:
        library.find("ink")
    assert str(settings.paths.loras) in refused.value.hint


def test_a_file_is_listed_with_what_it_is(library, folder):
    put_striped(folder)
    (lora,) = library
    assert (lora.name, lora.families) == ("striped", ("micro",))
    assert lora.sha256 == hashlib.sha256(STRIPED.read_bytes()).hexdigest()
    assert lora.size_bytes == STRIPED.stat().st_size
    assert library.find("striped") == lora


def test_an_unknown_name_is_answered_with_the_nearest_and_all(library, folder):
    put_striped(folder)
    write(folder / "ink.safetensors", flux1())
    with pytest.raises(UnknownLoraError, match="no LoRA 'stripes'") as refused:
        library.find("stripes")
    assert refused.value.hint == "Did you mean 'striped'? LoRAs: ink, striped."


@pytest.mark.parametrize("name", ["../striped", "/etc/passwd", "striped.safetensors", "", "."])
def test_a_name_is_no_path(library, folder, name):
    put_striped(folder)
    put_striped(folder.parent)
    with pytest.raises(UnknownLoraError):
        library.find(name)


def test_no_file_is_read_whole_before_its_hash_is_asked_for(library, folder, monkeypatch):
    put_striped(folder)
    read: list[Path] = []
    monkeypatch.setattr(library, "_sha256", lambda path: read.append(path) or "0" * 64)
    (lora,) = library
    assert read == []
    assert lora.sha256 == "0" * 64
    assert read == [lora.path]


def test_a_file_that_is_gone_when_its_hash_is_asked_for_is_told(library, folder):
    put_striped(folder)
    lora = library.find("striped")
    lora.path.unlink()
    with pytest.raises(InvalidLoraError, match="cannot be read"):
        assert lora.sha256


def test_a_file_that_changed_is_read_again(library, folder):
    put_striped(folder)
    before = library.find("striped")
    was = before.sha256
    write(folder / "striped.safetensors", flux1())
    after = library.find("striped")
    assert (before.families, after.families) == (("micro",), ("flux1",))
    assert was != after.sha256


FAMILIES = [
    (flux1(), ("flux1",)),
    (pair("lora_unet_single_blocks_37_linear1", 3072, 21504), ("flux1",)),
    (pair("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216), ("flux1", "flux2")),
    (pair("lora_unet_double_blocks_18_img_attn_qkv", 3072, 9216), ("flux1",)),
    (pair("transformer.x_embedder", 64, 3072), ("flux1",)),
    (pair("transformer.x_embedder", 384, 3072), ("flux1",)),
    (pair("transformer.x_embedder", 32, 128), ("micro",)),
    (pair("transformer.x_embedder", 64, 128), ("micro",)),
    (pair("diffusion_model.single_blocks.0.linear1", 6144, 55296), ("flux2",)),
    (pair("transformer.single_transformer_blocks.0.attn.to_out", 16384, 4096), ("flux2",)),
    (pair("transformer.single_transformer_blocks.0.attn.to_out", 12288, 3072), ("flux2",)),
    (pair("double_blocks.0.processor.qkv_lora1", 3072, 9216, ends="down"), ("flux1", "flux2")),
    (pair("time_in.in_layer", 256, 3072) | flux1("double_blocks.0.img_mlp.2"), ("flux1",)),
]


@pytest.mark.parametrize(("tensors", "families"), FAMILIES)
def test_its_family_follows_from_the_sizes_of_its_layers(library, folder, tensors, families):
    write(folder / "one.safetensors", tensors)
    assert library.find("one").families == families


@pytest.mark.parametrize(
    "metadata",
    [
        {"modelspec.architecture": "flux-2-klein/lora"},
        {"ss_base_model_version": "flux2_klein_4b"},
    ],
)
def test_where_sizes_leave_it_open_the_trainers_words_decide(library, folder, metadata):
    both = pair("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216)
    write(folder / "one.safetensors", both, **metadata)
    assert library.find("one").families == ("flux2",)
    (folder / "one.toml").write_text('family = "flux1"')
    assert library.find("one").families == ("flux1",)


def test_words_do_not_decide_against_the_sizes(library, folder):
    put_striped(folder)
    (folder / "striped.toml").write_text('family = "flux1"')
    assert library.find("striped").families == ("micro",)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            pair("transformer.transformer_blocks.0.attn.to_q", 32, 32),
            (
                "It fits no model known here. The nearest is FLUX.1: 0 of its 1 layers fit there. "
                "Its layer 'transformer_blocks.0.attn.to_q' is 32 to 32, that of FLUX.1 3072 to"
            ),
        ),
        (
            pair("lora_unet_down_blocks_1_attentions_0_proj_in", 640, 640),
            (
                "FLUX.1 has no layer 'down_blocks_1_attentions_0_proj_in' (tensor "
                "'lora_unet_down_blocks_1_attentions_0_proj_in.lora_A.weight', shape (2, 640))"
            ),
        ),
        (
            pair("transformer.transformer_blocks.0.attn.to_q", 3072, 3073)
            | pair("transformer.transformer_blocks.0.attn.to_k", 3072, 3072)
            | pair("transformer.transformer_blocks.0.ff.linear_in", 3072, 18432),
            (
                "The nearest is FLUX.2 klein 4B: 2 of its 3 layers fit there. Its layer "
                "'transformer_blocks.0.attn.to_q' is 3072 to 3073, that of FLUX.2 klein 4B 3072 "
                "to 3072 (tensors 'transformer.transformer_blocks.0.attn.to_q.lora_A.weight' "
                "(2, 3072), 'transformer.transformer_blocks.0.attn.to_q.lora_B.weight' (3073, 2))"
            ),
        ),
        (
            pair("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216)
            | pair("transformer.transformer_blocks.0.attn.to_q", 3072, 3072),
            (
                "It changes one layer twice: as 'transformer_blocks.0.attn.to_q' and as "
                "'double_blocks_0_img_attn_qkv'"
            ),
        ),
        (pair("transformer.x_embedder", 128, 3072) | flux1(), "control LoRA"),
    ],
)
def test_what_fits_nothing_is_listed_and_not_used(library, folder, tensors, says):
    write(folder / "one.safetensors", tensors)
    assert says in bad(library, "one")
    with pytest.raises(InvalidLoraError, match="'one' cannot be used") as refused:
        library.find("one")
    assert refused.value.hint
    assert list(library) == []


def test_a_pickle_is_listed_and_never_opened(library, folder):
    (folder / "ink.pt").write_bytes(b"cos\nsystem\n")
    assert "is a pickle" in bad(library, "ink")
    with pytest.raises(UnknownLoraError):
        library.find("ink")


def test_other_files_are_nobodys_business(library, folder):
    for name in ("ink.toml", "ink.png", "README.md", ".hidden", "._striped.safetensors"):
        (folder / name).write_text("x")
    put_striped(folder / ".cache" / "huggingface")
    assert library.listing() == ()


def test_a_link_to_somewhere_else_is_not_followed(library, folder, tmp_path):
    put_striped(tmp_path)
    (folder / "there.safetensors").symlink_to(tmp_path / "striped.safetensors")
    (folder / "gone.safetensors").symlink_to(tmp_path / "nothing.safetensors")
    (folder / "other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    put_striped(tmp_path / "elsewhere")
    assert "link to somewhere else" in bad(library, "there")
    assert "cannot be read" in bad(library, "gone")
    assert "link to somewhere else" in bad(library, "other")
    assert len(library.listing()) == 3


USABLE_NAMES = [
    "my stripes (1)", "styles/ink", "flux/styles/[v2] ink, rough {x}", "墨絵", "ink.v1.5+2",
    "Über Größe", "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize("name", USABLE_NAMES)
def test_names_with_folders_spaces_and_brackets_are_used(library, folder, name):
    path = folder / f"{name}.safetensors"
    put_striped(path.parent, path.stem)
    path.with_suffix(".toml").write_text('title = "Mine"')
    (lora,) = library
    assert (lora.name, lora.about.title, library.names()) == (name, "Mine", (name,))
    assert library.find(name) == lora
    assert library.find(unicodedata.normalize("NFD", name)) == lora


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".Safetensors", ".sft"])
def test_the_suffix_may_be_written_in_any_way(library, folder, suffix):
    put_striped(folder).rename(folder / f"striped{suffix}")
    assert library.find("striped").families == ("micro",)


@pytest.mark.parametrize("name", ["a:b", "a?", 'a"b', "a\\b", "a\nb", "a|b", "a ", "a" * 201])
def test_a_name_that_not_every_system_has_is_listed_and_not_used(library, folder, name):
    put_striped(folder, name)
    assert "name cannot be used" in bad(library, name)


def test_of_two_files_of_one_name_the_first_is_used(library, folder):
    put_striped(folder)
    (folder / "striped.SAFETENSORS").write_bytes(b"x")
    assert library.find("striped").path.suffix == ".safetensors"
    one, other = library.listing()
    assert isinstance(one, Lora)
    assert isinstance(other, BadLora)
    assert other.error.message == "striped.safetensors has the same name."


@pytest.mark.parametrize(
    ("config", "left_out"),
    [
        ('{"r": 8, "lora_alpha": 8}', ()),
        ('{"r": 8, "lora_alpha": 16}', ("; it was trained with weight 2",)),
        ('{"r": 4, "lora_alpha": 8, "use_rslora": true}', ("; it was trained with weight 4",)),
        ('{"r": 8, "lora_alpha": 8, "alpha_pattern": {"to_q": 4}}', ("",)),
        ("{", None),
    ],
)
def test_the_settings_beside_a_file_of_peft_are_told_where_they_count(
    library, folder, config, left_out
):
    put_striped(folder / "mine", "adapter_model")
    (folder / "mine" / "adapter_config.json").write_text(config)
    found = library.find("mine/adapter_model").left_out
    start = "the alpha in adapter_config.json beside it"
    expected = ("adapter_config.json beside it",) if left_out is None else left_out
    assert found == (expected if left_out is None else tuple(start + end for end in expected))


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(library, folder):
    put_striped(folder / "styles", "Striped")
    for name in ("striped", "Striped.safetensors", "styles/striped"):
        with pytest.raises(UnknownLoraError) as refused:
            library.find(name)
        assert refused.value.hint.startswith("Did you mean 'styles/Striped'?")


# --- what people say of it -----------------------------------------------------------------------

ABOUT = """
title = "Stripes"
trigger_words = ["striped"]
weight_range = [0.5, 1.2]
licence = "apache-2.0"
source = "training/lora.py"
"""


def test_a_toml_file_beside_it_says_what_it_is(library, folder):
    put_striped(folder)
    (folder / "striped.toml").write_text(ABOUT)
    about = library.find("striped").about
    assert (about.title, about.trigger_words, about.weight_range, about.licence, about.source) == (
        "Stripes", ("striped",), (0.5, 1.2), "apache-2.0", "training/lora.py"
    )  # fmt: skip


def test_the_metadata_of_its_trainer_fills_what_that_leaves_out(library, folder):
    told = {
        "modelspec.title": "From the trainer",
        "modelspec.trigger_phrase": "ohwx man, inkwork , ",
        "modelspec.license": "MIT",
    }
    write(folder / "ink.safetensors", flux1(), **told)
    about = library.find("ink").about
    assert (about.title, about.trigger_words, about.licence) == (
        "From the trainer", ("ohwx man", "inkwork"), "MIT"
    )  # fmt: skip
    (folder / "ink.toml").write_text('title = "Mine"\ntrigger_words = ["ink"]')
    about = library.find("ink").about
    assert (about.title, about.trigger_words, about.licence) == ("Mine", ("ink",), "MIT")


def test_metadata_is_cut_short_and_cleaned(library, folder):
    write(folder / "ink.safetensors", flux1(), ss_output_name="a\x1b[31m\n" + "b" * 1000)
    title = library.find("ink").about.title
    assert title is not None
    assert title.startswith("a[31m b")
    assert len(title) == 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title = ", "striped.toml is not TOML"),
        ('titel = "x"', "striped.toml: titel: Extra inputs"),
        ("weight_range = [1, 0.5]", "two numbers in order"),
        ("weight_range = [0, 5]", "from -4 to 4"),
        ('family = "sdxl"', "striped.toml: family"),
    ],
)
def test_a_toml_file_that_is_wrong_is_said(library, folder, text, says):
    put_striped(folder)
    (folder / "striped.toml").write_text(text)
    assert says in bad(library, "striped")


# --- whether it fits -----------------------------------------------------------------------------


def layers_of(spec: ModelSpec, settings: Settings) -> Architecture | None:
    drawing = spec if spec.base is None else REGISTRY.find("text2img", spec.base)
    return architecture_of(spec, settings.weights_dir / str(drawing.folder))


def striped(library: LoraLibrary, folder: Path) -> Lora:
    put_striped(folder)
    return library.find("striped")


@pytest.mark.parametrize("kind", ["text2img", "kontext", "fill", "control", "redux"])
def test_micros_lora_fits_every_kind_of_micro(library, folder, settings, kind):
    spec = REGISTRY.find(kind, "micro")
    layers = layers_of(spec, settings)
    assert layers is not None
    require_fit(striped(library, folder), spec, layers)


def test_another_familys_model_is_refused_by_name(library, folder):
    with pytest.raises(LoraMismatchError, match="made for micro; flux1-dev is of the family flux1"):
        require_fit(striped(library, folder), REGISTRY.find("text2img", "flux1-dev"), None)


def test_another_size_of_the_same_family_is_refused(library, folder, settings):
    """What a layer of `fill` takes in, text2img does not."""
    write(folder / "wide.safetensors", pair("transformer.x_embedder", 320, 128))
    lora = library.find("wide")
    fill = REGISTRY.find("fill", "micro")
    require_fit(lora, fill, layers_of(fill, settings))
    with pytest.raises(LoraMismatchError, match="'x_embedder' is 320 to 128, that of micro 32"):
        require_fit(lora, MICRO, layers_of(MICRO, settings))
