"""Packing: the examples of an optimizer step laid end to end, what they share at the beginning written once.

A pack is one sequence: the prefix that its examples have in common, then each example's own part. The positions of
every part go on from the prefix, attention lets a token see the prefix and its own part only, and the loss is taken
where an answer is predicted. So a pack computes what its examples compute one by one, without padding or repetition.
What several packs of a step begin with is no part of them: it is computed once, before the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

_LOGITS = 2**25  # at most so many at a time: 128 MiB in fp32
WORTH_A_PASS = 256  # tokens saved in a step, for which it is worth reading all weights once more


def rows_of_logits(vocabulary: int) -> int:
    """Return how many rows of logits are in memory at a time: 512, fewer where the vocabulary is large."""
    return max(1, min(512, _LOGITS // vocabulary))


@dataclass(frozen=True)
class Layout:
    """Where things lie in a pack: ``prefix`` tokens that all share, then [start, end) of each example's own part.

    All of them also see the ``begun`` tokens before the pack.

    ``masks`` are those of its attention, kept while the pack is, for they are the same in every layer.
    """

    prefix: int
    segments: tuple[tuple[int, int], ...]
    begun: int = 0
    masks: dict = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Pack:
    """Token ids int64 [tokens], their positions int64 [tokens], and what is predicted from where.

    ``predict_at`` int64 [targets] are places in the pack whose hidden state predicts ``targets`` int64 [targets]. A
    place can occur several times: the end of a shared prompt predicts the first token of every answer. ``beginning``
    int64 [begun] are the tokens before the pack, which all packs of its step share.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    predict_at: np.ndarray
    targets: np.ndarray
    layout: Layout
    beginning: np.ndarray

    def __len__(self) -> int:
        """Return how many tokens are in memory while the pack is: its own, and those before it."""
        return len(self.beginning) + len(self.input_ids)


def plan_packs(
    examples: Sequence, max_tokens: int, *, share_prefix: bool = True, multiple_of: int = 1, begin_once: bool = False
) -> list[Pack]:
    """Distribute encoded examples over as few packs of at most ``max_tokens`` as possible, of even size.

    An example longer than that gets a pack of its own. The plan depends on the examples alone, whatever their order.
    ``multiple_of`` ranks share the packs: their number is a multiple of it where there are examples enough.
    ``begin_once``: what several packs all begin with is taken out of them, as ``beginning``, where that saves enough.
    """
    ordered = sorted(examples, key=lambda example: example.input_ids)  # common beginnings come to lie together
    lengths = [len(example.input_ids) for example in ordered]
    shared = [common_prefix(pair) if share_prefix else 0 for pair in pairwise(ordered)]
    count = math.ceil(len(_split(lengths, shared, max_tokens)) / multiple_of) * multiple_of
    low, high = 1, max_tokens
    while low < high:  # the smallest limit that needs no more packs: so they are even
        middle = (low + high) // 2
        if len(_split(lengths, shared, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    starts = _split(lengths, shared, high)
    groups = [ordered[start:end] for start, end in pairwise([*starts, len(ordered)])]
    begun = 0
    if begin_once and share_prefix and len(groups) > 1:
        predicting = min(map(_first_trained, ordered)) - 1  # what predicts an answer's first token stays in its pack
        begun = max(0, min(*shared, predicting))
        begun = begun if (len(groups) - 1) * begun >= WORTH_A_PASS else 0
    return [build_pack(group, share_prefix=share_prefix, begun=begun) for group in groups]


def build_pack(examples: Sequence, *, share_prefix: bool = True, begun: int = 0) -> Pack:
    """Lay ``examples`` end to end after their common prefix, whose first ``begun`` tokens lie before the pack."""
    prefix = max(begun, common_prefix(examples)) if share_prefix else 0
    input_ids, positions = [np.asarray(examples[0].input_ids[begun:prefix])], [np.arange(begun, prefix)]
    predict_at, targets, segments = [], [], []
    start = prefix - begun
    for example in examples:
        ids, trained = np.asarray(example.input_ids), np.asarray(example.completion_mask, bool)
        segments.append((start, start + len(ids) - prefix))
        input_ids.append(ids[prefix:])
        positions.append(np.arange(prefix, len(ids)))
        answer = np.flatnonzero(trained[1:]) + 1  # the first token of a sequence has nothing it could follow from
        before = answer - 1
        predict_at.append(np.where(before < prefix, before - begun, before - prefix + start))
        targets.append(ids[answer])
        start = segments[-1][1]
    arrays = (np.concatenate(parts).astype(np.int64) for parts in (input_ids, positions, predict_at, targets))
    beginning = np.asarray(examples[0].input_ids[:begun], np.int64)
    return Pack(*arrays, Layout(prefix - begun, tuple(segments), begun), beginning)


def count_computed(packs: Sequence[Pack]) -> int:
    """Return how many tokens are computed for the packs of a step."""
    return (len(packs[0].beginning) if packs else 0) + sum(len(pack.input_ids) for pack in packs)


def common_prefix(examples: Sequence) -> int:
    """Return how many first tokens all ``examples`` share, none of them trained, at least one left to each."""
    if len(examples) < 2:
        return 0
    limit = min(_first_trained(example) for example in examples)
    first = np.asarray(examples[0].input_ids[:limit])
    for example in examples[1:]:
        same = first[:limit] == np.asarray(example.input_ids[:limit])
        limit = limit if same.all() else int(np.argmin(same))
    return limit


def _split(lengths: Sequence[int], shared: Sequence[int], max_tokens: int) -> list[int]:
    """Fill packs in order; return where each begins: where the next example would make the one before too long.

    ``shared`` is the common prefix of each two neighbours. The examples are sorted, so that of a run of them is the
    smallest.
    """
    starts: list[int] = []
    prefix = total = 0
    for place, length in enumerate(lengths):
        smaller = min(prefix, shared[place - 1]) if starts else 0
        if starts and total + length - (place - starts[-1]) * smaller <= max_tokens:
            prefix, total = smaller, total + length
        else:
            starts.append(place)
            prefix = total = length
    return starts


def _first_trained(example) -> int:
    """Return the index of the first trained token; the last index when nothing is trained."""
    mask = example.completion_mask
    return mask.index(True) if True in mask else len(mask) - 1
