"""Attention in pieces is attention. Run: pytest tests/unit/test_lean_attention.py

The gradients that whole models get with it are held against one-by-one training in test_packing.py.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from common import lean_attention, recycled_memory
from common.lean_attention import SegmentAttention
from common.packing import Layout

LAYOUTS = {
    "one example": Layout(0, ((0, 40),)),
    "a shared prefix": Layout(13, ((13, 20), (20, 39), (39, 40))),
    "a beginning": Layout(0, ((0, 9), (9, 40)), begun=21),
    "a beginning and a prefix": Layout(5, ((5, 30), (30, 40)), begun=17),
    "nothing but a prefix": Layout(40, ()),
}
TOKENS, GROUPS, KEY_HEADS, WIDTH = 40, 3, 2, 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So few queries at a time that most examples take several blocks, the last one shorter."""
    monkeypatch.setattr(lean_attention, "_CACHED_SCORES", 600)
    monkeypatch.setattr(lean_attention, "_FEWEST_QUERIES", 4)


def draw(layout, dtype=torch.float32, tokens=TOKENS, width=WIDTH):
    """Queries, keys and values as a model has them, heads after tokens in memory, and the slope of the result."""
    torch.manual_seed(0)
    heads, keys = GROUPS * KEY_HEADS, layout.begun + tokens
    shapes = (tokens, heads, width), (keys, KEY_HEADS, width), (keys, KEY_HEADS, width), (tokens, heads, width)
    *tensors, slope = (torch.randn(*shape).to(dtype) for shape in shapes)
    return [tensor.transpose(0, 1).requires_grad_() for tensor in tensors], slope


def seen(layout, window, tokens):
    """Which queries see which keys, told token by token (bool [tokens, keys])."""
    allowed = torch.zeros(tokens, layout.begun + tokens, dtype=torch.bool)
    for start, end, prefix in [(0, layout.prefix, 0), *((*segment, layout.prefix) for segment in layout.segments)]:
        for place in range(start, end):
            keys = [*range(layout.begun + prefix), *range(layout.begun + start, layout.begun + place + 1)]
            allowed[place, keys[-window:] if window else keys] = True
    return allowed


def attend_plainly(query, key, value, layout, window, scale=0.3):
    grouped = key.repeat_interleave(GROUPS, 0), value.repeat_interleave(GROUPS, 0)
    mask = seen(layout, window, query.shape[1])
    return F.scaled_dot_product_attention(query, *grouped, attn_mask=mask, scale=scale).transpose(0, 1)


def results(attend, tensors, slope):
    for tensor in tensors:
        tensor.grad = None
    result = attend(*tensors)
    result.backward(slope)
    return [result.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("window", [None, 6], ids=["all keys", "sliding window"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_results_and_gradients_are_those_of_attention_with_a_mask(layout, window):
    tensors, slope = draw(layout)
    wanted = results(lambda *qkv: attend_plainly(*qkv, layout, window), tensors, slope)
    found = results(lambda *qkv: SegmentAttention.apply(*qkv, layout, 0.3, window), tensors, slope)
    for mine, plain in zip(found, wanted, strict=True):
        assert mine.shape == plain.shape and (mine - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.parametrize("scale", [0.1, 0.3], ids=["even shares", "uneven shares"])
def test_in_bf16_results_and_gradients_are_together_as_near_to_exact_ones_as_those_of_pytorch(scale, monkeypatch):
    """At the sizes of a real model, where roundings even out. Of the two PyTorch has the better results: it rounds
    shares before it divides them by their sum, so that the largest is exact."""
    monkeypatch.setattr(lean_attention, "_CACHED_SCORES", 2**16)
    layout = Layout(0, ((0, 276),), begun=240)
    tensors, slope = draw(layout, torch.bfloat16, tokens=276, width=128)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    wanted = results(partial(attend_plainly, layout=layout, window=None, scale=scale), exact, slope.double())
    mask = lean_attention.mask_unseen(276, 516, None).bfloat16().repeat(GROUPS, 1)

    def attend_by_pytorch(query, key, value):
        query = query.reshape(1, KEY_HEADS, -1, 128)
        attended = F.scaled_dot_product_attention(query, key[None], value[None], attn_mask=mask, scale=scale)
        return attended.view(-1, 276, 128).transpose(0, 1)

    def error(found):
        pairs = zip(found, wanted, strict=True)
        return sum(((mine.double() - right).norm() / right.norm()).item() for mine, right in pairs)

    theirs = error(results(attend_by_pytorch, tensors, slope))
    mine = error(results(lambda *qkv: SegmentAttention.apply(*qkv, layout, scale, None), tensors, slope))
    assert 1e-3 < mine <= theirs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_how_products_in_fp32_are_computed_is_left_as_it_was(dtype, monkeypatch):
    products, within = torch.backends.mkldnn.matmul, []
    before, multiply = products.fp32_precision, lean_attention._multiply

    def look(left, right):
        within.append(products.fp32_precision)
        return multiply(left, right)

    monkeypatch.setattr(lean_attention, "_multiply", look)
    tensors, slope = draw(LAYOUTS["one example"], dtype)
    results(lambda *qkv: SegmentAttention.apply(*qkv, LAYOUTS["one example"], 0.3, None), tensors, slope)
    assert set(within) == {"bf16" if dtype == torch.bfloat16 else before}
    monkeypatch.setattr(lean_attention, "_multiply", lambda left, right: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SegmentAttention.apply(*tensors, LAYOUTS["one example"], 0.3, None)
    assert products.fp32_precision == before


def test_only_queries_keys_and_values_are_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        tensors, _ = draw(LAYOUTS["a shared prefix"])
        SegmentAttention.apply(*tensors, LAYOUTS["a shared prefix"], 0.3, None)
    assert kept == [tensor.numel() for tensor in tensors]


def test_packs_of_other_lengths_use_the_same_memory_again(monkeypatch):
    """Memory is kept by what a token takes: there is no more of it after packs of many lengths."""
    monkeypatch.setattr(recycled_memory, "_LARGE", 1)
    recycled_memory.give_back_spare()
    places = []
    for tokens in (40, 39, 17, 40, 21):
        layout = Layout(0, ((0, tokens),), begun=tokens // 2)
        tensors, slope = draw(layout, tokens=tokens)
        results(lambda *qkv, layout=layout: SegmentAttention.apply(*qkv, layout, 0.3, None), tensors, slope)
        assert [tensor.grad.stride() for tensor in tensors] == [tensor.stride() for tensor in tensors]
        del tensors, slope
        places.append(sum(map(len, recycled_memory._spare.values())))
    recycled_memory.give_back_spare()
    assert places == places[:1] * 5 and places[0] > 0
