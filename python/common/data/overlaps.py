"""Which rows of one set share 13-word sequences with another set, for sets of any size, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.data.ngrams import WORDS

_CHUNK = 4_000_000  # n-grams looked at together: 32 MB of hashes
_FILTER_BITS = 27  # a bitmap of 16 MB turns most lookups into one memory access
# A sequence in this many rows is a phrase of the trade or a fixed instruction, not a copy.
BOILERPLATE_ROWS = 3
BOILERPLATE_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class NgramStore:
    """The n-gram hashes of many rows: ``hashes`` uint64 [n] text after text (an array or a memory map), ``lengths``
    (n-grams of each text) and ``rows`` (the row of each text, ascending), both [texts].
    """

    hashes: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray

    def chunks(self, wanted_rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (hashes, text index of each) of the rows where ``wanted_rows`` (bool [rows]) is true."""
        ends = np.cumsum(self.lengths)
        start = 0
        while start < len(self.lengths):
            base = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, base + _CHUNK, side="right")))
            texts = np.arange(start, stop)
            text_of = np.repeat(texts, self.lengths[start:stop])
            wanted = wanted_rows[self.rows[text_of]]
            yield np.asarray(self.hashes[base : ends[stop - 1]])[wanted], text_of[wanted]
            start = stop


def shared_share(store: NgramStore, reference: np.ndarray, questioned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each questioned row occurs in the reference rows. Both are bool [rows].

    Returns (share of the row's n-grams found float32 [rows], a reference row that has one of them int64 [rows] or -1).
    Words inside boilerplate (sequences found in many reference rows) are left out of the reckoning.
    """
    limit = max(BOILERPLATE_ROWS, int(np.ceil(BOILERPLATE_SHARE * reference.sum())))
    total = np.zeros(len(questioned), np.int64)
    shared = np.zeros(len(questioned), np.int64)
    witness = np.full(len(questioned), -1, np.int64)
    for hashes, text_of in store.chunks(questioned):
        if not len(hashes):
            continue
        counts, example = _occurrences(store, reference, hashes)
        counted = ~_near_boilerplate(counts >= limit, text_of)
        row_of = store.rows[text_of]
        np.add.at(total, row_of[counted], 1)
        found = counted & (counts > 0)
        np.add.at(shared, row_of[found], 1)
        witness[row_of[found]] = example[found]
    return (shared / np.maximum(total, 1)).astype(np.float32), witness


def _occurrences(store: NgramStore, reference: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``hashes``: in how many reference rows it occurs, and one of them (-1 for none)."""
    unique, back = np.unique(hashes, return_inverse=True)
    shift = np.uint64(64 - _FILTER_BITS)
    present = np.zeros(1 << _FILTER_BITS >> 3, np.uint8)
    slots = (unique >> shift).astype(np.int64)
    np.bitwise_or.at(present, slots >> 3, (1 << (slots & 7)).astype(np.uint8))
    counts = np.zeros(len(unique), np.int64)
    example = np.full(len(unique), -1, np.int64)
    for other, text_of in store.chunks(reference):
        slots = (other >> shift).astype(np.int64)
        maybe = np.flatnonzero(present[slots >> 3] >> (slots & 7).astype(np.uint8) & 1)
        candidates = other[maybe]
        place = np.minimum(np.searchsorted(unique, candidates), len(unique) - 1)
        same = unique[place] == candidates
        # A row that repeats a sequence counts once.
        pairs = np.unique(np.stack([place[same], store.rows[text_of[maybe[same]]]]), axis=1)
        np.add.at(counts, pairs[0], 1)
        example[pairs[0]] = pairs[1]
    return counts[back], example[back]


def _near_boilerplate(boilerplate: np.ndarray, text_of: np.ndarray) -> np.ndarray:
    """True for n-grams that share a word with a boilerplate n-gram of the same text."""
    near = boilerplate.copy()
    for step in range(1, WORDS):
        same_text = text_of[step:] == text_of[:-step]
        near[step:] |= boilerplate[:-step] & same_text
        near[:-step] |= boilerplate[step:] & same_text
    return near
