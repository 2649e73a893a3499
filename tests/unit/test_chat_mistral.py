"""Our encoding of Mistral-Instruct v0.1/v0.2 against Mistral's own reference encoder, id for id.

    pytest tests/unit/test_chat_mistral.py

With RECETARIO_REAL_DATA=<folder of data files> every row below that folder is compared as well.
"""

import os
import random
from pathlib import Path

import pytest
from chat_tokenizers import MISTRAL_BARE, MISTRAL_SPACED, mistral_tokenizer
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.tokens.tokenizers.base import InstructRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from common.chat import encode_prompt, encoder_for
from common.data import Example, Message, load_examples

REFERENCE = MistralTokenizer.v1().instruct_tokenizer
FORMS = [
    pytest.param(template, prefix, id=f"{prefix}-{name}")
    for prefix in ("metaspace", "prepend")
    for name, template in (("spaced", MISTRAL_SPACED), ("bare", MISTRAL_BARE))
]
NUMBERED_FORMS = [
    pytest.param(*form.values, 600 * number, id=form.id)  # 2,400 conversations over the four forms
    for number, form in enumerate(FORMS)
]
SNIPPETS = [
    *("hello", "The quick brown fox", "¿Qué tal?", "naïve café", "日本語", "Привет", "שלום", "123", "0.5%", "f(x)={x}"),
    *(" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\u200d", "▁", "\x00", "\x07"),
    *("</s>", "<s>", "<unk>", "[INST]", "[/INST]", " [INST] ", "<0x0A>", "<|im_end|>", "<pad>"),
    *("😀", "👩‍👩‍👧", "🏳️‍🌈", "e\u0301", "ﬁ", "\U0001f9ff", "𝔘", "'", '"', "`code`", "- item", "a: b"),
]


@pytest.mark.parametrize(("template", "prefix", "first"), NUMBERED_FORMS)
def test_ids_equal_the_reference(template, prefix, first):
    tokenizer = mistral_tokenizer(template, prefix)
    conversations = [make_conversation(random.Random(number)) for number in range(first, first + 600)]
    check_against_reference(tokenizer, conversations)
    for conversation in conversations[::10]:
        prompt = encode_prompt(tokenizer, conversation[:-1])
        assert prompt == reference_ids(conversation[:-1])


@pytest.mark.skipif("RECETARIO_REAL_DATA" not in os.environ, reason="RECETARIO_REAL_DATA names no folder")
@pytest.mark.parametrize(("template", "prefix"), FORMS)
def test_ids_of_real_data_equal_the_reference(template, prefix):
    files = list(Path(os.environ["RECETARIO_REAL_DATA"]).rglob("*.json*"))
    assert files
    for file in files:
        loaded = load_examples(file, on_bad_row="drop", allow_duplicates=True)
        check_against_reference(mistral_tokenizer(template, prefix), [example.messages for example in loaded])


def test_system_text_goes_before_the_first_question():
    conversation = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello")]
    check_against_reference(mistral_tokenizer(), [conversation])


def check_against_reference(tokenizer, conversations):
    examples = [Example(messages=tuple(conversation)) for conversation in conversations]
    for example, encoded in zip(examples, encoder_for(tokenizer).encode_many(examples), strict=True):
        expected = reference_ids(example.messages)
        assert encoded.input_ids == expected, example.messages
        assert encoded.input_ids.count(1) == 1, "one BOS"
        assert encoded.input_ids.count(2) == sum(m.role == "assistant" for m in example.messages), "one EOS an answer"


def reference_ids(messages) -> list[int]:
    system = next((m.content for m in messages if m.role == "system"), None)
    turns = [
        UserMessage(content=m.content) if m.role == "user" else AssistantMessage(content=m.content)
        for m in messages
        if m.role != "system"
    ]
    return REFERENCE.encode_instruct(InstructRequest(messages=turns, system_prompt=system)).tokens


def make_conversation(rng: random.Random) -> list[Message]:
    def text() -> str:
        return "".join(rng.choice(SNIPPETS) for _ in range(rng.randint(1, 12)))

    messages = [Message("system", text())] if rng.random() < 0.25 else []
    for _ in range(rng.randint(1, 4)):
        messages += [Message("user", text()), Message("assistant", text())]
    return messages
