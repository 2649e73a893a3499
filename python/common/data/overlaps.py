"""Which rows of one set share 13-word sequences with another set, for sets of any size, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.ngrams import WORDS

_CHUNK = 2000000  # n-grams of the reference looked at together
_QUESTIONED = 8_000_000  # of the questioned rows; for each such chunk the whole reference is read once
_FILTER_BITS = 28  # a bitmap of at most 32 MB turns most lookups into one memory access
# A sequence in this many rows is a phrase of the trade or a fixed instruction, not a copy.
BOILERPLATE_ROWS = 3
BOILERPLATE_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class HashFile:
    """Hashes in a file, read slice by slice. Not a memory map: the pages of one stay in memory once they are read."""

    path: Path

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.fromfile(self.path, np.uint64, int(part.stop - part.start), offset=8 * int(part.start))


@dataclass(frozen=True, slots=True)
class NgramStore:
    """The n-gram hashes of many rows: ``hashes`` uint64 [n] text after text, in memory or in a file, ``lengths``
    (n-grams of each text) and ``rows`` (the row of each text, ascending), both [texts].
    """

    hashes: np.ndarray | HashFile
    lengths: np.ndarray
    rows: np.ndarray

    def chunks(self, wanted_rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (hashes, n-grams of each text, index of each text) of the rows where ``wanted_rows`` (bool) is true.

        A chunk is made of whole texts and holds about ``size`` n-grams.
        """
        wanted = wanted_rows[self.rows]
        ends = np.cumsum(self.lengths, dtype=np.int64)
        wanted_ends = np.cumsum(np.where(wanted, self.lengths, 0), dtype=np.int64)
        start = 0
        while start < len(ends):
            base, done = (ends[start - 1], wanted_ends[start - 1]) if start else (0, 0)
            # What is read counts as well: a chunk of few wanted rows must not read the whole file.
            by_wanted = np.searchsorted(wanted_ends, done + size, "right")
            by_read = np.searchsorted(ends, base + 4 * size, "right")
            stop = max(start + 1, int(min(by_wanted, by_read)))
            here, lengths = wanted[start:stop], self.lengths[start:stop]
            hashes = self.hashes[base : ends[stop - 1]]
            if not here.all():
                hashes = hashes[np.repeat(here, lengths)]
            if len(hashes):
                yield hashes, lengths[here], np.flatnonzero(here) + start
            start = stop


def shared_share(store: NgramStore, reference: np.ndarray, questioned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each questioned row occurs in the reference rows. Both are bool [rows].

    Returns (share of the row's n-grams found float32 [rows], a reference row that has one of them int64 [rows] or -1).
    Words inside boilerplate (sequences found in many reference rows) are left out of the reckoning.
    """
    limit = max(BOILERPLATE_ROWS, int(np.ceil(BOILERPLATE_SHARE * reference.sum())))
    rows = len(questioned)
    total, shared = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    witness = np.full(rows, -1, np.int64)
    for hashes, lengths, texts in store.chunks(questioned, _QUESTIONED):
        counts, example = _occurrences(store, reference, hashes, limit)
        text_of = np.repeat(texts, lengths)
        counted = ~_near_boilerplate(counts >= limit, text_of)
        found = counted & (counts > 0)
        row_of = store.rows[text_of]
        total += np.bincount(row_of[counted], minlength=rows)
        shared += np.bincount(row_of[found], minlength=rows)
        witness[row_of[found]] = example[found]
    return (shared / np.maximum(total, 1)).astype(np.float32), witness


def _occurrences(
    store: NgramStore, reference: np.ndarray, hashes: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``hashes``: in how many reference rows it occurs (exact below ``limit``), and one of them or -1."""
    unique, back = np.unique(hashes, return_inverse=True)
    counts = np.zeros(len(unique), np.int64)
    example = np.full(len(unique), -1, np.int64)
    present = _Bitmap(unique)
    for other, lengths, texts in store.chunks(reference, _CHUNK):
        maybe = np.flatnonzero(present.may_hold(other))
        candidates = other[maybe]
        place = np.minimum(np.searchsorted(unique, candidates), len(unique) - 1)
        same = (unique[place] == candidates) & (counts[place] < limit)
        place, maybe = place[same], maybe[same]
        row = store.rows[texts[np.searchsorted(np.cumsum(lengths), maybe, "right")]]
        # A row that repeats a sequence counts once.
        place, row = np.divmod(np.unique(place * len(reference) + row), len(reference))
        np.add.at(counts, place, 1)
        example[place] = row
    return counts[back], example[back]


class _Bitmap:
    """Says of most hashes that are not in a set that they are not, with one memory access."""

    def __init__(self, hashes: np.ndarray):
        bits = min(_FILTER_BITS, max(10, (64 * len(hashes)).bit_length()))
        self.shift = np.uint64(64 - bits)
        self.bytes = np.zeros(1 << bits >> 3, np.uint8)
        slots = hashes >> self.shift
        np.bitwise_or.at(self.bytes, slots >> np.uint64(3), self._bit(slots))

    def may_hold(self, hashes: np.ndarray) -> np.ndarray:
        slots = hashes >> self.shift
        return self.bytes[slots >> np.uint64(3)] & self._bit(slots) != 0

    @staticmethod
    def _bit(slots: np.ndarray) -> np.ndarray:
        return np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8)


def _near_boilerplate(boilerplate: np.ndarray, text_of: np.ndarray) -> np.ndarray:
    """True for n-grams that share a word with a boilerplate n-gram of the same text."""
    near = boilerplate.copy()
    for step in range(1, WORDS):
        same_text = text_of[step:] == text_of[:-step]
        near[step:] |= boilerplate[:-step] & same_text
        near[:-step] |= boilerplate[step:] & same_text
    return near
