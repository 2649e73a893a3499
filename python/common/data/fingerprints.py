"""What makes two examples the same: exactly, or but for case, spacing and punctuation."""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from common.data.examples import Example

_NOT_WORD = bytes(i if chr(i).isalnum() or chr(i) == "_" else 32 for i in range(128)) + bytes(range(128, 256))
_LOWER_WORDS = _NOT_WORD.lower()
_WORDS = re.compile(r"\w+")
# Scripts written without spaces: each character counts as a word.
_UNSPACED = re.compile("([\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")


class Fingerprint(NamedTuple):
    """Three 64-bit hashes: of the example as it is, of its words only, and of the words of its prompt only."""

    exact: int
    normalised: int
    prompt: int


def normalise(text: str) -> bytes:
    """The words of ``text`` in lower case (NFKC), one space between them, as UTF-8."""
    if text.isascii():
        return b" ".join(text.encode().translate(_LOWER_WORDS).split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORDS.findall(_UNSPACED.sub(r" \1 ", folded))).encode("utf-8", "surrogatepass")


def fingerprint(example: Example) -> tuple[Fingerprint, list[bytes]]:
    """Return the hashes of an example, and its normalised turns (for n-grams)."""
    texts = example.texts
    words = [normalise(text) for text in texts]
    # A text without any word (say, emoji only) stands for itself, lest all of them be the same.
    keys = [word or text.encode("utf-8", "surrogatepass") for word, text in zip(words, texts, strict=True)]
    exact = _hash(text.encode("utf-8", "surrogatepass") for text in texts)
    return Fingerprint(exact, _hash(keys), _hash(keys[:-1] or keys)), words


def _hash(parts: Iterable[bytes]) -> int:
    return int.from_bytes(blake2b(b"\x00".join(parts), digest_size=8).digest(), "little")
