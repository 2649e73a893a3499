"""Three methods: what trains and what does not, the way to the disk and back, refusals, merging.

Run: pytest tests/unit/test_peft_methods.py
"""

import json

import pytest
import torch
from small_models import SIZES

from common import footprint, methods
from common.errors import ExitCode, UserError
from common.methods.bottleneck import BottleneckModel
from common.methods.fitting import check_adapter, check_method
from common.methods.kinds import keep_nf4_layout
from common.methods.merging import merge_adapter
from common.models import load_model
from common.settings import MethodSettings, Recipe
from common.weights import build_skeleton

IDS = torch.arange(24).reshape(2, 12)
METHODS = {
    "lora": MethodSettings(rank=4, dropout=0),
    "svd": MethodSettings(rank=4, dropout=0, init="svd"),
    "houlsby": MethodSettings(kind="adapter", size=8),
    "pfeiffer": MethodSettings(kind="adapter", size=8, placement="pfeiffer"),
    "ptuning": MethodSettings(kind="ptuning", virtual_tokens=5, encoder_size=16),
}
PRECISIONS = ("fp32", "nf4")
LAYOUTS = ("mistral", "llama", "phi3", "qwen2", "qwen3")
BY_NAME = pytest.mark.parametrize("name", METHODS)


def load(folder, precision="fp32"):
    """The model, computing in evaluation with the kernels it trains with."""
    model = load_model(folder, precision)
    keep_nf4_layout(model)
    return model


def add(folder, name, precision="fp32"):
    torch.manual_seed(0)
    return methods.add_method(load(folder, precision), METHODS[name], str(folder), folder)


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def train_a_little(model):
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(4):
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def frozen_weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if not weight.requires_grad}


@BY_NAME
@pytest.mark.parametrize("precision", PRECISIONS)
def test_frozen_weights_stay_and_disk_and_checkpoint_give_the_same_logits(tiny_folder, tmp_path, name, precision):
    model = add(tiny_folder, name, precision)
    before, start = frozen_weights(model), logits(model)
    train_a_little(model)
    after = frozen_weights(model)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    methods.require_trained(model)
    trained = logits(model)
    assert (trained - start).abs().max() > 1e-2

    methods.save_adapter(model, tmp_path / "adapter")
    methods.save_state(model, tmp_path / "state")
    check_adapter(tmp_path / "adapter", tiny_folder)
    reloaded = logits(methods.load_adapter(load(tiny_folder, precision), tmp_path / "adapter"))
    if name != "svd":
        assert torch.equal(reloaded, trained)
    elif precision == "fp32":  # it is saved as plain LoRA over the untouched base: the same but for rounding
        assert torch.allclose(reloaded, trained, atol=1e-5)
    again = add(tiny_folder, name, precision)
    methods.load_state(again, tmp_path / "state")
    assert torch.equal(logits(again), trained)


@BY_NAME
def test_only_what_should_train_does_and_its_count_is_that_of_the_formula(tiny_folder, name):
    model = add(tiny_folder, name)
    settings = METHODS[name]
    trainable, total = methods.count_parameters(model)
    config = json.loads((tiny_folder / "config.json").read_text())
    assert trainable == footprint.count_trainable(config, settings)
    assert total == trainable + sum(footprint.count_weights(config))
    mark = {"lora": "lora_", "adapter": "adapters.", "ptuning": "prompt_encoder."}[settings.kind]
    assert {mark in key for key, weight in model.named_parameters() if weight.requires_grad} == {True}
    assert {mark in key for key, weight in model.named_parameters() if not weight.requires_grad} == {False}


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", ["houlsby", "pfeiffer"])
def test_bottleneck_adapters_begin_as_the_base_on_every_layout_and_leave_without_a_trace(kind, name, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **heads))
    plain = logits(base)
    model = methods.add_method(base, METHODS[name], kind)
    assert isinstance(model, BottleneckModel)
    assert torch.equal(logits(model), plain)
    assert methods.count_parameters(model)[0] == footprint.count_trainable(base.config.to_dict(), METHODS[name])
    train_a_little(model)
    trained = logits(model)
    assert not torch.equal(trained, plain)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)

    methods.save_adapter(model, tmp_path / "one")
    train_a_little(model)
    other = logits(model)
    model.swap(tmp_path / "one")
    assert torch.equal(logits(model), trained) and not torch.equal(other, trained)
    assert torch.equal(logits(model.remove()), plain)


def test_adapters_that_do_not_fit_are_refused_and_those_there_stay(tiny_folder, tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    config = json.loads((tiny_folder / "config.json").read_text())
    for name, changes in (("wider", {"hidden_size": 48, "head_dim": 12}), ("deeper", {"num_hidden_layers": 3})):
        other = methods.add_method(MistralForCausalLM(MistralConfig(**config | changes)), METHODS["houlsby"], name)
        methods.save_adapter(other, tmp_path / name)
    model = add(tiny_folder, "houlsby")
    train_a_little(model)
    methods.save_adapter(model, tmp_path / "own")
    trained = logits(model)
    loaded = methods.load_adapter(load(tiny_folder), tmp_path / "own")
    for name, reason in (
        ("wider", "adapters of width 48, hidden states of 32"),
        ("deeper", "8 tensors .* 2-mlp.down.bias"),
    ):
        with pytest.raises(ValueError, match=reason):
            loaded.swap(tmp_path / name)
        with pytest.raises(UserError, match="does not fit this model"):
            methods.load_adapter(load(tiny_folder), tmp_path / name)
        assert torch.equal(logits(loaded), trained)
    loaded.swap(tmp_path / "own")
    assert torch.equal(logits(loaded), trained)
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_an_evaluation_in_between_takes_no_gradient_from_a_base_in_nf4(tiny_folder):
    """bitsandbytes would repack the weights at the first evaluation, for a kernel without a backward pass."""

    def gradient(model):
        model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])

    fresh, evaluated = add(tiny_folder, "houlsby", "nf4"), add(tiny_folder, "houlsby", "nf4")
    for model in (fresh, evaluated):
        for key, weight in model.named_parameters():
            if key.endswith("up.weight"):
                weight.data.fill_(0.01)
    logits(evaluated)
    assert torch.equal(gradient(fresh), gradient(evaluated))


def test_svd_keeps_the_model_and_makes_the_error_of_nf4_smaller(tiny_folder):
    full = logits(load(tiny_folder))
    assert torch.allclose(logits(add(tiny_folder, "svd")), full, atol=1e-5)
    plain_error = (logits(add(tiny_folder, "lora", "nf4")) - full).norm()
    assert (logits(add(tiny_folder, "svd", "nf4")) - full).norm() < plain_error


def test_a_soft_prompt_decodes_with_a_cache_as_without(tiny_folder, tmp_path):
    from common.generation.decoding import BatchDecoder, Row

    model = add(tiny_folder, "ptuning")
    train_a_little(model)
    methods.save_adapter(model, tmp_path)
    loaded = methods.load_adapter(load(tiny_folder), tmp_path)
    prompts = [list(range(3, 3 + n)) for n in (40, 38, 36)]
    rows = [Row(index, prompt, 6) for index, prompt in enumerate(prompts)]
    answered = [row for batch in BatchDecoder(loaded, [63], 0).decode(rows) for row in batch]
    for row in answered:
        ids = list(row.prompt)
        for _ in row.tokens:
            with torch.no_grad():
                ids.append(int(loaded(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert ids[len(row.prompt) :] == row.tokens
    plain = [row for batch in BatchDecoder(load(tiny_folder), [63], 0).decode(
        [Row(index, prompt, 6) for index, prompt in enumerate(prompts)]) for row in batch]  # fmt: skip
    assert [row.tokens for row in plain] != [row.tokens for row in answered]


@pytest.mark.parametrize("name", ["lora", "svd"])
def test_merging_changes_nothing_but_what_nf4_changed(tiny_folder, tmp_path, name):
    model = add(tiny_folder, name, "nf4")
    train_a_little(model)
    methods.save_adapter(model, tmp_path)
    merge = merge_adapter(tiny_folder, tmp_path, IDS.tolist(), trained_on_nf4=True)
    assert merge.largest_change < 1e-5
    assert 0 < merge.nf4_change < 1
    assert 0 < merge.nf4_same_choice <= 1
    assert not any("lora" in key for key in merge.model.state_dict())
    with torch.no_grad():
        adapted = methods.load_adapter(load(tiny_folder), tmp_path)(input_ids=IDS).logits
        assert torch.allclose(merge.model(input_ids=IDS).logits, adapted, atol=1e-4)


def test_what_is_no_lora_is_not_merged(tiny_folder, tmp_path):
    methods.save_adapter(add(tiny_folder, "houlsby"), tmp_path)
    with pytest.raises(UserError, match="only LoRA can be written into the weights") as caught:
        merge_adapter(tiny_folder, tmp_path, [])
    assert caught.value.exit_code == ExitCode.CONFIG


@BY_NAME
def test_an_adapter_of_another_base_is_refused_from_its_header(tiny_folder, tmp_path, name):
    from transformers import MistralConfig, MistralForCausalLM

    methods.save_adapter(add(tiny_folder, name), tmp_path / "adapter")
    config = json.loads((tiny_folder / "config.json").read_text()) | {"hidden_size": 48, "head_dim": 12}
    MistralForCausalLM(MistralConfig(**config)).save_pretrained(tmp_path / "wider")
    with pytest.raises(UserError, match=r"is not one of wider.*one for 2 layers of width 48") as caught:
        check_adapter(tmp_path / "adapter", tmp_path / "wider")
    assert caught.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize(
    ("options", "tensor"),
    [
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight"),
        ({"bias": "lora_only"}, "q_proj.base_layer.bias"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens.base_layer.weight"),
    ],
    ids=["head", "bias", "embedding"],
)
def test_what_another_program_trained_beside_lora_is_held_against_the_models_own(tmp_path, options, tensor):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    for name, changes in (("own", {}), ("wider", {"hidden_size": 48, "head_dim": 12})):
        LlamaForCausalLM(LlamaConfig(**SIZES | changes, attention_bias=True)).save_pretrained(tmp_path / name)
        (tmp_path / name / "tokenizer.json").write_text("{}")
    chosen = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]} | options
    adapted = get_peft_model(load_model(tmp_path / "own", "fp32"), LoraConfig(**chosen))
    adapted.save_pretrained(tmp_path / "adapter")
    check_adapter(tmp_path / "adapter", tmp_path / "own")
    methods.load_adapter(load_model(tmp_path / "own", "fp32"), tmp_path / "adapter")
    with pytest.raises(UserError, match=rf"{tensor} is \[.*, the model's is \["):
        check_adapter(tmp_path / "adapter", tmp_path / "wider")


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("starcoder2", ["q_proj", "c_fc", "c_proj"]),
        ("phi", ["v_proj", "dense", "fc1"]),
        ("gpt_neox", ["query_key_value", "dense_4h_to_h"]),
    ],
)
def test_lora_on_layers_of_other_names_is_counted_as_it_is_trained(tmp_path, kind, targets):
    from transformers import AutoConfig, AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES))
    base.config.save_pretrained(tmp_path)
    method = MethodSettings(rank=4, targets=targets)
    said = check_method(Recipe("test", "finetune_ba", method=method), tmp_path)
    adapted = methods.add_method(base, method, kind)
    trainable, _ = methods.count_parameters(adapted)
    assert said.startswith(f"lora: {trainable:,} parameters to train")
    assert methods.describe_trainable(adapted, method, tmp_path).startswith(f"trainable params: {trainable:,} ")


def test_an_adapter_that_learned_nothing_is_refused(tiny_folder):
    for name in METHODS:
        with pytest.raises(UserError, match="after training as they began"):
            methods.require_trained(add(tiny_folder, name))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (MethodSettings(targets=["q_prj"]), "no layer is called 'q_prj' — layers: .*q_proj.* — did you mean q_proj"),
        (MethodSettings(rank=33, init="svd"), "has 16 singular values — a rank of at most 16, or init zero"),
        (MethodSettings(kind="ptuning", virtual_tokens=60), "the model holds 64 tokens"),
    ],
    ids=["target", "rank", "room"],
)
def test_what_cannot_work_is_refused_before_any_weight_is_loaded(tiny_folder, method, expected):
    (tiny_folder / "model.safetensors").unlink()
    recipe = Recipe("test", "finetune_ba", method=method)
    recipe.data.max_length_tokens = 32
    with pytest.raises(UserError, match=expected) as caught:
        check_method(recipe, tiny_folder)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_a_check_says_what_will_train_and_loads_nothing(tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    recipe = Recipe("test", "finetune_ba", method=METHODS["houlsby"])
    assert check_method(recipe, tiny_folder) == "adapter: 2,208 parameters to train (houlsby, 4 of size 8)"
    assert {weight.device.type for weight in build_skeleton(tiny_folder).parameters()} == {"meta"}


def test_a_model_without_such_layers_gets_no_bottleneck():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(UserError, match="do not know the layers of GPT2LMHeadModel — layers with self_attn and mlp"):
        methods.add_method(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32)),
                           MethodSettings(kind="adapter"), "gpt2")  # fmt: skip
