"""Packs hold what their examples hold, and compute what they compute. Run: pytest tests/unit/test_packing.py"""

import gc
import math
import random
import weakref
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import PREFIX, RAGGED, encoded, gradient, make_adapted, make_model

from common import lean_layers, packed_model, packing
from common.packing import build_pack, common_prefix, count_computed, plan_packs

CASES = {
    "ragged, shared prefix": RAGGED,
    "the prefix is the whole prompt": [encoded(PREFIX, answer) for answer in ([20, 21], [20, 22, 23], [24])],
    "one example": RAGGED[2:3],
    "nothing shared": [encoded([k, 50 + k, 3], range(20 + k, 25 + k)) for k in range(4, 9)],
    "the same example twice": [RAGGED[4], RAGGED[4]],
}
WAYS = (
    {"max_tokens": 1000},
    {"max_tokens": 45},
    {"max_tokens": 45, "begin_once": True},
    {"max_tokens": 1, "begin_once": True},  # every example in a pack of its own
    {"max_tokens": 45, "begin_once": True, "given_beginning": False},  # computed along with a pack, as in a probe
    {"max_tokens": 1000, "share_prefix": False},
)
tokens = st.lists(st.integers(3, 8), min_size=1, max_size=12)


@pytest.fixture(scope="module", autouse=True)
def _any_beginning_is_worth_a_pass():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WORTH_A_PASS", 1)
        yield


@given(
    st.lists(tokens, min_size=1, max_size=2),
    st.lists(st.tuples(st.integers(0, 1), tokens, tokens), min_size=1, max_size=7),
    st.integers(1, 60),
    st.booleans(),
    st.booleans(),
)
def test_a_plan_holds_every_example_once_and_predicts_the_same_from_the_same(
    instructions, rows, max_tokens, share_prefix, begin_once
):
    examples = [encoded(instructions[kind % len(instructions)] + prompt, answer) for kind, prompt, answer in rows]
    packs = plan_packs(examples, max_tokens, share_prefix=share_prefix, begin_once=begin_once)
    held = []
    for pack in packs:
        assert len(pack) <= max_tokens or len(pack.layout.segments) == 1
        assert pack.beginning.tolist() == packs[0].beginning.tolist() and len(pack.beginning) == pack.layout.begun
        prefix = pack.beginning.tolist() + pack.input_ids[: pack.layout.prefix].tolist()
        assert pack.position_ids[: pack.layout.prefix].tolist() == list(range(pack.layout.begun, len(prefix)))
        for start, end in pack.layout.segments:
            held.append(prefix + pack.input_ids[start:end].tolist())
            assert pack.position_ids[start:end].tolist() == list(range(len(prefix), len(prefix) + end - start))
    assert sorted(held) == sorted(example.input_ids for example in examples)
    wanted = sorted(
        (e.input_ids[i - 1], e.input_ids[i]) for e in examples for i in range(1, len(e)) if e.completion_mask[i]
    )
    found = sorted((int(p.input_ids[at]), int(t)) for p in packs for at, t in zip(p.predict_at, p.targets, strict=True))
    assert found == wanted
    assert count_computed(packs) == sum(map(len, packs)) - (len(packs) - 1) * packs[0].layout.begun


def split_by_definition(ordered, max_tokens, share_prefix):
    groups = []
    for example in ordered:
        joined = [*groups[-1], example] if groups else [example]
        prefix = common_prefix(joined) if share_prefix else 0
        if groups and prefix + sum(len(each) - prefix for each in joined) <= max_tokens:
            groups[-1] = joined
        else:
            groups.append([example])
    return groups


def plan_by_definition(examples, max_tokens, share_prefix, multiple_of, begin_once):
    """The same packs, with what is common looked up anew for every example that may join a pack."""
    ordered = sorted(examples, key=lambda example: example.input_ids)
    count = math.ceil(len(split_by_definition(ordered, max_tokens, share_prefix)) / multiple_of) * multiple_of
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high) // 2
        fits = len(split_by_definition(ordered, middle, share_prefix)) <= count
        low, high = (low, middle) if fits else (middle + 1, high)
    groups, begun = split_by_definition(ordered, high, share_prefix), 0
    if begin_once and share_prefix and len(groups) > 1:
        begun = max(0, min(common_prefix(ordered), min(map(packing._first_trained, ordered)) - 1))
    return [build_pack(group, share_prefix=share_prefix, begun=begun) for group in groups]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 128),
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.booleans(),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_plans_are_those_of_their_definition(count, seed, max_tokens, share_prefix, multiple_of, begin_once):
    draw = random.Random(seed)
    few, most = draw.choice([(0, 20), (10, 10)])
    beginnings = [[draw.randint(3, 5) for _ in range(draw.randint(few, most))] for _ in range(draw.randint(1, 3))]

    def some(fewest):
        return [draw.randint(3, 5) for _ in range(draw.randint(fewest, 6))]

    examples = [encoded(draw.choice(beginnings) + some(0), some(1)) for _ in range(count)]
    given = {"share_prefix": share_prefix, "multiple_of": multiple_of, "begin_once": begin_once}
    found, expected = plan_packs(examples, max_tokens, **given), plan_by_definition(examples, max_tokens, **given)
    assert [pack.layout for pack in found] == [pack.layout for pack in expected]
    for mine, other in zip(found, expected, strict=True):
        for part in ("input_ids", "position_ids", "predict_at", "targets", "beginning"):
            assert np.array_equal(getattr(mine, part), getattr(other, part))


def test_what_all_packs_begin_with_is_taken_out_of_them_but_for_the_token_that_predicts():
    packs = plan_packs(RAGGED[2:5], 45, begin_once=True)
    assert len(packs) > 1 and all(pack.beginning.tolist()[:8] == PREFIX for pack in packs)
    whole_prompts = CASES["the prefix is the whole prompt"]
    (first, *_) = plan_packs(whole_prompts, len(PREFIX) + 3, begin_once=True)
    assert first.beginning.tolist() == PREFIX[:-1] and first.input_ids[0] == PREFIX[-1]
    assert not plan_packs(RAGGED, 1000, begin_once=True)[0].layout.begun  # one pack holds it itself


@pytest.mark.parametrize(("shared", "begun"), [(127, 0), (128, 128)])
def test_a_beginning_is_taken_out_only_where_that_saves_enough(monkeypatch, shared, begun):
    monkeypatch.setattr(packing, "WORTH_A_PASS", 256)
    examples = [encoded([*range(shared), 1000 + k], [k]) for k in range(3)]
    packs = plan_packs(examples, 1, begin_once=True)
    assert len(packs) == 3 and [pack.layout.begun for pack in packs] == [begun] * 3


def test_nothing_holds_a_beginning_that_was_abandoned():
    """An error between its forward and its backward pass must not keep its activations, recomputed or not."""
    model = make_model("mistral", sliding_window=None).train()
    packed_model.enable_packs(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    packs = plan_packs(RAGGED, 45, begin_once=True)

    def abandon():
        with pytest.raises(MemoryError), packed_model.begin(model, packs) as beginning:
            packed_model.sum_loss(model, packs[0], beginning=beginning)
            raise MemoryError

    computed = []
    whole = packed_model._compute_beginning

    def remember(*given):
        layers = whole(*given)
        computed.append(weakref.ref(layers[1][0]))
        return layers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_model, "_compute_beginning", remember)
        abandon()
    gc.collect()
    assert [reference() for reference in computed] == [None]


@given(st.permutations(RAGGED))
def test_the_plan_does_not_depend_on_the_order(shuffled):
    for mine, other in zip(plan_packs(RAGGED, 40), plan_packs(shuffled, 40), strict=True):
        assert np.array_equal(mine.input_ids, other.input_ids)


def test_the_prefix_never_holds_a_trained_token():
    same_start = [encoded([1, 2], [3, 4, 5]), encoded([1, 2], [3, 4, 6])]
    assert common_prefix(same_start) == 2


def test_packs_are_even():
    examples = [encoded([k], [k] * 9) for k in range(10, 20)]
    assert [len(pack) for pack in plan_packs(examples, 90)] == [50, 50]


def one_by_one(model, examples):
    total = 0.0
    for example in examples:
        ids = torch.tensor([example.input_ids])
        labels = torch.where(torch.tensor([example.completion_mask]), ids, -100)
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=1).loss
        loss.backward()
        total += loss.item()
    return total, gradient(model)


def packed(model, examples, given_beginning=True, **options):
    total, packs = 0.0, plan_packs(examples, **options)
    with packed_model.begin(model, packs) if given_beginning else nullcontext() as beginning:
        for pack in packs:
            loss = packed_model.sum_loss(model, pack, beginning=beginning)
            loss.backward()
            total += loss.item()
    return total, gradient(model)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 6}),
        *((k, {}) for k in ("llama", "phi3", "qwen2", "qwen3")),
    ],
    ids=["mistral", "mistral, sliding window", "llama", "phi3", "qwen2", "qwen3"],
)
def test_gradients_are_those_of_one_by_one_training(kind, options, checkpointing, monkeypatch):
    model = make_model(kind, **options)
    reference = {name: one_by_one(model, examples) for name, examples in CASES.items()}
    packed_model.enable_packs(model)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for lean in (False, True):
        monkeypatch.setattr(packed_model, "has_few_cores", partial(bool, lean))
        if lean:
            lean_layers.use_lean_layers(model)
        for name, examples in CASES.items():
            loss, slope = reference[name]
            for ways in WAYS:
                packed_loss, packed_slope = packed(model, examples, **ways)
                assert packed_loss == pytest.approx(loss, rel=1e-5), (name, lean, ways)
                assert (packed_slope - slope).norm() <= 1e-5 * slope.norm(), (name, lean, ways)


def test_after_the_last_attention_only_what_predicts_is_computed():
    model = make_model("llama")
    pack = plan_packs(RAGGED, 1000)[0]
    layers, seen = model.get_base_model().model.layers, []
    for layer in layers:
        layer.mlp.register_forward_hook(lambda module, given, result: seen.append(given[0].shape[1]))
    packed_model.enable_packs(model)
    loss = packed_model.sum_loss(model, pack).item()
    predicting = len(set(pack.predict_at.tolist()))
    assert seen == [len(pack), predicting] and predicting < len(pack)
    del layers[-1].forward  # the model's own
    assert packed_model.sum_loss(model, pack).item() == pytest.approx(loss, rel=1e-6)
    assert seen[2:] == [len(pack), len(pack)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("kind", ["mistral", "llama", "phi3", "qwen2", "qwen3"])
def test_bottleneck_adapters_get_the_gradients_of_one_by_one_training(kind, checkpointing, monkeypatch):
    model = make_adapted(kind)
    reference = {name: one_by_one(model, examples) for name, examples in CASES.items()}
    packed_model.enable_packs(model)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for lean in (False, True):
        monkeypatch.setattr(packed_model, "has_few_cores", partial(bool, lean))
        if lean:
            lean_layers.use_lean_layers(model)
        for name, (loss, slope) in reference.items():
            packed_loss, packed_slope = packed(model, CASES[name], max_tokens=45, begin_once=True)
            assert packed_loss == pytest.approx(loss, rel=1e-5), (name, lean)
            assert (packed_slope - slope).norm() <= 1e-5 * slope.norm(), (name, lean)


@pytest.fixture(scope="module")
def packing_model():
    model = make_model("mistral", sliding_window=None).eval()
    packed_model.enable_packs(model)
    lean_layers.use_lean_layers(model)
    return model


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(tokens, tokens), min_size=2, max_size=6), st.tuples(tokens, tokens), st.integers(0, 5))
def test_no_token_of_one_example_changes_the_loss_of_another(packing_model, pairs, replacement, index):
    examples = [encoded(prompt, answer) for prompt, answer in pairs]
    index %= len(examples)
    changed = [*examples[:index], encoded(*replacement), *examples[index + 1 :]]
    before, after = (losses_by_example(packing_model, these) for these in (examples, changed))
    others = [other for other in range(len(examples)) if other != index]
    assert [after[other] for other in others] == pytest.approx([before[other] for other in others], rel=1e-5)


def losses_by_example(model, examples):
    """The summed cross-entropy of each example of one pack."""
    pack, causal = build_pack(examples), model.get_base_model()
    with torch.no_grad():
        hidden = causal.model(
            input_ids=torch.from_numpy(pack.input_ids)[None],
            position_ids=torch.from_numpy(pack.position_ids)[None],
            attention_mask=torch.ones(1, 1, 1, 1),
            layout=pack.layout,
        ).last_hidden_state[0]
        logits = causal.lm_head(hidden[pack.predict_at])
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(pack.targets), reduction="none")
    return [part.sum().item() for part in losses.split([sum(e.completion_mask[1:]) for e in examples])]


@pytest.mark.parametrize("cached", [50, 2**18], ids=["a row at a time", "all at once"])
def test_the_head_needs_no_logits_in_the_backward_pass(cached, monkeypatch):
    monkeypatch.setattr(packed_model, "_CACHED_LOGITS", cached)
    torch.manual_seed(0)
    hidden, weight = torch.randn(1100, 16, requires_grad=True), torch.randn(50, 16)
    targets = torch.randint(0, 50, (1100,))
    loss = packed_model.LinearCrossEntropy.apply(hidden, weight, targets)
    (slope,) = torch.autograd.grad(loss / 7, hidden)
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (plain_slope,) = torch.autograd.grad(plain / 7, hidden)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert torch.allclose(slope, plain_slope, atol=1e-6)


def test_the_head_divides_by_the_number_of_tokens_in_full_precision():
    """1 / 1012 in bf16 is 0.4 % more than that."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(60, 16).bfloat16().requires_grad_(), torch.randn(50, 16).bfloat16()
    loss = packed_model.LinearCrossEntropy.apply(hidden, weight, torch.randint(0, 50, (60,)))
    (whole,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (mean,) = torch.autograd.grad(loss / 1012, hidden)
    assert mean.dtype == torch.bfloat16
    assert (mean.float().norm() * 1012 / whole.float().norm()).item() == pytest.approx(1, abs=1e-3)


def test_a_validation_multiplies_with_the_head_once(monkeypatch):
    products, multiply = [], packed_model.multiply
    monkeypatch.setattr(packed_model, "multiply", lambda *given, out: products.append(out) or multiply(*given, out=out))
    hidden, weight, targets = torch.randn(60, 16), torch.randn(50, 16), torch.randint(0, 50, (60,))
    loss = packed_model.LinearCrossEntropy.apply(hidden, weight, targets)
    assert len(products) == 1
    assert packed_model.LinearCrossEntropy.apply(hidden.requires_grad_(), weight, targets) == loss
    assert len(products) == 3


def test_several_ranks_get_as_many_packs_each():
    assert len(plan_packs(RAGGED, 1000)) == 1
    packs = plan_packs(RAGGED, 1000, multiple_of=3)
    assert len(packs) == 3
    assert sum(len(pack.layout.segments) for pack in packs) == len(RAGGED)
