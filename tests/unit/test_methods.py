"""LoRA: the right parameters, and an adapter that survives the disk. Run: pytest tests/unit/test_methods.py"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from common import footprint, methods
from common.errors import ExitCode, UserError
from common.settings import MethodSettings

IDS = torch.arange(24).reshape(2, 12)


def train_a_little(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_trainable_count_is_that_of_the_formula(tiny_model):
    settings = MethodSettings(rank=4)
    adapted = methods.add_method(tiny_model, settings, "tiny")
    trainable, total = methods.count_parameters(adapted)
    config = tiny_model.config.to_dict()
    assert trainable == footprint.count_trainable(config, settings)
    assert total == trainable + sum(footprint.count_weights(config))
    assert all("lora_" in name for name, weight in adapted.named_parameters() if weight.requires_grad)


def test_before_training_the_model_is_the_base(tiny_model):
    with torch.no_grad():
        plain = tiny_model(input_ids=IDS).logits.clone()
        adapted = methods.add_method(tiny_model, MethodSettings(dropout=0), "tiny")
        assert torch.equal(adapted(input_ids=IDS).logits, plain)


def test_a_saved_adapter_gives_the_same_loss_and_leaves_the_base_alone(tiny_model, tiny_folder, tmp_path):
    from common.models import load_model

    before = {name: weight.clone() for name, weight in tiny_model.named_parameters()}
    adapted = methods.add_method(tiny_model, MethodSettings(), "tiny")
    train_a_little(adapted)
    methods.require_trained(adapted)
    methods.save_adapter(adapted, tmp_path / "adapter")
    reloaded = methods.load_adapter(load_model(tiny_folder), tmp_path / "adapter")
    adapted.eval()
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=IDS).logits, reloaded(input_ids=IDS).logits)
    for name, weight in adapted.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")])
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_target_that_is_not_there_is_refused_even_when_others_are(tiny_model):
    with pytest.raises(UserError, match="no layer is called 'q_prj'.*did you mean q_proj") as caught:
        methods.add_method(tiny_model, MethodSettings(targets=["v_proj", "q_prj"]), "tiny")
    assert caught.value.exit_code == ExitCode.CONFIG


def test_an_adapter_of_another_base_is_refused(tiny_model, tiny_folder, tmp_path):
    from common.models import load_model

    adapted = methods.add_method(tiny_model, MethodSettings(), "tiny")
    methods.save_adapter(adapted, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor[..., :-1].contiguous() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(UserError, match="does not fit this model") as caught:
        methods.load_adapter(load_model(tiny_folder), tmp_path / "adapter")
    assert caught.value.exit_code == ExitCode.CONFIG


def test_a_folder_without_adapter_is_named(tiny_model, tmp_path):
    with pytest.raises(UserError, match="holds no adapter") as caught:
        methods.load_adapter(tiny_model, tmp_path)
    assert caught.value.exit_code == ExitCode.NO_INPUT
