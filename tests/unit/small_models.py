"""Tiny models with an adapter that already changes them, and ragged examples for them."""

import torch

from common.chat import Encoded
from common.methods import add_method
from common.settings import MethodSettings

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
SIZES = SHAPE | {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PREFIX = [5, 9, 13, 7, 11, 8, 40, 41]


def encoded(prompt, answer):
    return Encoded(list(prompt) + list(answer), [False] * len(prompt) + [True] * len(answer))


RAGGED = [encoded([*PREFIX, *range(10, 10 + n)], range(30, 31 + 3 * n)) for n in (0, 1, 5, 2, 9, 0, 3)]


def make_model(kind, seed=0, dropout=0.0, **options):
    """A model with LoRA that already changes it."""
    targets = ["qkv_proj", "o_proj"] if kind == "phi3" else ["q_proj", "v_proj", "down_proj"]
    return _tuned(kind, MethodSettings(dropout=dropout, targets=targets), "lora_B", seed, **options)


def make_adapted(kind):
    """A model with bottleneck adapters that already change it."""
    return _tuned(kind, MethodSettings(kind="adapter", size=8), "up.weight")


def _tuned(kind, method, last_weights, seed=0, **options):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **options), attn_implementation="sdpa")
    model = add_method(model, method, kind)
    for name, weight in model.named_parameters():
        if last_weights in name:
            torch.nn.init.normal_(weight, std=0.1)
        elif "norm" in name:
            torch.nn.init.normal_(weight, mean=1, std=0.2)
    return model


def gradient(model):
    flat = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])
    model.zero_grad()
    return flat
