"""Rotary embeddings over a few tokens at a time: the bits of transformers' own, forward and back."""

import pytest
import torch
from transformers.models.mistral import modeling_mistral

from common import lean_rotary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_are_those_of_transformers(dtype):
    plain = modeling_mistral.apply_rotary_pos_emb
    plain = getattr(plain, "args", (plain,))[0]  # another test may have put the lean one there
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
