"""The half of a family that calls torch, and how it is found by a row of the registry.

Each other module of this package, but for adapter.py, has a `FAMILY`: the functions that go with a
record of models/families.py. Adding a family is adding such a module and its record.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_mcp.errors import UnsupportedOptionError
from flux_mcp.models.registry import Kind, ModelSpec
from flux_mcp.pipelines.families.adapter import Adapter
from flux_mcp.requests.render_plan import RenderPlan


@dataclass(frozen=True)
class FamilyPipelines:
    """How the pipelines of one family are called."""

    adapters: Mapping[Kind, type[Adapter]]
    steered_from: Callable[[RenderPlan, Any], str | None]
    """From a plan and the pipeline that draws it to the text it is drawn away from, if any."""
    encode_image: Callable[[Any, Any], Any]
    """From a VAE and images, (n, 3, height, width) from -1 to 1, to their latents as
    `unpack_latents` returns them."""
    unpack_latents: Callable[[Any, Any, int, int], NDArray[np.float32]]
    """From a pipeline, its packed latents (n, tokens, 4 * channels), and the image's width and
    height to the first image's latents: (channels, height / VAE factor, width / VAE factor)."""


def family_of(spec: ModelSpec) -> FamilyPipelines:
    """Return how the pipelines of a row's family are called."""
    module = importlib.import_module(f"{__package__}.{spec.family_spec.module}")
    found: FamilyPipelines = module.FAMILY
    return found


def adapter_for(spec: ModelSpec) -> type[Adapter]:
    """Return what calls the pipeline of a row's kind.

    Raises:
        UnsupportedOptionError: the family has no such kind.
    """
    adapters = family_of(spec).adapters
    if spec.kind not in adapters:
        raise UnsupportedOptionError(
            f"{spec.id} cannot draw {spec.kind}: its family has {', '.join(adapters)}.",
            "Choose another model for this.",
        )
    return adapters[spec.kind]
