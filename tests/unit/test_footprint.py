"""Memory estimates: exact where they can be, else ordered. Run: pytest tests/unit/test_footprint.py"""

import pytest

from common import footprint
from common.settings import MethodSettings

MISTRAL_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


def estimate(precision="bf16", tokens=2048, every=1):
    return footprint.estimate_training(MISTRAL_7B, MethodSettings(), precision, tokens, checkpoint_every=every)


def test_the_count_of_weights_is_exact():
    assert sum(footprint.count_weights(MISTRAL_7B)) == 7_241_732_096  # as the hub states for Mistral-7B


def test_the_count_of_lora_parameters_is_exact():
    assert footprint.count_trainable(MISTRAL_7B, MethodSettings(rank=8)) == 32 * 8 * (8192 + 5120 + 5120 + 8192)


def test_weights_by_precision():
    assert estimate("fp32").weights == pytest.approx(26.98, abs=0.01)
    assert estimate("bf16").weights == pytest.approx(13.49, abs=0.01)
    assert 3.6 < estimate("nf4").weights < 4.1


def test_what_saves_memory_is_seen_to_save_it():
    assert estimate(every=1).activations < estimate(every=None).activations / 5
    assert estimate(every=1).total < estimate(every=2).total < estimate(every=4).total < estimate(every=None).total
    assert estimate(tokens=512).total < estimate(tokens=2048).total
    assert estimate("nf4").total < estimate("bf16").total < estimate("fp32").total
