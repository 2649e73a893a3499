"""Ollama's TEMPLATE writes exactly what our encoding writes. Run: pytest tests/unit/test_exporting_templates.py"""

import shutil
from pathlib import Path

import pytest
from chat_tokenizers import (
    MISTRAL_BARE,
    chatml_tokenizer,
    demo_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    phi_tokenizer,
)
from go_templates import render, render_with_go

from common.chat import encode_prompt, stop_token_ids
from common.chat.skeleton import render as render_jinja
from common.errors import UserError
from common.exporting.ollama import go_template, modelfile
from common.exporting.turns import learn_turns, token_note
from common.models import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
# A date line and a system turn always, as Llama 3.2 writes them.
DATED = (
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|eot_id|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# The system's text before the last question, as Mistral's later templates do it: no table of two roles says that.
LAST_QUESTION = (
    "{{ bos_token }}{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    "{% for m in turns %}{% if m.role == 'user' %}{{ '[INST] ' }}"
    "{% if messages[0].role == 'system' and (loop.last or loop.index0 == turns | length - 2) %}"
    "{{ messages[0].content + '\n\n' }}{% endif %}{{ m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


def llama_3_2():
    import copy

    tokenizer = copy.deepcopy(llama_tokenizer())
    tokenizer.chat_template = DATED
    return tokenizer


TOKENIZERS = {
    "mistral-spaced": mistral_tokenizer,
    "mistral-bare": lambda: mistral_tokenizer(MISTRAL_BARE),
    "llama-3": llama_tokenizer,
    "llama-3.2": llama_3_2,
    "phi-3": phi_tokenizer,
    "chatml": chatml_tokenizer,
    "demo": lambda: load_tokenizer(ROOT / "recipes" / "demo" / "model"),
}
SYSTEM = {"role": "system", "content": 'Be "brief".\nAnd kind: ¿sí? {{ .Role }}'}
TURNS = [
    {"role": "user", "content": 'the quick "brown" fox\n\n  jumps'},
    {"role": "assistant", "content": "over\tthe lazy dog\\ 🦊"},
    {"role": "user", "content": "ñandú {{- end -}}"},
    {"role": "assistant", "content": "fox"},
    {"role": "user", "content": "dog?"},
]
CONVERSATIONS = {
    "one": TURNS[:1],
    "three": TURNS[:3],
    "five": TURNS,
    "system": [SYSTEM, *TURNS[:1]],
    "system-three": [SYSTEM, *TURNS[:3]],
    "system-five": [SYSTEM, *TURNS],
}
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def cases(name: str):
    """(tokenizer, turns, messages) for each conversation that the tokenizer's template takes."""
    tokenizer = TOKENIZERS[name]()
    turns = learn_turns(tokenizer)
    taken = [messages for key, messages in CONVERSATIONS.items() if turns.knows_system or "system" not in key]
    assert len(taken) == (3 if name == "demo" else 6)
    return [(tokenizer, turns, messages) for messages in taken]


def encoded_text(tokenizer, messages) -> str:
    """The text that the encode function encodes: it holds each conversation against this."""
    encode_prompt(tokenizer, messages)
    return render_jinja(tokenizer, messages, True)


@every_tokenizer
def test_the_template_writes_what_is_encoded(name):
    for tokenizer, turns, messages in cases(name):
        bos = tokenizer.bos_token if turns.starts_with_bos else ""
        assert bos + render(go_template(turns), messages) == encoded_text(tokenizer, messages)


# Not Mistral's and the demo's: their space before a text is a token of its own for us, a server joins it to the word.
@pytest.mark.parametrize("name", ["llama-3", "llama-3.2", "chatml", "phi-3"])
def test_a_server_that_reads_control_tokens_in_that_text_gets_the_same_ids(name):
    plain = [message | {"content": message["content"].replace("{", "(")} for message in TURNS]
    tokenizer = TOKENIZERS[name]()
    turns = learn_turns(tokenizer)
    bos = tokenizer.bos_token if turns.starts_with_bos else ""
    text = bos + render(go_template(turns), plain)
    assert tokenizer(text, add_special_tokens=False).input_ids == encode_prompt(tokenizer, plain)


def test_it_is_said_where_a_server_gets_other_tokens_than_training_had():
    note = token_note(load_tokenizer(ROOT / "recipes" / "demo" / "model"))
    assert "other tokens for answers of earlier turns" in note and "a first question is the same" in note
    assert "other tokens for a conversation" in token_note(mistral_tokenizer(prefix="normalizer"))
    for tokenizer in (llama_tokenizer(), phi_tokenizer(), chatml_tokenizer(), mistral_tokenizer()):
        assert token_note(tokenizer) == ""


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go toolchain: the template language itself is not at hand")
def test_gos_own_package_agrees(tmp_path):
    found = [case for name in TOKENIZERS for case in cases(name)]
    jobs = [(go_template(turns), messages) for _, turns, messages in found]
    late = [*TURNS[:2], SYSTEM, TURNS[2]]
    phi, demo = (go_template(learn_turns(TOKENIZERS[name]())) for name in ("phi-3", "demo"))
    odd = [(demo, CONVERSATIONS["system"]), (phi, late), (phi, [{"role": "tool", "content": "4"}]), (phi, TURNS[1:3])]
    answers = render_with_go(shutil.which("go"), tmp_path, jobs + odd)
    for (tokenizer, turns, messages), answer in zip(found, answers, strict=False):
        bos = tokenizer.bos_token if turns.starts_with_bos else ""
        assert "error" not in answer, answer
        assert bos + answer["text"] == encoded_text(tokenizer, messages)
    system, late, tool, begun = answers[len(found) :]
    assert "it takes user, assistant" in system["error"]
    assert "at the start only" in late["error"]
    assert "it takes user, assistant, system" in tool["error"]
    # How Ollama looks for what fits into the context: from an answer on. That must not fail.
    assert begun == {"text": f"{TURNS[1]['content']}<|end|>\n<|user|>\n{TURNS[2]['content']}<|end|>\n<|assistant|>\n"}


def test_a_template_that_no_table_of_roles_can_say_is_refused():
    tokenizer = demo_tokenizer(LAST_QUESTION)
    encoded_text(tokenizer, CONVERSATIONS["system-three"])
    with pytest.raises(UserError, match="always the same text between two roles"):
        learn_turns(tokenizer)


def test_a_modelfile_stops_where_training_ended():
    tokenizer = TOKENIZERS["phi-3"]()
    stops = tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer))
    text = modelfile(["FROM ."], learn_turns(tokenizer), stops, context=131072, comments=["one"])
    lines = text.splitlines()
    assert lines[:2] == ["# one", "FROM ."]
    assert sorted(lines[-4:-2]) == ['PARAMETER stop "<|endoftext|>"', 'PARAMETER stop "<|end|>"']
    assert lines[-2:] == ["PARAMETER temperature 0", "PARAMETER num_ctx 4096"]
    assert text.count('"""') == 2
