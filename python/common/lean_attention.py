"""Attention over a pack on a few cores of a CPU: each takes the next head of keys when it is done with one.

Of the seven products of PyTorch's own attention in bf16, three are computed by oneDNN, as those with the weights are,
and they take an eighth of its time. And it wants the keys of each example in one tensor, with a copy of those that
examples share. Here oneDNN computes all seven, for some hundred queries at a time, whose scores stay in the cache.
Scores are in fp32 as well; only queries, keys and values are kept for the backward pass.
``docs/fast-path.md`` has the figures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from common.packing import Layout
from common.recycled_memory import new_rows
from common.teamwork import share_out

_CACHED_SCORES = 2**18  # of a core at a time: in fp32 they take 1 MiB
_FEWEST_QUERIES = 32  # at a time, however many keys they see


class SegmentAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ) v, where a query sees the keys that ``layout`` and a sliding ``window`` let it see.

    query [heads, tokens, width], key and value [key heads, begun + tokens, width] → [tokens, heads, width]. Gradients
    of keys and values are added up in fp32 over the examples that see them.
    """

    @staticmethod
    def forward(ctx, query, key, value, layout: Layout, scale: float, window: int | None):
        groups = len(query) // len(key)
        blocks = list(_cut_queries(layout, groups, window))
        result = new_rows(query, query.shape[1], *query.shape[::2])

        def attend(head: int) -> None:
            heads = slice(head * groups, (head + 1) * groups)
            for block in blocks:
                queries = query[heads, block.queries].flatten(0, 1)
                shares = _share(queries, block.pick(key[head]), block.mask, scale)
                attended = shares.to(value.dtype) @ block.pick(value[head])
                result[block.queries, heads] = attended.unflatten(0, (groups, -1)).transpose(0, 1)

        with _fp32_by_onednn(query.dtype):
            share_out(attend, range(len(key)))
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.scale = blocks, scale
        return result

    @staticmethod
    def backward(ctx, slope):
        query, key, value = ctx.saved_tensors
        groups = len(query) // len(key)
        query_slope, key_slope, value_slope = (_new_heads(part) for part in (query, key, value))

        def go_back(head: int) -> None:
            heads = slice(head * groups, (head + 1) * groups)
            keys_slope, values_slope = (torch.zeros_like(key[head], dtype=torch.float32) for _ in range(2))
            for block in ctx.blocks:
                queries, keys = query[heads, block.queries].flatten(0, 1), block.pick(key[head])
                own_slope = slope[block.queries, heads].transpose(0, 1).flatten(0, 1)
                shares = _share(queries, keys, block.mask, ctx.scale)
                share_slope = _multiply(own_slope, block.pick(value[head]).T)
                score_slope = torch.ops.aten._softmax_backward_data(share_slope, shares, -1, torch.float32)
                score_slope = score_slope.mul_(ctx.scale).to(query.dtype)
                query_slope[heads, block.queries] = (score_slope @ keys).unflatten(0, (groups, -1))
                block.add(keys_slope, score_slope.T @ queries)
                block.add(values_slope, shares.to(query.dtype).T @ own_slope)
            key_slope[head], value_slope[head] = keys_slope, values_slope

        with _fp32_by_onednn(query.dtype):
            share_out(go_back, range(len(key)))
        return query_slope, key_slope, value_slope, None, None, None


def _new_heads(like: torch.Tensor) -> torch.Tensor:
    """Return memory for slopes of the shape of ``like`` [heads, tokens, width]; its rows are tokens."""
    heads, tokens, width = like.shape
    return new_rows(like, tokens, heads, width).transpose(0, 1)


class _Block(NamedTuple):
    """Some queries of a pack and what they see: the first ``shared`` keys, then ``own``, of which ``mask`` hides some.

    ``mask``: as :func:`mask_unseen` returns it.
    """

    queries: slice
    shared: int
    own: slice
    mask: torch.Tensor

    def pick(self, keys: torch.Tensor) -> torch.Tensor:
        return torch.cat((keys[: self.shared], keys[self.own]))

    def add(self, slopes: torch.Tensor, part: torch.Tensor) -> None:
        """Add ``part``, for the keys that are seen, to the ``slopes`` of all."""
        slopes[: self.shared] += part[: self.shared]
        slopes[self.own] += part[self.shared :]


def _cut_queries(layout: Layout, groups: int, window: int | None) -> Iterator[_Block]:
    parts = [(0, layout.prefix, layout.begun)] if layout.prefix else []
    parts += [(start, end, layout.begun + layout.prefix) for start, end in layout.segments]
    for start, end, shared in parts:
        size = max(_FEWEST_QUERIES, _CACHED_SCORES // (groups * (shared + end - start)))
        for first in range(start, end, size):
            last = min(first + size, end)
            shape = last - first, shared + last - start, window
            if shape not in layout.masks:
                layout.masks[shape] = mask_unseen(*shape)
            own = slice(layout.begun + start, layout.begun + last)
            yield _Block(slice(first, last), shared, own, layout.masks[shape])


def mask_unseen(queries: int, keys: int, window: int | None, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return 0 where the last queries of a sequence see a key, else −∞ (fp32 [queries, keys])."""
    place = torch.arange(keys - queries, keys, device=device)[:, None]
    other = torch.arange(keys, device=device)
    unseen = other > place
    if window:
        unseen |= other <= place - window
    return torch.zeros_like(unseen, dtype=torch.float32).masked_fill_(unseen, -torch.inf)


def _share(queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """Return each key's share in what a query gets: fp32 [groups · queries, keys], rows that sum to 1."""
    scores = _multiply(queries, keys.T).unflatten(0, (-1, len(mask)))
    return torch.softmax(torch.add(mask, scores, alpha=scale), dim=-1).flatten(0, 1)


def _multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left.float() @ right.float()


@contextmanager
def _fp32_by_onednn(dtype: torch.dtype) -> Iterator[None]:
    """Let oneDNN compute products in fp32 of what came from bf16, in place of MKL.

    It may then take its factors as bf16, which they are: that changes nothing. What was computed in fp32 keeps MKL.
    """
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    if dtype == torch.bfloat16:
        products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
