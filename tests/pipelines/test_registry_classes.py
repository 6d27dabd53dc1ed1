"""Every class the registry names is one of the installed libraries."""

from typing import get_args

import diffusers
import pytest
import transformers

from flux_mcp.models.registry import HelperRole, PipelineClass, load_registry

HELPERS = load_registry().helpers


@pytest.mark.parametrize("name", get_args(PipelineClass))
def test_a_pipeline_class_is_one_of_diffusers(name):
    assert issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline)


@pytest.mark.parametrize("role", get_args(HelperRole))
def test_each_role_has_a_helper_that_is_free_to_use(role):
    assert any(one.role == role and one.is_free for one in HELPERS.values())


@pytest.mark.parametrize("helper", HELPERS)
def test_the_class_of_a_helper_is_one_of_transformers(helper):
    name = HELPERS[helper].model_class
    assert issubclass(getattr(transformers, name), transformers.PreTrainedModel)
