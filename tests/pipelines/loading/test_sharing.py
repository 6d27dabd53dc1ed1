"""Each kind costs its transformer only: everything else is one object for a family."""

from types import SimpleNamespace

import pytest

from flux_mcp.models.registry import KINDS
from tests.pipelines.loading.tiny_flux2 import klein_row

pytestmark = pytest.mark.usefixtures("torch_here")


def storages(module):
    """Where a model's numbers lie; of packed ones, where their parts do."""
    found = set()
    waiting = [*module.parameters(), *module.buffers()]
    while waiting:
        tensor = waiting.pop()
        flatten = getattr(tensor, "__tensor_flatten__", None)
        if flatten is None:
            found.add(tensor.untyped_storage().data_ptr())
        else:
            waiting += [getattr(tensor, name) for name in flatten()[0]]
    return found


def everything(fresh, row):
    """Everything a row is drawn with; text encoders come when a prompt must be encoded."""
    resident = fresh.load(row)
    encoder = fresh.encoder(resident).components
    drawn_by = resident.pipe.components
    return SimpleNamespace(**{name: drawn_by[name] or encoder[name] for name in drawn_by})


SHARED = ("vae", "text_encoder", "text_encoder_2")


def test_five_kinds_are_four_transformers_and_one_of_everything_else(fresh, registry):
    pipes = [everything(fresh, registry.find(kind, "micro")) for kind in KINDS]
    for name in SHARED:
        assert len({frozenset(storages(getattr(pipe, name))) for pipe in pipes}) == 1, name
        assert len({id(getattr(pipe, name)) for pipe in pipes}) == 1, name
    for name in ("tokenizer", "tokenizer_2"):
        assert len({id(getattr(pipe, name)) for pipe in pipes}) == 1, name
    assert len({frozenset(storages(pipe.transformer)) for pipe in pipes}) == 4
    loads = [line for line in fresh.said if line.startswith("loading") and "," not in line]
    assert sorted(loads) == sorted(
        ["loading transformer"] * 4
        + [f"loading {name}" for name in (*SHARED, "tokenizer", "tokenizer_2")]
        + [f"loading {name}" for name in ("image_encoder", "image_embedder", "feature_extractor")]
    )


def test_precisions_of_a_transformer_share_everything_else(fresh, registry, micro, micro_gguf):
    def held(kind, **changes):
        # Under names of their own, so that none takes another's place.
        row = registry.find(kind, "micro")
        return row.model_copy(
            update={
                "id": "-".join(["micro", *map(str, changes.values())]).lower().rsplit("/", 1)[-1],
                **changes,
            }
        )

    rows = [
        held("text2img", precision="bf16"),
        held("text2img", precision="int8"),
        held("text2img", precision="fp8"),
        held("text2img", precision="q8_0", gguf=micro_gguf("Q8_0")),
        held("fill", precision="bf16"),
        held("kontext", precision="int8"),
    ]
    pipes = [everything(fresh, row) for row in rows]
    for name in SHARED:
        assert len({frozenset(storages(getattr(pipe, name))) for pipe in pipes}) == 1, name
    transformers = [storages(pipe.transformer) for pipe in pipes]
    assert not set.intersection(*transformers)
    assert sum(map(len, transformers)) == len(set.union(*transformers))


def test_text_precisions_share_the_transformer(fresh, micro):
    rows = [
        micro.model_copy(
            update={"id": f"micro-{text}", "precision": "bf16", "text_precision": text}
        )
        for text in ("bf16", "int8", "fp8")
    ]
    pipes = [everything(fresh, row) for row in rows]
    assert len({frozenset(storages(pipe.transformer)) for pipe in pipes}) == 1
    assert len({frozenset(storages(pipe.text_encoder)) for pipe in pipes}) == 1  # CLIP is small
    assert len({id(pipe.text_encoder_2) for pipe in pipes}) == 3


def test_flux2_draws_and_edits_with_one_transformer(fresh, klein_dir):
    pipes = [everything(fresh, klein_row(k, klein_dir / "klein")) for k in ("text2img", "kontext")]
    for name in ("vae", "text_encoder", "transformer"):
        assert len({frozenset(storages(getattr(pipe, name))) for pipe in pipes}) == 1, name
    assert pipes[0].tokenizer is pipes[1].tokenizer
    assert pipes[0].scheduler is not pipes[1].scheduler
