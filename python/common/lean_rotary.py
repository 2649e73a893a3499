"""Rotary position embeddings on a CPU in one go over 64 tokens at a time, in place of five operations over all.

The arithmetic, and every bit of the result, is that of transformers' ``apply_rotary_pos_emb``; but what lies between
its operations stays in the cache, and the result lies in memory that is used again.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch

from common.recycled_memory import new_rows
from common.teamwork import share_out

_CACHED_ROWS = 64  # tokens at a time
_NAME = "apply_rotary_pos_emb"
_ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")


class Rotary(torch.autograd.Function):
    """x ∘ cos + (−x₂, x₁) ∘ sin for the halves x₁ and x₂ of each head (arXiv 2104.09864, section 3.4.2).

    x [1, heads, tokens, width], cos and sin [1, tokens, width], all of one dtype.
    """

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, slope):
        cos, sin = ctx.saved_tensors
        return _turn(slope, cos, sin.roll(sin.shape[-1] // 2, -1).neg_()), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    tokens = x[0].transpose(0, 1)
    result = new_rows(x, *tokens.shape)

    def turn(rows) -> None:
        x_rows, cos_rows, sin_rows, result_rows = rows
        torch.mul(x_rows, cos_rows, out=result_rows)
        (first, second), (first_sin, second_sin) = x_rows.chunk(2, -1), sin_rows.chunk(2, -1)
        first_result, second_result = result_rows.chunk(2, -1)
        first_result -= second * first_sin
        second_result += first * second_sin

    factors = (factor[0, :, None] for factor in (cos, sin))
    parts = (part.split(_CACHED_ROWS) for part in (tokens, *factors, result))
    share_out(turn, list(zip(*parts, strict=True)))
    return result.transpose(0, 1)[None]


def use_lean_rotary(model) -> None:
    """Let the attention layers of ``model`` compute these; they find the function in their class's module."""
    for kind in {type(module) for module in model.modules()}:
        if kind.__name__ in _ATTENTIONS:
            home = sys.modules[kind.__module__]
            plain = getattr(home, _NAME)
            if getattr(plain, "func", None) is not _rotate:  # not put there before
                setattr(home, _NAME, partial(_rotate, plain))


def _rotate(
    plain: Callable, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest, **options
) -> tuple[torch.Tensor, torch.Tensor]:
    one = len(q) == len(cos) == 1 and q.shape[2] > _CACHED_ROWS
    if not one or rest or options or q.device.type != "cpu" or not q.dtype == k.dtype == cos.dtype == sin.dtype:
        return plain(q, k, cos, sin, *rest, **options)
    return Rotary.apply(q, cos, sin), Rotary.apply(k, cos, sin)
