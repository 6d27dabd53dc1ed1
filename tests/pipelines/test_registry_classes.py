"""Every class the registry names is one of the installed libraries."""

from typing import get_args

import diffusers
import pytest
import transformers

from flux_mcp.models.registry import FREE_LICENCES, HelperRole, PipelineClass, load_registry

HELPERS = load_registry().helpers


@pytest.mark.parametrize("name", get_args(PipelineClass))
def test_a_pipeline_class_is_one_of_diffusers(name):
    assert issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline)


@pytest.mark.parametrize("role", get_args(HelperRole))
def test_each_role_has_a_helper_that_is_free_to_use_and_can_be_loaded(role):
    assert HELPERS[role].licence in FREE_LICENCES
    assert issubclass(
        getattr(transformers, HELPERS[role].model_class), transformers.PreTrainedModel
    )
