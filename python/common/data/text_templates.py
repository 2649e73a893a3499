"""Text that is already in a conversation template: taken apart into turns, to be rendered by the tokenizer's own.

So a row written for one model trains another as well, and control tokens written in the row can never be doubled.
"""

import re
from dataclasses import dataclass

from common.data.examples import Message
from common.data.problems import RowError


@dataclass(frozen=True, slots=True)
class _Headed:
    """A template in which every turn has a header with its role and a mark at its end."""

    name: str
    opening: str
    header: re.Pattern
    end: str
    around: re.Pattern  # what may stand outside of turns


_SEQUENCE_MARKS = re.compile(r"\s*(<s>|</s>|<\|endoftext\|>)?\s*")
_HEADED = (
    _Headed(
        "Llama-3",
        "<|start_header_id|>",
        re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
        "<|eot_id|>",
        re.compile(r"\s*(<\|begin_of_text\|>|<\|end_of_text\|>)?\s*"),
    ),
    _Headed(
        "ChatML",
        "<|im_start|>",
        re.compile(r"<\|im_start\|>\s*(\w+)[ \t]*\n"),
        "<|im_end|>",
        _SEQUENCE_MARKS,
    ),
    _Headed(
        "Phi-3",
        "<|assistant|>",
        re.compile(r"<\|(system|user|assistant)\|>"),
        "<|end|>",
        _SEQUENCE_MARKS,
    ),
    _Headed(
        "Gemma",
        "<start_of_turn>",
        re.compile(r"<start_of_turn>(\w+)[ \t]*\n"),
        "<end_of_turn>",
        re.compile(r"\s*(<bos>|<eos>)?\s*"),
    ),
)
# What templates write into a turn by themselves: Llama-3.1's dates, the thought that Qwen3 left out.
_WRITTEN = {
    "system": re.compile(r"\ACutting Knowledge Date: .*\nToday Date: .*(\n\n|\Z)"),
    "assistant": re.compile(r"\A<think>\s*</think>\s*"),
}
_INST = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=\[INST\]|\Z)", re.DOTALL)
_SYSTEM = re.compile(r"\s*<<SYS>>\s*(.*?)\s*<</SYS>>\s*", re.DOTALL)
# Signs of a turn in templates that are not known here: they name a role or a turn's end.
_ROLE = r"\w{0,20}(?:system|user|assistant|human|bot|turn)\w{0,20}"
_TURN_MARKS = re.compile(
    rf"<\|(?:{_ROLE}|eot_id|eom_id|im_end|end)\|>|<\uff5c{_ROLE}\uff5c>|<end_of_turn>", re.IGNORECASE
)


def parse_turns(text: str) -> tuple[str, list[Message]] | None:
    """Return (name of the template, turns) of a templated text, or None for running text.

    White space around a turn belongs to the template and is taken off. Raises RowError when the text begins like a
    template but does not hold together, or shows signs of one that is not known.
    """
    if "[/INST]" in text or "[INST]" in text:
        return "Mistral", _parse_inst(text)
    for template in _HEADED:
        if template.opening in text:
            return template.name, _parse_headed(text, template)
    if mark := _TURN_MARKS.search(text):
        known = ", ".join(["Mistral", *(template.name for template in _HEADED)])
        raise RowError(
            f"field 'text' holds '{mark.group()}', of no template that is known",
            f"known: {known}; or running text without such marks",
            "write the turns as messages",
        )
    return None


def _parse_inst(text: str) -> list[Message]:
    body = text.strip()
    while body.startswith("<s>"):
        body = body.removeprefix("<s>").lstrip()
    if not body.startswith("[INST]"):
        raise RowError("field 'text' does not begin with [INST]", "a row is <s>[INST] question [/INST] answer </s>")
    turns: list[Message] = []
    covered = 0
    for match in _INST.finditer(body):
        if match.start() != covered:
            break
        if "[INST]" in match.group(1):
            break
        covered = match.end()
        question, answer = match.group(1), _strip_marks(match.group(2))
        system = None if turns else _SYSTEM.match(question)
        if system:
            turns.append(Message("system", system.group(1)))
            question = question[system.end() :]
        turns += [Message("user", question.strip()), Message("assistant", answer)]
    if covered != len(body):
        raise RowError(
            "field 'text' has an [INST] without its [/INST]", "a row is <s>[INST] question [/INST] answer </s>"
        )
    return turns


def _strip_marks(answer: str) -> str:
    """Take the end-of-sequence mark (once or more) and the next turn's beginning mark off an answer."""
    answer = answer.strip()
    while answer.endswith(("</s>", "<s>")):
        answer = answer.removesuffix("</s>").removesuffix("<s>").rstrip()
    return answer


def _parse_headed(text: str, template: _Headed) -> list[Message]:
    turns: list[Message] = []
    at = template.around.match(text).end()
    while at < len(text):
        header = template.header.match(text, at)
        if not header:
            found = text[at : at + 20]
            raise RowError(f"field 'text' is not in the {template.name} template at '{found}'")
        end = text.find(template.end, header.end())
        following = template.header.search(text, header.end())
        if following and not 0 <= end <= following.start():
            raise RowError(f"field 'text' has a turn without {template.end}")
        content = text[header.end() : end if end >= 0 else len(text)]
        if end < 0:
            content = re.sub(r"(<eos>|<\|end_of_text\|>|<\|endoftext\|>|</s>)\s*\Z", "", content)
        role = "assistant" if header.group(1) == "model" else header.group(1)  # as Gemma calls it
        content, written = _WRITTEN[role].subn("", content.strip()) if role in _WRITTEN else (content.strip(), 0)
        if content or role != "system" or not written:  # a system turn of no more than that was none
            turns.append(Message(role, content))
        at = len(text) if end < 0 else end + len(template.end)
        while (skipped := template.around.match(text, at).end()) > at:
            at = skipped
    return turns
