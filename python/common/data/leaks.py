"""Is a question of the exam already in the lessons? Overlaps between the splits of a data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.data.examples import Example
from common.data.fingerprints import fingerprint
from common.data.ngrams import WORDS, hash_ngrams
from common.data.overlaps import NgramStore, shared_share
from common.errors import ExitCode, Problem, UserError

NEAR_SHARE = 0.25  # of a row's 13-word sequences
KINDS = ("exact", "normalised", "prompt", "13-gram")
_MEANING = {
    "exact": "is the same as",
    "normalised": "is, but for case, spacing and punctuation, the same as",
    "prompt": "asks the same as",
    "13-gram": f"shares at least {NEAR_SHARE:.0%} of its {WORDS}-word sequences with other rows, such as",
}
_LISTED = 20
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Leak:
    """Row ``row`` of split ``split`` overlaps row ``other_row`` of split ``other_split``."""

    kind: str
    split: str
    row: int
    other_split: str
    other_row: int


@dataclass(slots=True)
class LeakReport:
    """All leaks of a data set, and how many rows share less than what makes a leak (``faint``)."""

    leaks: list[Leak] = field(default_factory=list)
    faint: int = 0

    def counts(self) -> dict[str, int]:
        """For the manifest: leaks by kind, and rows with a faint overlap."""
        found = {kind: sum(leak.kind == kind for leak in self.leaks) for kind in KINDS}
        return {**found, "faint_13-gram": self.faint}


def find_leaks(splits: np.ndarray, names: Sequence[str], fingerprints: np.ndarray, ngrams: NgramStore) -> LeakReport:
    """Compare every split with the ones before it in ``names`` (train first).

    ``splits`` int [rows] holds indices into ``names`` (-1: in none), ``fingerprints`` uint64 [rows, 3] the exact,
    normalised and prompt hashes. A row is reported once for each earlier split, with the strongest kind. Questions
    asked in very many rows (a fixed prompt) do not count as leaks.
    """
    report = LeakReport()
    for earlier in range(len(names) - 1):
        reference, questioned = splits == earlier, splits > earlier
        if reference.any() and questioned.any():
            _compare(report, reference, questioned, splits, names, fingerprints, ngrams)
    return report


def check_leaks(splits: Mapping[str, Sequence[Example]], *, allow_leak: bool = False) -> dict:
    """Compare splits in memory, train first. Returns counts by kind for the manifest, with what was allowed.

    Raises UserError 65 listing the rows when there are leaks, unless ``allow_leak``.
    """
    examples = [example for rows in splits.values() for example in rows]
    split_of_row = np.repeat(np.arange(len(splits)), [len(rows) for rows in splits.values()])
    names = list(splits)
    hashes, store = summarise(examples)
    report = find_leaks(split_of_row, names, hashes, store)
    raise_leaks(report, lambda row: examples[row].source, allow_leak)
    return {**report.counts(), "allowed": allow_leak}


def summarise(examples: Sequence[Example]) -> tuple[np.ndarray, NgramStore]:
    """The fingerprints uint64 [rows, 3] and the n-grams of examples in memory."""
    fingerprints, hashes, lengths, rows = [], [], [], []
    for start in range(0, len(examples), _BATCH):
        texts: list[bytes] = []
        for row, example in enumerate(examples[start : start + _BATCH], start):
            prints, words = fingerprint(example)
            fingerprints.append(prints)
            texts += words
            rows += [row] * len(words)
        batch_hashes, batch_lengths = hash_ngrams(texts)
        hashes.append(batch_hashes)
        lengths.append(batch_lengths)
    store = NgramStore(
        np.concatenate(hashes or [np.empty(0, np.uint64)]),
        np.concatenate(lengths or [np.empty(0, np.int64)]),
        np.array(rows, np.int64),
    )
    return np.array(fingerprints, np.uint64).reshape(-1, 3), store


def raise_leaks(report: LeakReport, source_of: Callable[[int], str], allow_leak: bool) -> None:
    """Raise UserError 65 for the leaks of a report unless they are allowed."""
    if not report.leaks or allow_leak:
        return
    problems = [
        Problem(
            f"{source_of(leak.row)} ({leak.split}) {_MEANING[leak.kind]} "
            f"{source_of(leak.other_row)} ({leak.other_split})"
        )
        for leak in report.leaks[:_LISTED]
    ]
    counts = ", ".join(f"{count} {kind}" for kind, count in report.counts().items() if count and kind in KINDS)
    problems.append(
        Problem(
            f"{len(report.leaks):,} rows leak between splits ({counts})",
            "a row may be in one split only",
            "take them out of one, or go on with --allow-leak, which is recorded",
        )
    )
    raise UserError(problems, ExitCode.DATA)


def _compare(report, reference, questioned, splits, names, fingerprints, ngrams: NgramStore) -> None:
    earlier_rows, later_rows = np.flatnonzero(reference), np.flatnonzero(questioned)
    common_from = max(3, int(np.ceil(0.005 * len(earlier_rows))))
    open_rows = np.ones(len(later_rows), bool)

    def add(kind: str, row: int, other: int) -> None:
        report.leaks.append(Leak(kind, names[splits[row]], int(row), names[splits[other]], int(other)))

    for column, kind in enumerate(KINDS[:3]):
        known = fingerprints[earlier_rows, column]
        order = np.argsort(known, kind="stable")
        known = known[order]
        asked = fingerprints[later_rows, column]
        left, right = np.searchsorted(known, asked), np.searchsorted(known, asked, side="right")
        hit = (right > left) & open_rows
        if kind == "prompt":
            hit &= right - left < common_from
        for at in np.flatnonzero(hit):
            add(kind, later_rows[at], earlier_rows[order[left[at]]])
        open_rows &= ~hit
    share, witness = shared_share(ngrams, reference, questioned)
    for row in later_rows[open_rows]:
        if share[row] >= NEAR_SHARE:
            add("13-gram", row, witness[row])
        elif share[row] > 0:
            report.faint += 1
