"""Row shapes and templated text: what each becomes.

pytest tests/unit/test_data_shapes.py
"""

import json

import pytest

from common.data import load_examples, parse_columns
from common.data.examples import Example, Message
from common.data.formatting import format_mistral
from common.data.problems import RowError
from common.data.shapes import ShapeReader
from common.data.text_templates import parse_turns
from common.errors import ExitCode, UserError

QUESTION, ANSWER = "Who runs?", "The fox runs."
PAIR = (("user", QUESTION), ("assistant", ANSWER))
SYSTEM = ("system", "Be brief.")
HEADED = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"  # as Llama-3.1's template writes them
MESSAGES = [{"role": r, "content": c} for r, c in PAIR]
SHAPES = {
    "messages": ({"messages": [{"role": r, "content": c} for r, c in (SYSTEM, *PAIR)]}, (SYSTEM, *PAIR)),
    "null extras": (
        {"messages": [{"role": r, "content": c, "name": None} for r, c in PAIR]},
        PAIR,
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
        PAIR,
    ),
    "sharegpt with system": (
        {
            "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}],
            "system": SYSTEM[1],
        },
        (SYSTEM, *PAIR),
    ),
    "messages with system": (
        {"messages": [{"role": r, "content": c} for r, c in PAIR], "system": SYSTEM[1]},
        (SYSTEM, *PAIR),
    ),
    "messages with two systems": (
        {"messages": [{"role": r, "content": c} for r, c in (SYSTEM, *PAIR)], "system": "Be long."},
        (SYSTEM, *PAIR),
    ),
    "conversations of messages with system": (
        {"conversations": [{"role": r, "content": c} for r, c in PAIR], "system": SYSTEM[1]},
        (SYSTEM, *PAIR),
    ),
    "prompt/completion": ({"prompt": QUESTION, "completion": ANSWER}, PAIR),
    "prompt/completion with system": ({"system": SYSTEM[1], "prompt": QUESTION, "completion": ANSWER}, (SYSTEM, *PAIR)),
    "messages in prompt and completion": (
        {"prompt": [{"role": "user", "content": QUESTION}], "completion": [{"role": "assistant", "content": ANSWER}]},
        PAIR,
    ),
    "messages in prompt and completion, with system": (
        {"system": SYSTEM[1], "prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
        (SYSTEM, *PAIR),
    ),
    "a good answer": ({"prompt": QUESTION, "completion": ANSWER, "label": True, "tools": [], "history": None}, PAIR),
    "messages without tools": ({"messages": MESSAGES, "tools": "[]"}, PAIR),
    "sharegpt, answers trained": (
        {
            "conversations": [
                {"from": "human", "value": QUESTION, "weight": 0},
                {"from": "gpt", "value": ANSWER, "weight": 1.0, "train": True},
            ]
        },
        PAIR,
    ),
    "instruction with history": (
        {"instruction": "Why?", "input": "", "output": "So.", "history": [[QUESTION, ANSWER]], "system": SYSTEM[1]},
        (SYSTEM, *PAIR, ("user", "Why?"), ("assistant", "So.")),
    ),
    "instruction": ({"instruction": QUESTION, "input": "", "output": ANSWER}, PAIR),
    "instruction and input": (
        {"instruction": "Who?", "input": "A fox.", "output": ANSWER},
        (("user", "Who?\n\nA fox."), PAIR[1]),
    ),
    "instruction/context/response": (
        {"instruction": "Who?", "context": "A fox.", "response": ANSWER, "category": "qa"},
        (("user", "Who?\n\nA fox."), PAIR[1]),
    ),
    "question/answer": ({"Question": QUESTION, "Answer": ANSWER}, PAIR),
    "input/output": ({"input": QUESTION, "output": ANSWER}, PAIR),
    "source/target": ({"source": QUESTION, "target": ANSWER}, PAIR),
    "sentence/translation": ({"sentence": QUESTION, "translation": "x", "translation_extra": ANSWER}, PAIR),
    "mistral text": ({"text": f"<s>[INST] {QUESTION} [/INST] {ANSWER} </s>"}, PAIR),
    "mistral text, turns": (
        {"text": f"<s> [INST] {QUESTION} [/INST] {ANSWER}</s><s>[INST] Why? [/INST] So.</s>"},
        (*PAIR, ("user", "Why?"), ("assistant", "So.")),
    ),
    "mistral text, system": (
        {"text": f"[INST] <<SYS>>\n{SYSTEM[1]}\n<</SYS>>\n\n{QUESTION} [/INST] {ANSWER}"},
        (SYSTEM, *PAIR),
    ),
    "llama-3 text": (
        {"text": "<|begin_of_text|>" + "".join(HEADED.format(*turn) for turn in (SYSTEM, *PAIR))},
        (SYSTEM, *PAIR),
    ),
    "llama-3 text without its end": (
        {"text": HEADED.format(*PAIR[0]) + HEADED.format(*PAIR[1]).removesuffix("<|eot_id|>") + "<|end_of_text|>"},
        PAIR,
    ),
    "llama-3.1 text": (
        {"text": "".join(HEADED.format(r, (DATES if r == "system" else "") + c) for r, c in (SYSTEM, *PAIR))},
        (SYSTEM, *PAIR),
    ),
    "llama-3.1 text without a system turn of its own": (
        {"text": "".join(HEADED.format(*turn) for turn in (("system", DATES), *PAIR))},
        PAIR,
    ),
    "gemma text": (
        {"text": f"<bos><start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n{ANSWER}<end_of_turn>\n"},
        PAIR,
    ),
    "qwen-3 text": (
        {"text": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{ANSWER}"},
        PAIR,
    ),
    "chatml text": (
        {"text": "".join(f"<|im_start|>{r}\n{c}<|im_end|>\n" for r, c in (SYSTEM, *PAIR))},
        (SYSTEM, *PAIR),
    ),
    "phi-3 text": ({"text": "<s>" + "".join(f"<|{r}|>\n{c}<|end|>\n" for r, c in PAIR) + "<|endoftext|>"}, PAIR),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_becomes_a_conversation(name):
    row, turns = SHAPES[name]
    example = ShapeReader().read(row, "train.jsonl:3")
    assert [(message.role, message.content) for message in example.messages] == list(turns)
    assert example.text is None
    assert example.source == "train.jsonl:3"
    assert dict(example.row) == row
    assert example.completion == turns[-1][1]
    assert [message.content for message in example.prompt_messages] == [content for _, content in turns[:-1]]


@pytest.mark.parametrize("text", ["<s>Once upon a time.</s>", "Once upon<|endoftext|>a time, <|> and <3.",
                                  "<|startoftext|>Once <|fim_prefix|>a<|fim_middle|> time"])  # fmt: skip
def test_running_text_stays_text(text):
    example = ShapeReader().read({"text": text}, "")
    assert (example.messages, example.text) == ((), text)


@pytest.mark.parametrize(
    "text",
    [
        "[INST] who [INST] what [/INST] x",
        "hello [INST] who [/INST] x",
        "<|im_start|>user\nno end <|im_start|>assistant\nx<|im_end|>",
        "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>stray<|start_header_id|>assistant<|end_header_id|>x",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>q<|END_OF_TURN_TOKEN|>",
        "<\uff5cUser\uff5c>q<\uff5cAssistant\uff5c>a",
    ],
)
def test_text_that_only_begins_like_a_template_is_an_error(text):
    with pytest.raises(RowError, match="field 'text'"):
        ShapeReader().read({"text": text}, "")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "q", "completion": "a", "label": False}, "field 'label' marks a bad answer"),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "Label": "False"}, "field 'Label' marks a bad answer"),
        ({"messages": MESSAGES, "tools": [{"type": "function"}]}, "field 'tools' names tools"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}]},
            r"field 'conversations\[1\].weight' is a number \(0\)",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "train": False}]},
            r"field 'conversations\[1\].train' is a boolean \(false\)",
        ),
        ({"conversations": [{"from": ["gpt"], "value": "x"}]}, r"from' is \['gpt'\]"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, r"field 'history\[0\]' is a list"),
        ({"messages": MESSAGES, "system": 5}, r"field 'system' is a number \(5\), not text"),
    ],
)
def test_what_a_row_says_of_itself_is_not_passed_over(row, says):
    with pytest.raises(RowError, match=says):
        ShapeReader().read(row, "")


def test_mixed_shapes_are_counted(tmp_path):
    rows = [SHAPES[name][0] for name in ("prompt/completion", "question/answer", "sharegpt")]
    rows[1] = {"question": "What?", "answer": "That."}
    rows[2] = {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_examples(path)
    assert loaded.shape == "prompt/completion (1), question/answer (1), conversations (1)"
    assert [example.source for example in loaded] == ["mixed.jsonl:1", "mixed.jsonl:2", "mixed.jsonl:3"]


@pytest.mark.parametrize(
    ("columns", "row", "turns"),
    [
        ({"prompt": "Q", "completion": "A"}, {"Q": "q", "A": "a", "text": "t"}, [("user", "q"), ("assistant", "a")]),
        (
            {"prompt": "Q", "completion": "A", "system": "S"},
            {"Q": "q", "A": "a", "S": "s"},
            [("system", "s"), ("user", "q"), ("assistant", "a")],
        ),
        (
            {"prompt": "P", "completion": "C", "system": "S"},
            {"P": MESSAGES[:1], "C": MESSAGES[1:], "S": SYSTEM[1]},
            [SYSTEM, *PAIR],
        ),
        ({"prompt": "Q", "completion": "A"}, {"Q": "q", "A": "a", "label": False}, [("user", "q"), ("assistant", "a")]),
        ({"messages": "chat"}, {"chat": SHAPES["messages"][0]["messages"]}, [SYSTEM, *PAIR]),
        ({"conversations": "c"}, {"c": SHAPES["sharegpt"][0]["conversations"]}, list(PAIR)),
        ({"text": "t"}, {"t": SHAPES["mistral text"][0]["text"]}, list(PAIR)),
    ],
)
def test_columns_win_over_detection(columns, row, turns):
    example = ShapeReader(columns).read(row, "")
    assert [(message.role, message.content) for message in example.messages] == turns


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prompt"], "has 'prompt'"),
        (["prompt=Q"], "either prompt and completion"),
        (["text=a", "messages=b"], "either prompt and completion"),
        (["prompts=Q", "completion=A"], "did you mean prompt"),
    ],
)
def test_wrong_columns_are_usage_errors(words, says):
    with pytest.raises(UserError, match=says) as caught:
        parse_columns(words)
    assert caught.value.exit_code == ExitCode.USAGE


def test_columns_may_come_as_one_word():
    assert parse_columns(["prompt=Q completion=A"]) == {"prompt": "Q", "completion": "A"}
    assert parse_columns(["prompt=My question", "completion=A"]) == {"prompt": "My question", "completion": "A"}


def test_formatted_text_reads_back():
    turns = (Message("system", "Be brief."), Message("user", "Who?"), Message("assistant", "Me.\n\nOnly me."))
    turns += (Message("user", "Why?"), Message("assistant", "So."))
    text = format_mistral(Example(turns))
    assert text == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho? [/INST] Me.\n\nOnly me. </s>[INST] Why? [/INST] So. </s>"
    )
    assert parse_turns(text) == ("Mistral", list(turns))


@pytest.mark.parametrize("mark", ["</s>", "[INST]", "[/INST]", "<<SYS>>"])
def test_formatting_refuses_the_templates_own_marks(mark):
    with pytest.raises(RowError, match="user's turn holds"):
        format_mistral(Example((Message("user", f"a {mark} b"), Message("assistant", "x"))))


@pytest.mark.parametrize("kind", ["messages", "conversations"])
def test_a_column_mapped_to_system_comes_before_the_turns(kind):
    names = ("role", "content") if kind == "messages" else ("from", "value")
    speakers = ("user", "assistant") if kind == "messages" else ("human", "gpt")
    turns = [dict(zip(names, turn, strict=True)) for turn in zip(speakers, (QUESTION, ANSWER), strict=True)]
    row = {"M": turns, "S": SYSTEM[1], "system": "not this one"}
    example = ShapeReader({kind: "M", "system": "S"}).read(row, "here")
    assert tuple((message.role, message.content) for message in example.messages) == (SYSTEM, *PAIR)
