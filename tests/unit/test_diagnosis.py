"""Each thing that goes wrong on several GPUs is found and named with its remedy.

Run: pytest tests/unit/test_diagnosis.py
"""

import json
from types import SimpleNamespace

import pytest
import torch

from common import diagnosis, hardware, model_diagnosis
from common.errors import UserError
from common.methods import add_method
from common.recipes import load_recipe
from common.settings import MethodSettings


@pytest.fixture
def adapted(tiny_model):
    return add_method(tiny_model, MethodSettings(), "tiny")


def problem_of(look, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        look(*arguments, **options)
    return str(caught.value)


def test_a_sound_model_passes(adapted):
    assert model_diagnosis.check_placement(adapted) == "all parameters on cpu"
    assert model_diagnosis.check_device_map(adapted, under_deepspeed=True) == "none"
    assert model_diagnosis.check_dtypes(adapted) == "frozen: float32; trained: float32"
    assert "parameters are trained" in model_diagnosis.check_gradients(adapted)


def test_parameters_on_meta_or_on_two_devices(adapted):
    head = adapted.get_base_model().lm_head
    head.weight = torch.nn.Parameter(head.weight.to("meta"), requires_grad=False)
    assert "1 parameters are on meta, base_model.model.lm_head.weight" in problem_of(
        model_diagnosis.check_placement, adapted
    )
    places = [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 1)]
    parameters = [SimpleNamespace(device=place, is_meta=False) for place in places]
    split = SimpleNamespace(parameters=lambda: parameters, named_parameters=lambda: enumerate(parameters))
    assert "1 on cuda:0, 2 on cuda:1" in problem_of(model_diagnosis.check_placement, split)


def test_a_device_map_is_wrong_under_deepspeed_only(adapted):
    adapted.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    assert "device_map=None" in problem_of(model_diagnosis.check_device_map, adapted, under_deepspeed=True)
    assert "2 parts" in model_diagnosis.check_device_map(adapted, under_deepspeed=False)


def test_a_model_that_was_loaded_with_a_device_map():
    split = {"model": "cpu", "lm_head": "disk"}
    outcomes = model_diagnosis.look_at_model(load_recipe("frida-h100", smoke=True), None, split)
    failed = {outcome.title: str(outcome.problems[0]) for outcome in outcomes if not outcome.ok}
    assert list(failed) == ["placement", "device map"]
    assert "on meta" in failed["placement"] and "device_map of 2 parts" in failed["device map"]


def test_a_model_is_loaded_in_the_precision_that_a_training_picks(monkeypatch):
    monkeypatch.setattr(hardware, "bf16_flag", lambda: "amx_bf16")
    given = {"model.precision": ("auto", "--set"), "training.device": ("cpu", "--set")}
    outcomes = model_diagnosis.look_at_model(load_recipe("demo", given), None)
    assert {outcome.title: outcome.found for outcome in outcomes}["dtypes"] == "frozen: bfloat16; trained: float32"


def test_mixed_types_and_an_adapter_in_fp16(adapted):
    adapted.get_base_model().lm_head.bfloat16()
    assert "frozen weights mix float32" in problem_of(model_diagnosis.check_dtypes, adapted)
    adapted.half()
    assert "trained weights are in fp16" in problem_of(model_diagnosis.check_dtypes, adapted)


def test_nothing_to_train(adapted):
    adapted.requires_grad_(False)
    assert problem_of(model_diagnosis.check_gradients, adapted).startswith("0 of")


def test_another_launchers_variables(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert "unset WORLD_SIZE" in problem_of(diagnosis.check_surroundings)


def test_an_apple_gpu_is_a_device_that_trains(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for is_there, said in ((True, "an Apple GPU; "), (False, "no CUDA GPU; ")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda is_there=is_there: is_there)
        assert diagnosis.describe_devices().startswith(said)


def test_switches_that_turn_nvlink_off(monkeypatch):
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert "unset NCCL_P2P_DISABLE" in problem_of(diagnosis.check_switches)


def test_a_batch_that_settings_and_deepspeed_count_otherwise(tmp_path):
    pytest.importorskip("deepspeed")
    recipe = load_recipe("frida-h100")
    (tmp_path / "ds.json").write_text(json.dumps({"gradient_accumulation_steps": 4, "train_batch_size": 128}))
    recipe.training.deepspeed = str(tmp_path / "ds.json")
    look = diagnosis.look_at_settings(recipe)["batch"]
    assert problem_of(look).startswith("ds.json: gradient_accumulation_steps is 4 — training.gradient_accumulation 2")


def test_a_model_that_does_not_fit(monkeypatch):
    recipe = load_recipe("demo")
    assert model_diagnosis.check_fit(recipe).startswith("2,048 tokens: about")
    monkeypatch.setattr(hardware, "memory_gib", lambda device="cpu": (0.1, 1.0))
    assert "0.1 of 1.0 GiB free" in problem_of(model_diagnosis.check_fit, recipe)


def test_ranks_that_reach_each_other_and_ranks_that_do_not(monkeypatch):
    assert diagnosis.check_messages() == "2 ranks added up a number through gloo"
    monkeypatch.setattr(diagnosis, "_MESSAGE_TIMEOUT_S", 0.1)
    assert "do not reach each other: no answer within 0.1 s" in problem_of(diagnosis.check_messages)


@pytest.mark.parametrize("debug", [None, "INFO"])
def test_what_nccl_says_of_itself_is_shown_when_asked_for_and_blocks_nobody(monkeypatch, capfd, debug):
    monkeypatch.delenv("NCCL_DEBUG", raising=False)
    if debug:
        monkeypatch.setenv("NCCL_DEBUG", debug)
    rank = diagnosis._start_rank("print('NCCL INFO ' * 20_000)", 0, 1, 29500)
    assert rank.wait(timeout=60) == 0
    assert ("NCCL INFO" in capfd.readouterr().out) == bool(debug)
