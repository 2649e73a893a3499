"""Is a question of the exam already in the lessons? Overlaps between the splits of a data set.

A row leaks when an earlier split holds the same row, the same but for case, spacing and punctuation, the same question,
or a passage of it: 13 words or more in a row that are its own (see :mod:`common.data.overlaps`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.data.examples import Example
from common.data.fingerprints import fingerprint
from common.data.ngrams import PHRASE_WORDS, WORDS, hash_ngrams
from common.data.overlaps import (
    COMMON_ROWS,
    COMMON_SHARE,
    NgramStore,
    common_from,
    copied_words,
    is_sampled,
    sampling_stride,
)
from common.data.problems import option_for
from common.errors import ExitCode, Problem, UserError

KINDS = ("exact", "normalised", "prompt", "13-gram")
_MEANING = {
    "exact": "is the same as",
    "normalised": "is, but for case, spacing and punctuation, the same as",
    "prompt": "asks the same as",
    "13-gram": "repeats a passage of {words} words of",
}
RULE = (
    f"a row may be in one split only, and so may a passage of {WORDS} words or more (words of phrases that "
    f"{COMMON_SHARE:.0%} of the rows hold, {COMMON_ROWS[0]} at least and {COMMON_ROWS[1]} at most, do not count)"
)
_COMMON_QUESTION = 20  # a question of so many rows (of half of a small set, of more in a large one) is a fixed prompt
_LISTED = 20
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Leak:
    """Row ``row`` of split ``split`` overlaps row ``other_row`` of split ``other_split``, by a passage of so many own
    ``words`` if it is of the kind 13-gram.
    """

    kind: str
    split: str
    row: int
    other_split: str
    other_row: int
    words: int = 0


@dataclass(slots=True)
class LeakReport:
    """All leaks of a data set, and how many rows share 13-word sequences that are mostly common phrases (``faint``)."""

    leaks: list[Leak] = field(default_factory=list)
    faint: int = 0
    allowed: bool = False

    def counts(self) -> dict[str, int | bool]:
        """For the manifest: leaks by kind, rows with a faint overlap, and whether leaks were allowed."""
        found = {kind: sum(leak.kind == kind for leak in self.leaks) for kind in KINDS}
        return {**found, "faint_13-gram": self.faint, "allowed": self.allowed}


@dataclass(frozen=True, slots=True)
class Contents:
    """What is compared of the rows of all splits: ``fingerprints`` uint64 [rows, 3] (exact, normalised, prompt), the
    n-grams of their texts, and the phrases of those texts (see :func:`common.data.overlaps.copied_words`).
    """

    fingerprints: np.ndarray
    ngrams: NgramStore
    phrases: NgramStore


def find_leaks(splits: np.ndarray, names: Sequence[str], contents: Contents) -> LeakReport:
    """Compare every split with the ones before it in ``names`` (train first).

    ``splits`` int [rows] holds indices into ``names`` (-1: in none). A row is reported once for each earlier split,
    with the strongest kind. Questions asked in very many rows (a fixed prompt) do not count as leaks.
    """
    report = LeakReport()
    for earlier in range(len(names) - 1):
        reference, questioned = splits == earlier, splits > earlier
        if reference.any() and questioned.any():
            _compare(report, reference, questioned, splits, names, contents)
    return report


def check_leaks(splits: Mapping[str, Sequence[Example]], *, allow_leak: bool = False) -> dict:
    """Compare splits in memory, train first. Returns counts by kind for the manifest, with what was allowed.

    Raises UserError 65 listing the rows when there are leaks, unless ``allow_leak``.
    """
    examples = [example for rows in splits.values() for example in rows]
    split_of_row = np.repeat(np.arange(len(splits)), [len(rows) for rows in splits.values()])
    names = list(splits)
    report = find_leaks(split_of_row, names, contents_of(examples, split_of_row == 0))
    raise_leaks(report, lambda row: examples[row].source, allow_leak)
    return report.counts()


def contents_of(examples: Sequence[Example], is_training: np.ndarray) -> Contents:
    """What is compared of examples in memory. Of those that are training rows (bool), a sample gives the phrases."""
    stride = sampling_stride(sum(len(example.prompt) + len(example.completion) for example in examples))
    speaks = ~is_training | is_sampled(np.arange(len(examples)), stride)
    fingerprints, parts = [], []
    for start in range(0, len(examples), _BATCH):
        prints, words = zip(*map(fingerprint, examples[start : start + _BATCH]), strict=True)
        fingerprints += prints
        parts.append(hash_texts(words, speaks[start : start + _BATCH]))
    ngrams, lengths, phrases, phrase_lengths, texts = (
        (np.concatenate(arrays) for arrays in zip(*parts, strict=True)) if parts else [np.empty(0, np.int64)] * 5
    )
    rows = np.repeat(np.arange(len(examples)), texts)
    prints = np.array(fingerprints, np.uint64).reshape(-1, 3)
    return Contents(prints, NgramStore(ngrams, lengths, rows), NgramStore(phrases, phrase_lengths, rows))


def hash_texts(words: Sequence[list[bytes]], speaks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Hash the normalised texts of rows: (n-grams, n-grams of each text, phrases, phrases of each text, texts of each
    row). Rows that do not ``speak`` (bool) have no phrases.
    """
    texts = np.array([len(each) for each in words], np.int64)
    flat = [text for each in words for text in each]
    ngrams, lengths = hash_ngrams(flat)
    said = np.repeat(speaks, texts)
    phrase_lengths = np.zeros(len(flat), np.int64)
    phrases, phrase_lengths[said] = hash_ngrams([flat[at] for at in np.flatnonzero(said)], PHRASE_WORDS)
    return ngrams, lengths, phrases, phrase_lengths, texts


def raise_leaks(report: LeakReport, source_of: Callable[[int], str], allow_leak: bool) -> None:
    """Raise UserError 65 for the leaks of a report unless they are allowed, which the report then records."""
    report.allowed = allow_leak
    if not report.leaks or allow_leak:
        return
    problems = [
        Problem(
            f"{source_of(leak.row)} ({leak.split}) {_MEANING[leak.kind].format(words=leak.words)} "
            f"{source_of(leak.other_row)} ({leak.other_split})"
        )
        for leak in report.leaks[:_LISTED]
    ]
    counts = ", ".join(f"{count} {kind}" for kind, count in report.counts().items() if count and kind in KINDS)
    problems.append(
        Problem(
            f"{len(report.leaks):,} rows leak between splits ({counts})",
            RULE,
            f"take them out of one, or go on with {option_for('allow_leak')}, which is recorded",
        )
    )
    raise UserError(problems, ExitCode.DATA)


def _compare(report, reference, questioned, splits, names, contents: Contents) -> None:
    earlier_rows, later_rows = np.flatnonzero(reference), np.flatnonzero(questioned)
    open_rows = np.ones(len(later_rows), bool)

    def add(kind: str, row: int, other: int, words: int = 0) -> None:
        report.leaks.append(Leak(kind, names[splits[row]], int(row), names[splits[other]], int(other), int(words)))

    for column, kind in enumerate(KINDS[:3]):
        known = contents.fingerprints[earlier_rows, column]
        order = np.argsort(known, kind="stable")
        known = known[order]
        asked = contents.fingerprints[later_rows, column]
        left, right = np.searchsorted(known, asked), np.searchsorted(known, asked, side="right")
        hit = (right > left) & open_rows
        if kind == "prompt":
            many = max(_COMMON_QUESTION, common_from(len(earlier_rows)))
            hit &= right - left < min(many, max(COMMON_ROWS[0], len(earlier_rows) / 2))
        for at in np.flatnonzero(hit):
            add(kind, later_rows[at], earlier_rows[order[left[at]]])
        open_rows &= ~hit
    known = (splits >= 0) & (splits <= splits[earlier_rows[0]])
    words, witness = copied_words(contents.ngrams, contents.phrases, known, reference, questioned)
    for row in later_rows[open_rows & (witness[later_rows] >= 0)]:
        if words[row] >= WORDS:
            add("13-gram", row, witness[row], words[row])
        else:
            report.faint += 1
