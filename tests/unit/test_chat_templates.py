"""The encode function over the template families: masks, prompts as exact beginnings, control tokens in the data.

pytest tests/unit/test_chat_templates.py
"""

import copy
from datetime import datetime

import pytest
from chat_tokenizers import (
    PLAIN_WORDS,
    THINKING,
    chatml_tokenizer,
    demo_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    phi_tokenizer,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import chat_template_utils

from common.chat import encode_example, encode_prompt, stop_token_ids
from common.data import Example, Message
from common.errors import ExitCode, UserError

TOKENIZERS = {
    "mistral": mistral_tokenizer,
    "llama-3": llama_tokenizer,
    "chatml": chatml_tokenizer,
    "thinking": lambda: chatml_tokenizer(THINKING),
    "phi-3": phi_tokenizer,
    "demo": demo_tokenizer,
    "plain-words": lambda: demo_tokenizer(PLAIN_WORDS),
}
END_OF_TURN = {"mistral": "</s>", "llama-3": "<|eot_id|>", "phi-3": "<|end|>", "demo": "</s>", "plain-words": "</s>"}
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
CONTROL_WORDS = ["</s>", "<s>", "[INST]", "<|im_end|>", "<|eot_id|>", "<|assistant|>\n", "<|end|>", "<think>"]
texts = st.lists(st.sampled_from(CONTROL_WORDS) | st.text(max_size=12), min_size=1, max_size=5).map("".join)


def conversation(*contents: str) -> Example:
    roles = ("user", "assistant") * len(contents)
    return Example(messages=tuple(Message(role, text) for role, text in zip(roles, contents, strict=False)))


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(contents=st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
def test_a_prompt_is_the_beginning_of_its_example(name, contents):
    tokenizer = TOKENIZERS[name]()
    example = conversation(*(text for pair in contents for text in pair))
    encoded = encode_example(tokenizer, example)
    prompt = encode_prompt(tokenizer, example.prompt_messages)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.completion_mask[: len(prompt)].count(True) < len(prompt)
    assert all(encoded.completion_mask[len(prompt) :]), "everything after the prompt is trained"
    assert len(encoded.input_ids) > len(prompt)


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(question=texts, answer=texts)
def test_control_tokens_in_the_data_stay_text(name, question, answer):
    tokenizer = TOKENIZERS[name]()
    specials = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    plain = encode_example(tokenizer, conversation("q", "a")).input_ids
    encoded = encode_example(tokenizer, conversation(question, answer)).input_ids
    assert [i for i in encoded if i in specials] == [i for i in plain if i in specials]


@every_tokenizer
def test_the_answers_and_their_ends_are_trained(name):
    tokenizer = TOKENIZERS[name]()
    encoded = encode_example(tokenizer, conversation("the fox", "the dog", "quick", "brown lazy"))
    trained = [i for i, is_trained in zip(encoded.input_ids, encoded.completion_mask, strict=True) if is_trained]
    end = END_OF_TURN.get(name, "<|im_end|>")
    text = tokenizer.decode(trained).replace(end, " ").replace("<think>\n\n</think>\n\n", "")
    assert text.split() == ["the", "dog", "brown", "lazy"]
    assert encoded.completion_mask[-1], "the last token is trained"
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids[-1]) == end
    assert encoded.input_ids[-1] in stop_token_ids(tokenizer)
    everything = encode_example(tokenizer, conversation("the fox", "the dog", "quick", "brown lazy"), loss_on="all")
    assert everything.input_ids == encoded.input_ids
    assert all(everything.completion_mask)


@every_tokenizer
def test_ids_are_those_of_the_rendered_template(name):
    """Where no seam is in doubt (words on both sides), cutting changes nothing against tokenising the whole text."""
    tokenizer = TOKENIZERS[name]()
    example = conversation("the quick fox", "the lazy dog", "jumps over", "the brown fox")
    messages = [message.as_dict() for message in example.messages]
    whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
    ours = encode_example(tokenizer, example).input_ids
    if name == "plain-words":
        assert ours == [*whole[:-1], tokenizer.eos_token_id], "its last line break gives way to the end of sequence"
    else:
        assert ours == whole[: len(ours)]
        assert tokenizer.decode(whole[len(ours) :]).strip() in ("", "<|endoftext|>")


def test_last_label_is_the_end_also_when_padding_is_the_same_token():
    tokenizer = chatml_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    encoded = encode_example(tokenizer, conversation("fox", "dog"))
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert encoded.completion_mask[-1] is True


@pytest.mark.parametrize("text", ["the fox", "<s>the fox</s>", "<s><s> the fox </s></s>\n"])
def test_running_text_has_one_beginning_and_one_end(text):
    tokenizer = mistral_tokenizer()
    encoded = encode_example(tokenizer, Example(text=text))
    assert encoded.input_ids[0] == 1
    assert encoded.input_ids[-1] == 2
    assert encoded.input_ids.count(1) == encoded.input_ids.count(2) == 1
    assert encoded.completion_mask == [False] + [True] * (len(encoded) - 1)


def test_a_template_that_trims_is_followed():
    tokenizer = llama_tokenizer()
    padded = encode_example(tokenizer, conversation("  fox \n", "\tdog "))
    assert padded.input_ids == encode_example(tokenizer, conversation("fox", "dog")).input_ids


def test_a_template_that_strips_line_breaks_is_followed():
    tokenizer = chatml_tokenizer(THINKING)
    begun = encode_example(tokenizer, conversation("fox", "\n\n  dog\n"))
    assert begun == encode_example(tokenizer, conversation("fox", "  dog\n"))
    assert begun != encode_example(tokenizer, conversation("fox", "dog\n"))
    assert encode_example(tokenizer, conversation("a", "\nb", "c", "d")) != encode_example(
        tokenizer, conversation("a", "b", "c", "d")
    ), "of an earlier answer they stay"


def test_a_template_that_rewrites_the_text_is_an_error():
    tokenizer = chatml_tokenizer(THINKING)
    example = Example((Message("user", "fox"), Message("assistant", "hm </think> dog")), source="train.jsonl:7")
    with pytest.raises(UserError, match=r"train\.jsonl:7: the chat template rewrites") as caught:
        encode_example(tokenizer, example)
    assert caught.value.exit_code == ExitCode.DATA


def test_roles_a_template_refuses_are_named():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}x"
    example = Example((Message("system", "s"), Message("user", "q"), Message("assistant", "a")), source="t.jsonl:3")
    with pytest.raises(UserError, match=r"t\.jsonl:3: .*system → user → assistant: no system turn"):
        encode_example(demo_tokenizer(template), example)


def test_a_template_that_loses_a_turn_is_an_error():
    template = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    example = Example((Message("system", "s"), Message("user", "q"), Message("assistant", "a")))
    with pytest.raises(UserError, match="leaves out the system's turn") as caught:
        encode_example(demo_tokenizer(template), example)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_a_generation_prompt_that_is_not_what_precedes_answers_is_an_error():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ 'GO' }}{% endif %}"
    with pytest.raises(UserError, match="generation prompt") as caught:
        encode_example(demo_tokenizer(template), conversation("q", "a"))
    assert caught.value.exit_code == ExitCode.CONFIG


def test_no_template_is_an_error():
    tokenizer = demo_tokenizer("")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(tokenizer, [Message("user", "q")])


def test_the_ids_do_not_depend_on_the_day():
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%H:%M:%S.%f') %}{% endif %}"
        "{{ date_string }}{% for m in messages %}{{ ' ' + m.content }}{% endfor %}"
    )
    example = conversation("q", "a")
    assert encode_example(demo_tokenizer(template), example) == encode_example(demo_tokenizer(template), example)


def test_a_template_that_writes_the_date_survives_midnight(monkeypatch):
    template = "{{ strftime_now('%d %b %Y') }}" + demo_tokenizer().chat_template
    tokenizer = demo_tokenizer(template)
    today = encode_prompt(tokenizer, [Message("user", "fox")])
    assert today == encode_prompt(tokenizer, [Message("user", "fox")])

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2099, 12, 31)

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    tomorrow = tokenizer.decode(encode_prompt(tokenizer, [Message("user", "fox")]))
    assert "31 Dec 2099" in tomorrow
    assert tomorrow[-20:] == tokenizer.decode(today)[-20:]


def test_a_changed_template_is_noticed():
    tokenizer = byte_level_copy()
    before = encode_prompt(tokenizer, [Message("user", "fox")])
    tokenizer.chat_template = tokenizer.chat_template.replace("[INST] ", "[INST]")
    assert encode_prompt(tokenizer, [Message("user", "fox")]) != before


def byte_level_copy():
    return copy.deepcopy(demo_tokenizer())
