"""Which rows of one set repeat passages of another set, for sets of any size, in bounded memory.

The rule: words are copied where 13-word sequences of a row occur in the other set, and a passage counts when 13 of its
words or more are its own. Not its own are the words of phrases (5 words) that many rows hold: instructions, names
of fields, figures of speech.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.ngrams import PHRASE_WORDS, WORDS, mix

_CHUNK = 2_000_000  # n-grams of the reference looked at together
_QUESTIONED = 8_000_000  # of the questioned rows; for each such chunk the whole reference is read once
_FILTER_BITS = 28  # a bitmap of at most 32 MB turns most lookups into one memory access
_SAMPLE_BYTES = 32 << 20  # of the reference's text, whose phrases stand for those of the whole
# What so many rows hold is common to all: this share of them, but so many rows at least and at most.
COMMON_SHARE = 0.01
COMMON_ROWS = (3, 100)


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

    def chunks(self, wanted: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (hashes, n-grams of each text, index of each text) of the texts where ``wanted`` (bool) is true.

        A chunk is made of whole texts and holds about ``size`` n-grams.
        """
        ends = np.cumsum(self.lengths, dtype=np.int64)
        wanted_ends = np.cumsum(np.where(wanted, self.lengths, 0), dtype=np.int64)
        start = 0
        while start < len(ends):
            base, done = (ends[start - 1], wanted_ends[start - 1]) if start else (0, 0)
            # What is read counts as well: a chunk of few wanted rows must not read the whole file.
            by_wanted = np.searchsorted(wanted_ends, done + size, "right")
            by_read = np.searchsorted(ends, base + 4 * size, "right")
            stop = max(start + 1, int(min(by_wanted, by_read)))
            here, lengths = wanted[start:stop], self.lengths[start:stop].astype(np.int64)
            hashes = self.hashes[base : ends[stop - 1]]
            if not here.all():
                hashes = hashes[np.repeat(here, lengths)]
            if len(hashes):
                yield hashes, lengths[here], np.flatnonzero(here) + start
            start = stop


@dataclass(frozen=True, slots=True)
class Passages:
    """Where texts share 13-word sequences with other rows: the text, its words from ``first`` to before ``end``, and a
    row that has the first such sequence. Arrays of one length, in the order of the texts.
    """

    text: np.ndarray
    first: np.ndarray
    end: np.ndarray
    other_row: np.ndarray


def common_from(rows: int) -> int:
    """In how many of ``rows`` rows a sequence of words must be to be nobody's own."""
    least, most = COMMON_ROWS
    return max(least, min(most, int(np.ceil(COMMON_SHARE * rows))))


def sampling_stride(text_bytes: int) -> int:
    """One in how many rows speaks for the phrases of a text of this size."""
    return max(1, text_bytes // _SAMPLE_BYTES)


def is_sampled(numbers: np.ndarray, stride: int) -> np.ndarray:
    """Which rows, by their numbers, are the one in ``stride``."""
    return mix(numbers.astype(np.uint64)) % np.uint64(stride) == 0


def copied_words(
    ngrams: NgramStore, phrases: NgramStore, known: np.ndarray, reference: np.ndarray, questioned: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many own words the longest passage has that a questioned row shares with the reference rows.

    ``phrases`` holds the 5-word sequences of the same texts as ``ngrams``: all of the questioned rows, and of so many
    ``known`` rows (the reference rows among them) as speak for the rest; which are common is seen from those. All
    three are bool [rows]. Returns (own words int64 [rows], a reference row that has the passage int64 [rows] or -1
    where no 13-word sequence is shared).
    """
    own, witness = np.zeros(len(questioned), np.int64), np.full(len(questioned), -1, np.int64)
    speaks = np.zeros(len(questioned), bool)
    speaks[phrases.rows[phrases.lengths > 0]] = True
    speaks &= known
    limit = common_from(known.sum())
    phrase_limit = max(COMMON_ROWS[0], int(np.ceil(limit * speaks.sum() / max(1, known.sum()))))
    for hashes, lengths, texts in ngrams.chunks(questioned[ngrams.rows], _QUESTIONED):
        counts, example = _occurrences(ngrams, reference, hashes, limit)
        if not counts.any():
            continue
        passages = _find_passages((counts > 0) & (counts < limit), example, lengths, texts)
        concerned = np.zeros(len(ngrams.rows), bool)
        concerned[passages.text] = True
        for phrase_hashes, phrase_lengths, phrase_texts in phrases.chunks(concerned, _QUESTIONED):
            is_common = _occurrences(phrases, speaks, phrase_hashes, phrase_limit)[0] >= phrase_limit
            own_before, first_words = _own_words_before(is_common, phrase_lengths)
            here = slice(*np.searchsorted(passages.text, (phrase_texts[0], phrase_texts[-1] + 1)))
            begin = first_words[np.searchsorted(phrase_texts, passages.text[here])]
            words = own_before[begin + passages.end[here]] - own_before[begin + passages.first[here]]
            order = np.argsort(words, kind="stable")  # of several passages of a row, the longest is written last
            rows = ngrams.rows[passages.text[here]][order]
            better = words[order] >= own[rows]
            own[rows[better]] = words[order][better]
            witness[rows[better]] = passages.other_row[here][order][better]
    return own, witness


def _occurrences(
    store: NgramStore, reference: np.ndarray, hashes: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``hashes``: in how many reference rows it occurs (exact below ``limit``), and one of them or -1."""
    unique, back = np.unique(hashes, return_inverse=True)
    counts = np.zeros(len(unique), np.int64)
    example = np.full(len(unique), -1, np.int64)
    present = _Bitmap(unique)
    for other, lengths, texts in store.chunks(reference[store.rows], _CHUNK):
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


def _find_passages(shared: np.ndarray, example: np.ndarray, lengths: np.ndarray, texts: np.ndarray) -> Passages:
    """Join shared n-grams (bool, text after text) that follow one another within a text."""
    first_of_text = np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = np.arange(len(shared)) - first_of_text
    text_of = np.repeat(texts, lengths)
    follows = np.zeros(len(shared) + 1, bool)
    follows[1:-1] = shared[1:] & shared[:-1] & (text_of[1:] == text_of[:-1])
    starts = np.flatnonzero(shared & ~follows[:-1])
    ends = np.flatnonzero(shared & ~follows[1:])
    return Passages(text_of[starts], position[starts], position[ends] + WORDS, example[starts])


def _own_words_before(is_common: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From which phrases (text after text, ``lengths`` in each) are common: (how many own words stand before each word
    of all texts [words + 1], where each text's first word is [texts]).
    """
    words = np.where(lengths > 0, lengths + PHRASE_WORDS - 1, 0)
    first_words = np.cumsum(words) - words
    first_phrases = np.cumsum(lengths) - lengths
    starts = np.arange(len(is_common)) + np.repeat(first_words - first_phrases, lengths)
    is_own = np.ones(int(words.sum()), bool)
    for step in range(PHRASE_WORDS):
        is_own[starts[is_common] + step] = False
    return np.concatenate(([0], np.cumsum(is_own))), first_words
