"""Looking words up gives the ids of the whole text, and is done only where that is certain.

pytest tests/unit/test_chat_words.py
"""

import json

import pytest
from chat_tokenizers import MISTRAL_SPACED, demo_tokenizer, mistral_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from common.chat import words
from common.chat.words import Backend, splits_into_words

PARTS = [
    "hello",
    " ",
    "  ",
    "\n",
    "▁",
    "the",
    "quick brown",
    "é",
    "😀",
    "日本",
    "</s>",
    "[INST]",
    "\t",
    "1",
    "'s",
    "\u00a0",
]
texts = st.lists(st.sampled_from(PARTS) | st.text(max_size=8), max_size=15).map("".join)


@pytest.fixture(scope="module", params=["metaspace", "prepend"])
def backend(request):
    return Backend(mistral_tokenizer(MISTRAL_SPACED, request.param).backend_tokenizer)


@settings(max_examples=300, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_words_looked_up_are_the_text_encoded(backend, batch):
    assert backend._words is not None
    assert backend.ids_of(batch) == backend._encode(batch)
    assert backend.ids_of(batch) == backend._encode(batch), "and again, from memory"


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(words, "_KEPT_WORDS", 20)
    backend = Backend(mistral_tokenizer().backend_tokenizer)
    for number in range(50):
        text = f" word{number} another{number} {'x' * 100}"
        assert backend.ids_of([text]) == backend._encode([text])
        assert len(backend._words) <= 20
        assert not any(len(word) > 40 for word in backend._words)


def state_of(tokenizer, **changes) -> dict:
    state = json.loads(Backend(tokenizer.backend_tokenizer).identity())
    return state | changes


def test_it_is_not_done_where_it_might_differ():
    tokenizer = mistral_tokenizer()
    assert splits_into_words(state_of(tokenizer))
    assert not splits_into_words(state_of(demo_tokenizer())), "byte-level vocabularies mark words otherwise"
    model = state_of(tokenizer)["model"]
    assert not splits_into_words(state_of(tokenizer, model=model | {"vocab": model["vocab"] | {"a▁b": 32000}}))
    assert not splits_into_words(state_of(tokenizer, model=model | {"byte_fallback": False}))
    assert not splits_into_words(state_of(tokenizer, model=model | {"ignore_merges": True}))
    token = {"id": 32000, "content": "a b", "special": False}
    assert not splits_into_words(state_of(tokenizer, added_tokens=[token]))
    assert not splits_into_words(state_of(tokenizer, normalizer={"type": "NFKC"}))
    assert not splits_into_words(state_of(tokenizer, pre_tokenizer=None))
