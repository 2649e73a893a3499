"""Rotary embeddings over a few tokens at a time: the bits of transformers' own, forward and back."""

import pytest
import torch
from transformers.models.mistral import modeling_mistral

from common import lean_rotary


def _plain():
    function = modeling_mistral.apply_rotary_pos_emb
    return getattr(function, "args", (function,))[0]  # another test may have put the lean one there


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_are_those_of_transformers(dtype):
    plain = _plain()
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    tokens = 150  # not a multiple of what is computed at a time
    q, k = (draw(1, tokens, heads, 16).transpose(1, 2).requires_grad_() for heads in (4, 2))
    cos, sin = draw(1, tokens, 16), draw(1, tokens, 16)  # halves that differ, too
    slopes = [draw(*part.shape) for part in (q, k)]
    results = []
    for rotate in (plain, lambda *parts: lean_rotary._rotate(plain, *parts)):
        turned = rotate(q, k, cos, sin)
        results.append([*turned, *torch.autograd.grad(turned, (q, k), slopes)])
    for expected, got in zip(*results, strict=True):
        assert got.dtype == dtype and torch.equal(expected, got)


def test_a_model_turns_with_it_and_computes_the_same_bits(monkeypatch):
    monkeypatch.setattr(modeling_mistral, "apply_rotary_pos_emb", _plain())  # put back afterwards
    config = modeling_mistral.MistralConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50,
    )  # fmt: skip
    torch.manual_seed(1)
    model = modeling_mistral.MistralForCausalLM(config)
    ids = torch.randint(50, (1, 150))
    turned, apply = [], lean_rotary.Rotary.apply
    monkeypatch.setattr(lean_rotary.Rotary, "apply", lambda *parts: turned.append(parts) or apply(*parts))

    def run():
        model.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in model.parameters())]

    expected = run()
    assert not turned
    for _ in range(2):  # asking twice changes nothing
        lean_rotary.use_lean_rotary(model)
    got = run()
    assert len(turned) == 2 * config.num_hidden_layers
    assert all(map(torch.equal, expected, got))
    model(ids[:, :10])
    model(ids.expand(2, -1))
    assert len(turned) == 2 * config.num_hidden_layers  # few tokens, or a batch: as before
