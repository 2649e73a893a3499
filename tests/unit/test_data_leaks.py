"""Fingerprints, splits, duplicates and leaks, against slow and obvious ways to find them.

pytest tests/unit/test_data_leaks.py
"""

import random
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data import overlaps
from common.data.duplicates import find_duplicates
from common.data.examples import Example, Message
from common.data.fingerprints import _UNSPACED, _WORDS, fingerprint, normalise
from common.data.leaks import check_leaks, contents_of, find_leaks
from common.data.ngrams import PHRASE_WORDS, WORDS, hash_ngrams
from common.data.splits import check_sizes, split_of, split_shares
from common.errors import UserError


def example(question: str, answer: str, source: str = "") -> Example:
    return Example((Message("user", question), Message("assistant", answer)), source=source)


@given(st.text(st.characters(max_codepoint=127)))
def test_the_quick_way_for_ascii_is_the_general_way(text):
    folded = unicodedata.normalize("NFKC", text).casefold()
    assert normalise(text) == " ".join(_WORDS.findall(_UNSPACED.sub(r" \1 ", folded))).encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is a FOX?", "  what is\ta fox "),
        ("Straße", "STRASSE"),
        ("ﬁne ① e\u0301", "fine 1 é"),
        ("你好，世界", "你好世界!"),
    ],
)
def test_case_spacing_and_punctuation_do_not_count(one, other):
    a, b = fingerprint(example(one, "x"))[0], fingerprint(example(other, "X."))[0]
    assert a.normalised == b.normalised
    assert a.prompt == b.prompt
    assert a.exact != b.exact


def test_texts_without_words_differ():
    assert fingerprint(example("😀", "x"))[0].normalised != fingerprint(example("😡", "x"))[0].normalised


words = st.lists(st.sampled_from(["a", "b", "c", "dd", "é", "日", "e1"]), max_size=40).map(
    lambda w: " ".join(w).encode()
)


@given(st.lists(words, max_size=6), st.integers(1, 14))
def test_ngrams_are_the_same_when_their_words_are(texts, size):
    hashes, lengths = hash_ngrams(texts, size)
    slow = [[tuple(t.split()[i : i + size]) for i in range(len(t.split()) - size + 1)] for t in texts]
    assert lengths.tolist()[: len(texts)] == [len(grams) for grams in slow]
    flat = [gram for grams in slow for gram in grams]
    assert len(set(hashes.tolist())) == len(set(flat))
    assert len({(int(h), gram) for h, gram in zip(hashes, flat, strict=True)}) == len(set(flat))


def test_a_split_depends_on_the_row_alone():
    shares = split_shares(0.8)
    rng = random.Random(1)
    hashes = [rng.getrandbits(64) for _ in range(20_000)]
    first = [split_of(h, shares, seed=7) for h in hashes]
    assert [split_of(h, shares, seed=7) for h in reversed(hashes)] == first[::-1]
    assert [split_of(h, shares, seed=8) for h in hashes] != first
    for name, share in shares.items():
        assert abs(first.count(name) / len(first) - share) < 0.01
    grown = split_shares(0.9)
    stayed = [split_of(h, grown, seed=7) == "train" for h, split in zip(hashes, first, strict=True) if split == "train"]
    assert all(stayed), "a larger training share takes rows from the others only"


@pytest.mark.parametrize(("train", "validation"), [(0, None), (1, None), (0.8, 0.3), (0.8, -0.1), (1.2, None)])
def test_impossible_shares_are_refused(train, validation):
    with pytest.raises(UserError, match="share is"):
        split_shares(train, validation)


def test_what_rounding_leaves_is_no_share():
    assert split_shares(0.7, 0.3) == {"train": 0.7, "validation": 0.3, "test": 0.0}


def test_odd_sizes_are_told():
    assert check_sizes({"train": 1, "validation": 2}, {"train": 0.5, "validation": 0.5}) == [
        "the validation split (2 rows) is larger than the training split (1 rows)"
    ]
    with pytest.raises(UserError, match="the test split is empty"):
        check_sizes({"train": 5, "test": 0}, {"train": 0.8, "test": 0.2})
    with pytest.raises(UserError, match="all rows ask the same question .*VAL="):
        check_sizes({"train": 5, "test": 0}, {"train": 0.8, "test": 0.2}, one_question=True)
    assert check_sizes({"train": 5, "test": 0}, {"train": 1.0, "test": 0.0}) == []


def test_duplicates_are_counted():
    rows = [("q", "a"), ("q", "a"), ("Q?", "A"), ("q", "b"), ("r", "c"), ("s", "d"), ("s", "d"), ("s", "e")]
    found = find_duplicates(np.array([fingerprint(example(*row))[0] for row in rows], np.uint64))
    assert (found.rows, found.exact, found.normalised) == (8, 2, 3)
    assert found.pairs == [(0, 1), (0, 2), (5, 6)]
    assert found.conflicting == 7  # all but ("r", "c")


def passage(rng: random.Random, length: int) -> str:
    return " ".join(f"w{rng.randrange(10**9)}" for _ in range(length))


def leaks_between(train: list[Example], validation: list[Example]):
    placed = np.array([0] * len(train) + [1] * len(validation))
    return find_leaks(placed, ["train", "validation"], contents_of(train + validation, placed == 0))


def test_each_kind_of_leak_is_found_once_with_its_row():
    rng = random.Random(2)
    train = [example(passage(rng, 20), passage(rng, 60)) for _ in range(50)]
    copied = train[7].completion.split()
    validation = [
        example(passage(rng, 20), passage(rng, 60)),
        train[3],
        example(train[4].prompt.upper(), train[4].completion + " !"),
        example(train[5].prompt, passage(rng, 60)),
        example(passage(rng, 5), " ".join([*copied[:40], passage(rng, 10)])),
        example(passage(rng, 20), " ".join([passage(rng, 80), *copied[:13]])),
        example(passage(rng, 20), " ".join([passage(rng, 80), *copied[:12], passage(rng, 80), *copied[12:24]])),
    ]
    report = leaks_between(train, validation)
    found = {(leak.kind, leak.row - 50, leak.other_row, leak.words) for leak in report.leaks}
    assert found == {
        ("exact", 1, 3, 0),
        ("normalised", 2, 4, 0),
        ("prompt", 3, 5, 0),
        ("13-gram", 4, 7, 40),
        ("13-gram", 5, 7, 13),
    }, "13 copied words among 93 are a leak, twice 12 are none"
    counts = {"exact": 1, "normalised": 1, "prompt": 1, "13-gram": 2, "faint_13-gram": 0}
    assert report.counts() == counts | {"allowed": False}


def test_fixed_instructions_are_no_leak():
    rng = random.Random(3)
    rules = passage(rng, 60)
    train = [example(f"{rules} concept {passage(rng, 8)}", passage(rng, 30)) for _ in range(20)]
    validation = [example(f"{rules} concept {passage(rng, 8)}", passage(rng, 30)) for _ in range(5)]
    report = leaks_between(train, validation)
    assert (report.leaks, report.faint) == ([], 0)
    validation[2] = example(validation[2].prompt, train[9].completion)
    assert [(leak.kind, leak.other_row) for leak in leaks_between(train, validation).leaks] == [("13-gram", 9)]


def test_field_names_do_not_count_as_copied_words():
    rng = random.Random(8)

    def form(*values: str) -> str:
        return "".join(f"- id: R{n:03d}\n  description: {value}\n  priority: High\n" for n, value in enumerate(values))

    train = [example(passage(rng, 9), form(*(passage(rng, 12) for _ in range(3)))) for _ in range(30)]
    value = train[4].completion.split("description: ")[2].split("\n")[0]
    report = leaks_between(train, [example(passage(rng, 9), form(passage(rng, 12), value, passage(rng, 12)))])
    assert (report.leaks, report.faint) == ([], 1), "12 words of a value, and field names around them"
    train.append(example(passage(rng, 9), form(passage(rng, 12), f"{value} {passage(rng, 1)}")))
    report = leaks_between(train, [example(passage(rng, 9), train[-1].completion)])
    assert [(leak.other_row, leak.words) for leak in report.leaks] == [(30, 30)], "12 + 13, and 5 at the ends"


def test_instructions_are_known_from_all_earlier_splits():
    """Two validation rows are too few to tell the instructions from a copied passage; the training rows tell."""
    rng = random.Random(9)
    rules = passage(rng, 60)
    splits = [[example(f"{rules} {passage(rng, 8)}", passage(rng, 30)) for _ in range(n)] for n in (20, 2, 2)]
    check_leaks(dict(zip(("train", "validation", "test"), splits, strict=True)))


def test_common_is_a_share_of_the_rows_within_bounds():
    assert [overlaps.common_from(rows) for rows in (2, 300, 301, 5000, 10**6)] == [3, 3, 4, 50, 100]


def test_a_prompt_that_everybody_asks_is_no_leak():
    rng = random.Random(4)
    train = [example("Write a poem.", passage(rng, 30)) for _ in range(20)]
    assert leaks_between(train, [example("Write a poem.", passage(rng, 30))]).leaks == []
    few = leaks_between(train[:3] + [example(passage(rng, 6), passage(rng, 30)) for _ in range(97)], train[19:])
    assert [leak.kind for leak in few.leaks] == ["prompt"], "three answers to a question are no fixed prompt"
    small = leaks_between(train[:3], [example("Write a poem.", passage(rng, 30))])
    assert small.leaks == [], "in a small set, what all rows ask is one"


@pytest.mark.parametrize("stride", [1, 3])
def test_copied_words_are_what_counting_gives(monkeypatch, stride):
    monkeypatch.setattr(overlaps, "_CHUNK", 37)  # so that many chunks meet
    monkeypatch.setattr(overlaps, "_QUESTIONED", 53)
    monkeypatch.setattr(overlaps, "COMMON_SHARE", 0.2)
    monkeypatch.setattr("common.data.leaks.sampling_stride", lambda text_bytes: stride)
    rng = random.Random(5)
    pool = [passage(rng, 3) for _ in range(12)]
    passages = [" ".join(rng.choice(pool) for _ in range(4)) for _ in range(25)]

    def text() -> str:
        sources = (rng.choice((pool, passages, [passage(rng, 4)])) for _ in range(rng.randint(2, 9)))
        return " ".join(map(rng.choice, sources))

    examples = [Example(text=text()) for _ in range(60)]
    at = np.arange(60)
    contents = contents_of(examples, at < 40)
    own, witness = overlaps.copied_words(contents.ngrams, contents.phrases, at < 40, at < 40, at >= 40)

    def grams(row: int, size: int) -> list[tuple]:
        words = examples[row].text.split()
        return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]

    def rows_with(size: int, rows) -> Counter:
        return Counter(gram for row in rows for gram in set(grams(row, size)))

    speaking = [row for row in range(40) if overlaps.is_sampled(np.array([row]), stride)[0]]
    assert len(speaking) == (40 if stride == 1 else 11)
    ngrams, phrases = rows_with(WORDS, range(40)), rows_with(PHRASE_WORDS, speaking)
    limit = 8  # a fifth of 40
    phrase_limit = max(3, -(-limit * len(speaking) // 40))
    leaks = 0
    for row in range(40, 60):
        most, shares, passage_words = 0, False, set()
        starts = [i for i, phrase in enumerate(grams(row, PHRASE_WORDS)) if phrases[phrase] >= phrase_limit]
        common = {i + k for i in starts for k in range(PHRASE_WORDS)}
        for i, gram in enumerate(grams(row, WORDS)):
            if 0 < ngrams[gram] < limit:
                shares = True
                passage_words |= set(range(i, i + WORDS))
                most = max(most, len(passage_words - common))
            else:
                passage_words = set()
        assert own[row] == most
        assert (witness[row] >= 0) == shares
        leaks += most >= WORDS
    assert 0 < leaks < 20, "the data has both kinds of rows"


def test_three_splits_are_compared_pairwise():
    rng = random.Random(6)
    a, b, c = ([example(passage(rng, 9), passage(rng, 20), f"{n}:{i}") for i in range(4)] for n in "abc")
    assert check_leaks({"train": a, "validation": b, "test": c})["exact"] == 0
    with pytest.raises(UserError, match=r"b:2 \(test\) is the same as b:2 \(validation\)"):
        check_leaks({"train": a, "validation": b, "test": [*c, b[2]]})
    assert check_leaks({"train": a, "validation": b, "test": [*c, b[2]]}, allow_leak=True)["allowed"] is True
