"""Each thing that goes wrong on several GPUs is found and named with its remedy.

Run: pytest tests/unit/test_diagnosis.py
"""

import pytest
import torch

from common import diagnosis
from common.errors import UserError
from common.methods import add_method
from common.settings import MethodSettings


@pytest.fixture
def adapted(tiny_model):
    return add_method(tiny_model, MethodSettings(), "tiny")


def problem_of(look, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        look(*arguments, **options)
    return str(caught.value)


def test_a_sound_model_passes(adapted):
    assert diagnosis.check_placement(adapted) == "all parameters on cpu"
    assert diagnosis.check_device_map(adapted, under_deepspeed=True) == "none"
    assert diagnosis.check_dtypes(adapted) == "frozen: float32; trained: float32"
    assert "parameters are trained" in diagnosis.check_gradients(adapted)


def test_parameters_on_meta_or_on_two_devices(adapted):
    head = adapted.get_base_model().lm_head
    head.weight = torch.nn.Parameter(head.weight.to("meta"), requires_grad=False)
    assert "1 parameters are on meta, base_model.model.lm_head.weight" in problem_of(diagnosis.check_placement, adapted)


def test_a_device_map_is_wrong_under_deepspeed_only(adapted):
    adapted.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    assert "device_map=None" in problem_of(diagnosis.check_device_map, adapted, under_deepspeed=True)
    assert "2 parts" in diagnosis.check_device_map(adapted, under_deepspeed=False)


def test_mixed_types_and_an_adapter_in_fp16(adapted):
    adapted.get_base_model().lm_head.bfloat16()
    assert "frozen weights mix float32" in problem_of(diagnosis.check_dtypes, adapted)
    adapted.half()
    assert "trained weights are in fp16" in problem_of(diagnosis.check_dtypes, adapted)


def test_nothing_to_train(adapted):
    adapted.requires_grad_(False)
    assert problem_of(diagnosis.check_gradients, adapted).startswith("0 of")


def test_another_launchers_variables(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert "unset WORLD_SIZE" in problem_of(diagnosis.check_surroundings)


def test_switches_that_turn_nvlink_off(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert "unset NCCL_P2P_DISABLE" in problem_of(diagnosis.check_nccl)
