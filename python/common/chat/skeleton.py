"""What a chat template makes of a conversation of given roles, with holes where the contents go.

The template is rendered with sentinels in place of the contents. So it is known for every character of the result
whether the template or the data wrote it, and control tokens are looked for in the template's own text only: a control
token written in somebody's data stays text.

A skeleton is cut where the model takes over (after each generation prompt), never inside what it writes. The tokens of
a prompt are therefore, id for id, the beginning of the tokens of the training example made from it.
"""

import os
import re
from dataclasses import dataclass, field

from common.errors import ExitCode, Problem, UserError

# Some templates write today's date into the system turn; the ids of an example must not depend on the day.
TEMPLATE_DATE = "26 Jul 2024"
_PAD = "\u2003"  # white space no template writes: if it is gone, the template strips the content
_BREAKS = "\n" * 7  # more of them than a template writes: if they are gone, it strips line breaks
_SENTINEL = re.compile(f"({_BREAKS})?({_PAD}?)\ue000([0-9]+)\ue001({_PAD}?)({_BREAKS})?")
# What a template may take off a side of a content: nothing, line breaks, all white space.
_STRIPPED = {"": "", "breaks": "\n", "space": None}


@dataclass(frozen=True, slots=True)
class Slot:
    """A hole for the content of message ``index``; the template may strip "breaks" or "space" on either side."""

    index: int
    strip_left: str
    strip_right: str

    def fill(self, content: str) -> str:
        return content.lstrip(_STRIPPED[self.strip_left]).rstrip(_STRIPPED[self.strip_right])


@dataclass(slots=True)
class Part:
    """A stretch of the skeleton: one control token (``token_id``) or text to tokenise (literals and slots).

    ``after`` is the template's character right before a text, empty after a control token or a content.
    """

    trained: bool
    token_id: int | None = None
    pieces: list[str | Slot] = field(default_factory=list)
    after: str = ""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The parts of a conversation, and how many of them come before the last answer.

    The outlines are the whole text the template writes, and its generation prompt, as literals and slots.
    """

    parts: list[Part]
    prompt_parts: int
    outline: list[str | Slot]
    prompt_outline: list[str | Slot]


def render(tokenizer, messages: list[dict], generation_prompt: bool = False) -> str:
    """Render the tokenizer's own chat template as text. Raises what the template raises."""
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation_prompt, date_string=TEMPLATE_DATE
    )


def build_skeleton(tokenizer, special_tokens: dict, roles: tuple[str, ...]) -> Skeleton:
    """Build the skeleton of a conversation of these roles; the last one is the assistant's.

    ``special_tokens`` maps text to (id, strips white space left, right). Raises UserError 65 when the template refuses
    these roles, 78 when the template cannot be used for training (it loses a turn, or its generation prompt is not
    what precedes an answer).
    """
    sides = f"{_BREAKS}{_PAD}", f"{_PAD}{_BREAKS}"
    marked = [{"role": role, "content": f"\ue000{i}\ue001".join(sides)} for i, role in enumerate(roles)]
    try:
        full = render(tokenizer, marked)
        turns = {  # of each answer: the generation prompt before it, and the conversation through it
            i: (
                render(tokenizer, marked[:i], True),
                full if i == len(roles) - 1 else render(tokenizer, marked[: i + 1]),
            )
            for i, role in enumerate(roles)
            if role == "assistant"
        }
    except Exception as error:  # a template raises jinja2 errors of its own wording
        what = f"the chat template refuses the roles {' → '.join(roles)}: {error}"
        problem = Problem(what, next_step="leave out the turns it does not know, or use another chat template")
        raise UserError(problem, ExitCode.DATA) from error
    literals, slots = _split(full)
    _check_complete(roles, slots)
    last_prompt = turns[len(roles) - 1][0]
    if not full.startswith(last_prompt):
        raise UserError(
            Problem(
                "the chat template's generation prompt is not what it writes before an answer",
                "training and use would see different prompts",
                "use a tokenizer with another chat template",
            ),
            ExitCode.CONFIG,
        )
    position = {slot.index: at for at, slot in enumerate(slots)}
    answers = {
        position[index]: _Answer(
            opening=_after_prompt(literals[position[index]], prompt),
            closing=os.path.commonprefix([_split(through)[0][-1], literals[position[index] + 1]]),
            is_last=index == len(roles) - 1,
        )
        for index, (prompt, through) in turns.items()
    }
    builder = _Builder(special_tokens, tokenizer.eos_token_id)
    for at, literal in enumerate(literals):
        if at - 1 in answers:
            literal = builder.end_answer(literal, answers[at - 1])
            if answers[at - 1].is_last:
                break
        if at in answers:
            opening = answers[at].opening
            builder.add_literal(literal.removesuffix(opening))
            builder.start_answer(opening)
        else:
            builder.add_literal(literal)
        builder.add_slot(slots[at])
    return Skeleton(builder.parts, builder.prompt_parts, _outline(full), _outline(last_prompt))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the template writes around an answer: ``opening`` between the generation prompt and the content, ``closing``
    behind the content, as far as it belongs to this turn.
    """

    opening: str
    closing: str
    is_last: bool


class _Builder:
    """Collects parts; adjoining text becomes one part, because a tokenizer may join words across its seams."""

    def __init__(self, special_tokens: dict, eos_token_id: int | None):
        self.special_tokens = special_tokens
        self.eos_token_id = eos_token_id
        self.parts: list[Part] = []
        self.trained = False
        self.prompt_parts = 0
        self.last_character = ""
        self.open = False
        escaped = sorted(map(re.escape, special_tokens), key=len, reverse=True)
        self.pattern = re.compile("|".join(escaped)) if escaped else re.compile(r"(?!)")

    def add_literal(self, literal: str) -> None:
        start = 0
        for match in self.pattern.finditer(literal):
            token_id, strips_left, strips_right = self.special_tokens[match.group()]
            text = literal[start : match.start()]
            self._add_text(text.rstrip() if strips_left else text)
            self.parts.append(Part(self.trained, token_id=token_id))
            self.open, self.last_character = False, ""
            start = match.end()
            if strips_right:
                start += len(literal[start:]) - len(literal[start:].lstrip())
        self._add_text(literal[start:])

    def add_slot(self, slot: Slot) -> None:
        self._text_part().pieces.append(slot)
        self.last_character = ""

    def start_answer(self, literal: str) -> None:
        self.open, self.trained = False, True
        self.prompt_parts = len(self.parts)
        self.add_literal(literal)

    def end_answer(self, literal: str, answer: _Answer) -> str:
        """Add the trained end of an answer and return what is left of the literal behind it.

        The end of the turn is the first control token after the content; where the template has none, the last turn
        gets the end-of-sequence token.
        """
        match = self.pattern.search(answer.closing)
        if match:
            self.add_literal(literal[: match.end()])
            literal = literal[match.end() :]
            if self.special_tokens[match.group()][2]:
                literal = literal.lstrip()
        elif answer.is_last:
            if self.eos_token_id is None:
                what = "neither the chat template nor the tokenizer has a token that ends an answer"
                raise UserError(Problem(what, next_step="use a tokenizer that has one"), ExitCode.CONFIG)
            self.parts.append(Part(True, token_id=self.eos_token_id))
        self.open, self.trained, self.last_character = False, False, ""
        return literal

    def _add_text(self, text: str) -> None:
        if text:
            self._text_part().pieces.append(text)
            self.last_character = text[-1]

    def _text_part(self) -> Part:
        if not self.open:
            self.parts.append(Part(self.trained, after=self.last_character))
            self.open = True
        return self.parts[-1]


def _split(rendered: str) -> tuple[list[str], list[Slot]]:
    """Split at the sentinels: n slots, n + 1 literals."""
    fields = _SENTINEL.split(rendered)
    slots = [
        Slot(int(index), _missing(pad, breaks), _missing(pad_after, breaks_after))
        for breaks, pad, index, pad_after, breaks_after in zip(*(fields[i::6] for i in range(1, 6)), strict=True)
    ]
    return fields[::6], slots


def _missing(pad: str, breaks: str | None) -> str:
    """What the template has stripped on a side of a content (see :class:`Slot`)."""
    return "space" if not pad else "" if breaks else "breaks"


def _outline(rendered: str) -> list[str | Slot]:
    literals, slots = _split(rendered)
    return [piece for pair in zip(literals, [*slots, None], strict=True) for piece in pair if piece]


def _check_complete(roles: tuple[str, ...], slots: list[Slot]) -> None:
    found = [slot.index for slot in slots]
    lost = [role for i, role in enumerate(roles) if i not in found]
    if lost or len(found) != len(roles):
        what = f"leaves out the {lost[0]}'s turn" if lost else "writes a turn twice"
        raise UserError(
            Problem(f"the chat template {what} (roles {' → '.join(roles)})", next_step="use another chat template"),
            ExitCode.CONFIG,
        )


def _after_prompt(literal: str, prompt: str) -> str:
    """What of the literal before an answer comes after the generation prompt."""
    head = _split(prompt)[0][-1]
    return literal.removeprefix(head) if literal.startswith(head) else ""
