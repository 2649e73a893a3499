"""Fixtures of the unit tests: a tiny random model of the right shape, in a folder, as a hub would give it."""

import pytest

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def tiny_model():
    """A random two-layer Mistral, the same each time."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**TINY))


@pytest.fixture
def tiny_folder(tiny_model, tmp_path):
    """The tiny model on disk, with a stand-in for its tokenizer file."""
    folder = tmp_path / "tiny"
    tiny_model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder
