"""Looking words up gives the ids of the whole text, and is done only where that is certain.

pytest tests/unit/test_chat_words.py
"""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from chat_tokenizers import MISTRAL_SPACED, demo_tokenizer, mistral_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from common.chat import words
from common.chat.words import Backend, word_pattern

PARTS = [
    *("hello", "the", "quick brown", "é", "e\u0301", "😀", "日本", "▁", "</s>", "[INST]"),
    *(" ", "  ", "\n", "\r\n", "\n- ", "\n* ", "\t", "\t ", "\u00a0", "\u3000", "\u2028", "\x1c", "\x85", "\u180e"),
    *("1", "000", "²", "½", "'s", "'S", "ſ", "_", ".", ", ", "?!", "-", " - ", "*", "/", "\x00", "\u0301"),
]
texts = st.lists(st.sampled_from(PARTS) | st.text(max_size=8), max_size=15).map("".join)
DEMO, LLAMA_3 = words._CUT_AT_SPACES


def split_tokenizer(pattern: str) -> Tokenizer:
    """A byte-level tokenizer that splits by ``pattern`` and whose vocabulary has every white space it can get."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([f"{a}{b}{c}" for a in PARTS for b in PARTS for c in PARTS], trainer)
    return tokenizer


BACKENDS = {
    "metaspace": lambda: mistral_tokenizer(MISTRAL_SPACED, "metaspace").backend_tokenizer,
    "prepend": lambda: mistral_tokenizer(MISTRAL_SPACED, "prepend").backend_tokenizer,
    "demo pattern": lambda: split_tokenizer(DEMO),
    "llama pattern": lambda: split_tokenizer(LLAMA_3),
}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return Backend(BACKENDS[request.param]())


@settings(max_examples=500, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_words_looked_up_are_the_text_encoded(backend, batch):
    assert backend._word is not None
    assert backend.ids_of(batch) == backend._encode(batch)
    assert backend.ids_of(batch) == backend._encode(batch), "and again, from memory"


@pytest.mark.parametrize("pattern", [DEMO, LLAMA_3], ids=["demo", "llama"])
@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_a_cut_falls_where_the_pattern_splits(pattern, text):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    found = words._SPACED_WORDS.findall(text)
    assert "".join(found) == text
    assert [piece for word in found for piece, _ in split.pre_tokenize_str(word)] == [
        piece for piece, _ in split.pre_tokenize_str(text)
    ]


def test_the_demo_model_is_of_the_kind():
    tokenizer = Tokenizer.from_file(str(Path(__file__).parents[2] / "recipes" / "demo" / "model" / "tokenizer.json"))
    backend = Backend(tokenizer)
    assert backend._word is words._SPACED_WORDS
    text = "title: A *bold* plan\n- id: FR001\n  description: ¿Qué tal? - 'fine' </s>\n\n* end "
    (ids,) = backend.ids_of([text])
    assert np.frombuffer(ids, np.uint32).tolist() == backend._tokenizer.encode(text, add_special_tokens=False).ids
    assert set(backend._words) >= {" *bold* plan\n- id:", " FR001\n  description:"}


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(words, "_KEPT_WORDS", 20)
    backend = Backend(mistral_tokenizer().backend_tokenizer)
    for number in range(50):
        text = f" word{number} another{number} {'x' * 100}"
        assert backend.ids_of([text]) == backend._encode([text])
        assert len(backend._words) <= 20
        assert not any(len(word) > 40 for word in backend._words)
    assert len(backend._words) == 20
    backend._encode, calls = lambda texts, encode=backend._encode: calls.append(texts) or encode(texts), []
    assert backend.ids_of([" five words never seen before"]) and calls[-1] == [" five words never seen before"]
    assert backend.ids_of([" word1 word1 word1 five"]) and calls[-1] == [" five"], "what is known is looked up"


def state_of(tokenizer, **changes) -> dict:
    state = json.loads(Backend(tokenizer).identity())
    return state | changes


def test_it_is_not_done_where_it_might_differ():
    tokenizer = mistral_tokenizer().backend_tokenizer
    assert word_pattern(state_of(tokenizer)) is words._MARKED_WORDS
    assert word_pattern(state_of(demo_tokenizer().backend_tokenizer)) is None, "splits by a pattern not known here"
    model = state_of(tokenizer)["model"]
    assert not word_pattern(state_of(tokenizer, model=model | {"vocab": model["vocab"] | {"a▁b": 32000}}))
    assert not word_pattern(state_of(tokenizer, model=model | {"byte_fallback": False}))
    assert not word_pattern(state_of(tokenizer, model=model | {"ignore_merges": True}))
    assert not word_pattern(state_of(tokenizer, model=model | {"dropout": 0.1}))
    token = {"id": 32000, "content": "a b", "special": False}
    assert not word_pattern(state_of(tokenizer, added_tokens=[token]))
    assert not word_pattern(state_of(tokenizer, normalizer={"type": "NFKC"}))
    assert not word_pattern(state_of(tokenizer, pre_tokenizer=None))


def test_nor_where_a_pattern_is_used_otherwise():
    state = state_of(split_tokenizer(LLAMA_3))
    assert word_pattern(state) is words._SPACED_WORDS
    assert word_pattern(state | {"model": state["model"] | {"ignore_merges": True}}), "as Llama 3 has it"
    assert not word_pattern(state | {"normalizer": {"type": "Lowercase"}})
    assert not word_pattern(state | {"pre_tokenizer": None})
    for place, changes in (
        (0, {"behavior": "Removed"}),
        (0, {"invert": True}),
        (0, {"pattern": {"Regex": r"\s+|\S+ "}}),
        (0, {"pattern": {"String": DEMO}}),
        (1, {"add_prefix_space": True}),
        (1, {"use_regex": True}),
        (1, {"type": "Whitespace"}),
    ):
        changed = deepcopy(state)
        changed["pre_tokenizer"]["pretokenizers"][place] |= changes
        assert not word_pattern(changed), changes
