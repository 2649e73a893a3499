"""Hashes of all sequences of so many words of many texts at once, a few nanoseconds a byte."""

from functools import cache

import numpy as np

WORDS = 13  # as in Brown et al. 2020 (GPT-3), appendix C
PHRASE_WORDS = 5
_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)
_SPACE, _END = 32, 10


def hash_ngrams(texts: list[bytes], words: int = WORDS) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of ``words`` words of normalised texts (words separated by single spaces).

    Returns (hashes uint64 [n], number of runs of each text int64 [len(texts)]), in the order of the texts. A run never
    goes across texts. Two runs have the same hash when their bytes are the same (a polynomial over the bytes modulo
    2^64, mixed; different runs collide with a probability of about 2^-60).
    """
    data = np.frombuffer(b"\n".join(texts) + b"\n", dtype=np.uint8)
    gaps = np.flatnonzero((data == _SPACE) | (data == _END))
    starts = np.concatenate(([0], gaps[:-1] + 1))
    text_of = np.concatenate(([0], np.cumsum(data[gaps[:-1]] == _END)))
    real = gaps > starts  # an empty text makes a word of no bytes
    starts, ends, text_of = starts[real], gaps[real], text_of[real]
    if len(starts) < words:
        return np.empty(0, np.uint64), np.zeros(len(texts), np.int64)
    whole = np.flatnonzero(text_of[: len(starts) - words + 1] == text_of[words - 1 :])
    first, last = starts[whole], ends[whole + words - 1]
    power, inverse = _powers(1 << (len(data) - 1).bit_length())
    prefix = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(data * power[: len(data)], out=prefix[1:])
    hashes = (prefix[last] - prefix[first]) * inverse[first]
    return mix(hashes), np.bincount(text_of[whole], minlength=len(texts))


@cache
def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers of the base and of its inverse modulo 2^64."""
    return tuple(
        np.concatenate((np.ones(1, np.uint64), np.cumprod(np.full(length - 1, base, np.uint64), dtype=np.uint64)))
        for base in (_BASE, _INVERSE)
    )


def mix(values: np.ndarray) -> np.ndarray:
    """Spread uint64 values evenly (splitmix64's finaliser), in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
