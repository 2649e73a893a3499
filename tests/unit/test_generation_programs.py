"""Optimised prompts: what a DSPy program's JSON becomes, what is refused, and how a question is asked with one."""

import json

import pytest

from common.data import Example, Message
from common.data.business_analyst import render_prompt
from common.errors import ExitCode, UserError
from common.generation.programs import Prompt, is_program, read_program

FIELDS = [{"prefix": "Question:", "description": "${question}"}, {"prefix": "Answer:", "description": "${answer}"}]


def step(demos=(), instructions="") -> dict:
    signature = {"instructions": instructions, "fields": FIELDS}
    return {"traces": [], "train": [], "demos": list(demos), "signature": signature, "lm": None}


def write(folder, state, name="program.json"):
    path = folder / name
    path.write_text(json.dumps(state), encoding="utf-8")
    return path


def turns(messages) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


QUESTION = (Message("user", "q"),)
SHOWN = Example((Message("user", "a"), Message("assistant", "b")))


@pytest.mark.parametrize(
    ("prompt", "question", "asked"),
    [
        (Prompt(), QUESTION, [("user", "q")]),
        (Prompt("Be brief."), QUESTION, [("user", "Be brief.\n\nq")]),
        (Prompt("", (SHOWN,)), QUESTION, [("user", "a"), ("assistant", "b"), ("user", "q")]),
        (Prompt("I", (SHOWN,)), QUESTION, [("user", "I\n\na"), ("assistant", "b"), ("user", "q")]),
        (
            Prompt("I", (SHOWN,)),
            (Message("system", "s"), *QUESTION),
            [("system", "s\n\nI"), ("user", "a"), ("assistant", "b"), ("user", "q")],
        ),
    ],
)
def test_a_question_is_asked_with_instructions_and_demonstrations_around_it(prompt, question, asked):
    assert turns(prompt.around(question)) == asked
    assert prompt.is_plain == (prompt == Prompt())


@pytest.mark.parametrize(
    ("demo", "asked"),
    [
        ({"augmented": True, "question": "q1", "answer": "a1"}, "q1"),
        ({"prompt": "q1", "completion": "a1"}, "q1"),
        ({"ask": "q1", "reasoning": "because", "reply": "a1"}, "q1"),
        ({"concept": "a shop", "document": "a1"}, render_prompt("a shop")),
        ({"prompt": [{"role": "user", "content": "q1"}], "completion": "a1"}, "q1"),
    ],
)
@pytest.mark.parametrize("name", ["self", "generate.predict"])
def test_programs_of_any_fields_are_read(tmp_path, demo, asked, name):
    state = step([demo], "Answer well.") if name == "self" else {name: step([demo], "Answer well."), "metadata": {}}
    prompt = read_program(write(tmp_path, state))
    assert prompt.instructions == "Answer well."
    assert turns(prompt.demonstrations[0].messages) == [("user", asked), ("assistant", "a1")]
    assert prompt.describe()["demonstrations"] == ["program.json, demonstration 1"]
    assert prompt == read_program(tmp_path), "the folder will do"


def test_instructions_that_nobody_wrote_are_none(tmp_path):
    given = "Given the fields `context`, `question`, produce the fields `answer`."
    assert read_program(write(tmp_path, step([], given))).is_plain


def refused(path, code, *words):
    with pytest.raises(UserError) as error:
        read_program(path)
    assert error.value.exit_code is code and all(word in str(error.value) for word in words), str(error.value)


def test_what_is_no_program_is_refused_by_name(tmp_path):
    refused(tmp_path / "absent.json", ExitCode.NO_INPUT, "make optimize")
    refused(tmp_path, ExitCode.NO_INPUT, "none")
    refused(write(tmp_path, [1, 2]), ExitCode.DATA, "steps in it: none")
    refused(write(tmp_path, {"a": step(), "b": step()}), ExitCode.DATA, "steps in it: a, b")
    refused(write(tmp_path, step(["text"])), ExitCode.DATA, "demonstration 1", "no object")
    refused(write(tmp_path, step([{"question": "q"}])), ExitCode.DATA, "demonstration 1", "answer")
    refused(write(tmp_path, step([{"a": "1", "b": 2}])), ExitCode.DATA, "demonstration 1")
    refused(write(tmp_path, step([], 7)), ExitCode.DATA, "instructions are not text")
    (tmp_path / "program.json").write_text('{"demos": [')
    refused(tmp_path, ExitCode.DATA, "no JSON")
    (tmp_path / "program.json").write_text("[" * 100_000)
    refused(tmp_path, ExitCode.DATA, "no JSON")


def test_pickled_programs_are_never_opened(tmp_path):
    (tmp_path / "metadata.json").write_text("{}")
    (tmp_path / "program.pkl").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    refused(tmp_path, ExitCode.DATA, "pickled", "program.save('x.json')")
    refused(tmp_path / "program.pkl", ExitCode.DATA, "pickled")
    assert is_program(str(tmp_path)) and is_program(str(tmp_path / "program.pkl"))


def test_models_and_servers_are_no_programs(tmp_path):
    assert not is_program("ollama:mistral:7b-instruct") and not is_program("mistralai/Mistral-7B-Instruct-v0.1")
    assert not is_program(str(tmp_path))
    write(tmp_path, {}, "config.json")
    assert not is_program(str(tmp_path))
