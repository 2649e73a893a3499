"""Turning text into ids: through the tokenizer's backend, or by looking up words it has met before.

Where the ids of a text are certain to be those of its words, one after another, looking words up is several times as
fast. Two kinds of tokenizer are so:

- Sentencepiece's kind of BPE takes a whole text as one word of a thousand letters and more. But when no piece of its
  vocabulary has a word start inside, no merge can join two words.
- Byte-level BPE splits a text by a pattern first. With the patterns known here, a match never goes on over a space that
  follows something else, so that a text may be cut there.
"""

import json
import re
from itertools import chain

import numpy as np

_WORD_START = "▁"
_MARKED_WORDS = re.compile(f"[ {_WORD_START}]+[^ {_WORD_START}]*|[^ {_WORD_START}]+")
# Cut before a space, but for one behind white space, "-" or "*": the demo model takes "\n- " for one sign.
_SPACED_WORDS = re.compile(r" *[^ ]+(?:(?<=[\s*-]) +[^ ]*)*| +")
_CUT_AT_SPACES = (
    r"\n+ *(?:[-*] )?| ?[\p{L}_]+|0+|\d| ?[^\s\p{L}\p{N}_]+|\s",  # the demo model
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",  # Llama 3
)
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
        self._word = word_pattern(state)
        self._words: dict[str, bytes] = {}

    def identity(self) -> str:
        """A text that decides the ids of every text."""
        return self._state

    def ids_of(self, texts: list[str]) -> list[bytes]:
        """The ids of each text, as uint32 one after another."""
        if self._word is None:
            return self._encode(texts)
        split = list(map(self._word.findall, texts))
        new = list(set(chain.from_iterable(split)).difference(self._words))
        room = _KEPT_WORDS - len(self._words)
        if not room and 2 * len(new) > sum(map(len, split)):
            return self._encode(texts)  # words that hardly ever come again: one by one they take longer
        self._words.update(zip(new, self._encode(new), strict=True))
        ids = [b"".join(map(self._words.__getitem__, words)) for words in split]
        for place, word in enumerate(new):
            if place >= room or len(word) > _LONGEST_KEPT:
                del self._words[word]
        return ids

    def _encode(self, texts: list[str]) -> list[bytes]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32).tobytes() for encoding in encodings]


def word_pattern(state: dict) -> re.Pattern | None:
    """What finds the words of a text whose ids are those of the text, for a tokenizer in its JSON form (prefix taken
    off); None where that is not certain.
    """
    model = state["model"]
    if model["type"] != "BPE" or model.get("dropout") or not all(token["special"] for token in state["added_tokens"]):
        return None
    if _merges_within_words(state):
        return _MARKED_WORDS
    return _SPACED_WORDS if _splits_at_spaces(state) else None


def _merges_within_words(state: dict) -> bool:
    """Whether a tokenizer of sentencepiece's kind has no piece that goes from one word into the next."""
    model, steps = state["model"], (state["normalizer"], state["pre_tokenizer"])
    plain = (
        model.get("byte_fallback")  # else unknown characters of two words could become one token
        and not any(model.get(name) for name in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"))
        and all(map(_only_marks_spaces, steps))
        and any(steps)
    )
    return (
        bool(plain)
        and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))
        and not any(_WORD_START in piece.lstrip(_WORD_START) for piece in model["vocab"])
    )


def _splits_at_spaces(state: dict) -> bool:
    """Whether a byte-level tokenizer splits by a pattern of which it is known."""
    step = state["pre_tokenizer"]
    if state["normalizer"] or not step or step["type"] != "Sequence" or len(step["pretokenizers"]) != 2:
        return False
    split, byte_level = step["pretokenizers"]
    return (
        (split["type"], split.get("behavior"), split.get("invert")) == ("Split", "Isolated", False)
        and split["pattern"].get("Regex") in _CUT_AT_SPACES
        and byte_level["type"] == "ByteLevel"
        and not byte_level["use_regex"]
        and not byte_level["add_prefix_space"]
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
