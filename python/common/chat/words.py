"""Turning text into ids: through the tokenizer's backend, or by looking up words it has met before.

Sentencepiece's kind of BPE takes a whole text as one word of a thousand letters and more. But when no piece of its
vocabulary has a word start inside, no merge can join two words, and a text's ids are those of its words, one after
another. Looking words up is several times as fast.
"""

import json
import re
from itertools import chain

_WORD_START = "▁"
_WORD = re.compile(f"{_WORD_START}+[^{_WORD_START}]*|[^{_WORD_START}]+")
_KEPT_WORDS = 100_000  # about 25 MB
_LONGEST_KEPT = 40  # characters; longer ones hardly come again


class Backend:
    """A clone of a fast tokenizer for text without control tokens: whatever looks like one stays text.

    ``marks_word_start``: the tokenizer is of the kind that writes a space before every text it is given. When it does
    so differs between versions of the same tokenizer (always, or at the start of the sequence only), so the clone
    never does and the caller decides.
    """

    def __init__(self, backend):
        state = json.loads(backend.to_str())
        state["post_processor"] = state["truncation"] = state["padding"] = None
        self.marks_word_start = _take_off_prefix(state)
        self._state = json.dumps(state, ensure_ascii=False)
        self._tokenizer = type(backend).from_str(self._state)
        self._tokenizer.encode_special_tokens = True
        self._words: dict[str, tuple[int, ...]] | None = {} if splits_into_words(state) else None

    def identity(self) -> str:
        """A text that decides the ids of every text."""
        return self._state

    def ids_of(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text."""
        if self._words is None:
            return self._encode(texts)
        split = [_WORD.findall(text.replace(" ", _WORD_START)) for text in texts]
        new = [word for word in set(chain.from_iterable(split)) if word not in self._words]
        if new:
            self._words.update(zip(new, map(tuple, self._encode(new)), strict=True))
        ids = [list(chain.from_iterable(map(self._words.__getitem__, words))) for words in split]
        is_full = len(self._words) > _KEPT_WORDS
        for word in new:
            if is_full or len(word) > _LONGEST_KEPT:
                del self._words[word]
        return ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def splits_into_words(state: dict) -> bool:
    """Whether the ids of a text are those of its words, for a tokenizer in its JSON form (prefix taken off)."""
    model = state["model"]
    plain = (
        model["type"] == "BPE"
        and model.get("byte_fallback")  # else unknown characters of two words could become one token
        and not any(model.get(name) for name in ("dropout", "ignore_merges", "continuing_subword_prefix"))
        and not model.get("end_of_word_suffix")
        and all(token["special"] for token in state["added_tokens"])
        and all(_only_marks_spaces(step) for step in (state["normalizer"], state["pre_tokenizer"]))
        and any((state["normalizer"], state["pre_tokenizer"]))
    )
    return (
        bool(plain)
        and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))
        and not any(_WORD_START in piece.lstrip(_WORD_START) for piece in model["vocab"])
    )


def _only_marks_spaces(step: dict | None) -> bool:
    """Whether a normalizer or pre-tokenizer does nothing but write spaces as word starts."""
    if step is None:
        return True
    if step["type"] == "Sequence":
        return all(map(_only_marks_spaces, step.get("normalizers", step.get("pretokenizers"))))
    if step["type"] == "Metaspace":
        return step["replacement"] == _WORD_START and not step.get("split", True)
    return step["type"] == "Replace" and (step["pattern"], step["content"]) == ({"String": " "}, _WORD_START)


def _take_off_prefix(state: dict) -> bool:
    """Take the automatic space at the start of a text off a tokenizer in its JSON form; return whether it had one."""
    marks = False
    for key, parts in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        step = state.get(key)
        if not step:
            continue
        steps = step[parts] if step["type"] == "Sequence" else [step]
        kept = [s for s in steps if s["type"] != "Prepend"]
        marks |= len(kept) < len(steps)
        for metaspace in (s for s in kept if s["type"] == "Metaspace"):
            marks |= metaspace.get("prepend_scheme", "always") != "never"
            metaspace["prepend_scheme"] = "never"
        if step["type"] == "Sequence":
            step[parts] = kept
        else:
            state[key] = kept[0] if kept else None
    return marks
