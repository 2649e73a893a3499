"""Conversations as running text in Mistral-Instruct's template, for tools that take `text` rows."""

import re

from common.data.examples import Example
from common.data.problems import RowError

_MARKS = re.compile(r"</?s>|\[/?INST\]|<</?SYS>>")


def format_mistral(example: Example) -> str:
    """Write an example as ``<s>[INST] question [/INST] answer </s>``, further turns after it, a system text within the
    first question. :func:`common.data.text_templates.parse_turns` reads it back.

    Raises RowError for text that holds the template's own marks, which could not be told from them, and for running
    text.
    """
    if not example.messages:
        raise RowError("is running text, not a conversation")
    for message in example.messages:
        if match := _MARKS.search(message.content):
            raise RowError(f"the {message.role}'s turn holds '{match.group()}'", "which would end it", "take it out")
    turns = list(example.messages)
    system = f"<<SYS>>\n{turns.pop(0).content.strip()}\n<</SYS>>\n\n" if turns[0].role == "system" else ""
    text = "<s>"
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        text += f"[INST] {system}{question.content.strip()} [/INST] {answer.content.strip()} </s>"
        system = ""
    return text
