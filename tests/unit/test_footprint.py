"""Memory estimates: exact where they can be, else ordered. Run: pytest tests/unit/test_footprint.py"""

import pytest

from common import footprint
from common.recipes import load_recipe
from common.settings import MethodSettings
from common.shapes import SHAPES

MISTRAL_7B, LLAMA_3B = SHAPES["mistral-7b"], SHAPES["llama-3.2-3b"]


def estimate(precision="bf16", tokens=2048, every=1):
    return footprint.estimate_training(MISTRAL_7B, MethodSettings(), precision, tokens, checkpoint_every=every)


def test_the_count_of_weights_is_exact():
    assert sum(footprint.count_weights(MISTRAL_7B)) == 7_241_732_096  # as the hub states for Mistral-7B


def test_the_count_of_lora_parameters_is_exact():
    assert footprint.count_trainable(MISTRAL_7B, MethodSettings(rank=8)) == 32 * 8 * (8192 + 5120 + 5120 + 8192)


def test_weights_by_precision():
    assert estimate("fp32").weights == pytest.approx(26.98, abs=0.01)
    assert estimate("bf16").weights == pytest.approx(13.49, abs=0.01)
    assert 3.8 < estimate("nf4").weights < 4.3  # 0.33 of it three matrices unpacked


LLAMA_8B = MISTRAL_7B | {"vocab_size": 128256}
ON_A_CARD = {"checkpoint_every": 1, "optimizer": "paged_adamw_8bit", "gpu": True, "few_logits": True}


def test_small_cards_are_enough_by_estimate():
    """The 3B by utn-qlora's numbers; an 8B with rank 8, as in torchtune's recipe for one card, which states 7.4 GiB."""
    recipe = load_recipe("utn-qlora")
    assert sum(footprint.count_weights(LLAMA_3B)) == 3_212_749_824  # as the hub states for Llama-3.2-3B
    adapter_mib = footprint.count_trainable(LLAMA_3B, recipe.method) * 4 / 2**20
    assert adapter_mib == pytest.approx(185.5, abs=0.1)
    assert footprint.estimate_training(LLAMA_3B, recipe.method, "nf4", 512, **ON_A_CARD).total < 5 * 1e9 / 2**30
    rank_8 = MethodSettings(rank=8, alpha=16, targets=recipe.method.targets)
    assert footprint.estimate_training(LLAMA_8B, rank_8, "nf4", 2048, **ON_A_CARD).total < 7.4


def test_eight_bits_and_few_logits_are_seen_to_save_memory():
    plain = footprint.estimate_training(LLAMA_3B, MethodSettings(), "nf4", 2048, checkpoint_every=1, gpu=True)
    small = footprint.estimate_training(LLAMA_3B, MethodSettings(), "nf4", 2048, **ON_A_CARD)
    assert small.adapter + small.optimizer == pytest.approx((plain.adapter + plain.optimizer) * 10 / 16)
    assert small.logits < plain.logits / 7
    assert small.runtime == plain.runtime < estimate().runtime


def test_what_saves_memory_is_seen_to_save_it():
    assert estimate(every=1).activations < estimate(every=None).activations / 5
    assert estimate(every=1).total < estimate(every=2).total < estimate(every=4).total < estimate(every=None).total
    assert estimate(tokens=512).total < estimate(tokens=2048).total
    assert estimate("nf4").total < estimate("bf16").total < estimate("fp32").total


def test_in_int8_the_linear_layers_take_half_and_the_rest_what_it_did():
    linear, other = footprint.count_weights(MISTRAL_7B)
    for precision, width in (("bf16", 2), ("fp32", 4)):
        found = footprint.weights_gib(MISTRAL_7B, precision, "int8")
        assert found == pytest.approx((linear * 1.002 + other * width) / 2**30)
        assert footprint.computed_width(precision, "int8") == width


def test_in_nf4_what_is_computed_in_fp32_takes_twice_the_memory():
    """On a CPU without bf16 instructions: embedding, unpacked matrices, activations and logits."""
    half, full = (
        footprint.estimate_training(
            MISTRAL_7B, MethodSettings(), "nf4", 1000, checkpoint_every=1, compute=compute, few_logits=True
        )
        for compute in ("bf16", "fp32")
    )
    assert full.weights - half.weights == pytest.approx((2 * 32_000 * 4096 + 65 * 4096 + 3 * 4096 * 14_336) * 2 / 2**30)
    assert 1.3 < full.activations / half.activations <= 2
    assert footprint.computed_width("bf16", "fp32") == footprint.computed_width("nf4") == 2
