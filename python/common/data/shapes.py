"""What a row means: the shapes of rows this project knows, and how each becomes a conversation.

A shape is recognised by its columns, row by row, because real files mix them. Every field that is used must be text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from common.data import business_analyst, business_analyst_rows
from common.data.examples import Example, Message
from common.data.json_rows import describe
from common.data.problems import RowError
from common.data.text_templates import parse_turns
from common.data.turns import (
    check_turns,
    put_system_first,
    read_history,
    read_messages,
    read_sharegpt,
    read_text,
    read_turns,
)
from common.errors import did_you_mean

# (shape, columns of the question, optional column added to it, column of the answer), the first that fits wins.
_PAIRS = (
    ("prompt/completion", "prompt", "", "completion"),
    ("prompt/completion", "prompt", "", "response"),
    ("prompt/completion", "prompt", "", "answer"),
    ("instruction/input/output", "instruction", "input", "output"),
    ("instruction/input/output", "instruction", "context", "response"),
    ("question/answer", "question", "context", "answer"),
    ("input/output", "input", "", "output"),
    ("source/target", "source", "", "target"),
    ("source/target", "sentence", "", "translation_extra"),
    ("source/target", "sentence", "", "translation"),
)
KNOWN_SHAPES = (
    "messages",
    "conversations",
    "prompt + completion",
    "instruction (+ input) + output",
    "question + answer",
    "source + target",
    "text",
    "concept + requirements",
)
MAPPABLE = ("prompt", "completion", "system", "messages", "conversations", "text")
# Columns beside a conversation that say what cannot be heeded: when they do, what they say, and what holds instead.
_UNHEEDED = {
    "label": (
        lambda value: str(value).strip().lower() == "false",
        "marks a bad answer",
        "every answer is learnt as a good one",
    ),
    "tools": (
        lambda value: str(value).strip() not in ("None", "", "[]", "{}", "null"),
        "names tools that answers may call",
        "no tools are trained",
    ),
}


@dataclass(slots=True)
class ShapeReader:
    """Turns rows into examples. ``columns`` maps :data:`MAPPABLE` names to this file's columns and wins over detection.

    ``mended`` counts what was put right, ``seen`` the shapes met, both in the order met.
    """

    columns: Mapping[str, str] | None = None
    allow_empty: bool = False
    mended: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    _known: dict[tuple, Callable] = field(default_factory=dict)

    def read(self, row: Mapping, source: str) -> Example:
        """Raises RowError naming the field."""
        keys = tuple(row)
        reader = self._known.get(keys)
        if reader is None:
            reader = self._known[keys] = self._choose_mapped(row) if self.columns else self._choose(row)
        shape, messages, text = reader(row)
        if messages:
            check_turns(messages, self.allow_empty)
        elif text is not None and not text.strip():
            raise RowError("field 'text' is empty")
        self.seen[shape] = self.seen.get(shape, 0) + 1
        return Example(tuple(messages), text, source, MappingProxyType(row))

    def _choose_mapped(self, row: Mapping) -> Callable:
        names = dict(self.columns)
        absent = [column for column in names.values() if column not in row]
        if absent:
            raise _missing(absent[0], row)
        if "messages" in names:
            return lambda row: ("mapped", read_turns(row, names["messages"], names.get("system")), None)
        if "conversations" in names:
            return lambda row: ("mapped", read_sharegpt(row, names["conversations"], names.get("system")), None)
        if "text" in names:
            return lambda row: _read_text(row, names["text"])
        return lambda row: (
            "mapped",
            _read_pair(row, names["prompt"], None, names["completion"], names.get("system")),
            None,
        )

    def _choose(self, row: Mapping) -> Callable:
        if business_analyst_rows.is_business_analyst_row(row):
            return self._read_business_analyst if _is_stable_business_analyst(row) else self._choose_and_read
        lowered = {str(name).strip().lower(): name for name in row}
        if read := _find_conversation(lowered):
            marks = {lowered[name]: rule for name, rule in _UNHEEDED.items() if name in lowered}
            return partial(_read_unless_marked, read, marks) if marks else read
        if "text" in lowered:
            return lambda row: _read_text(row, lowered["text"])
        for _, prompt, _, answer in _PAIRS:
            if prompt in lowered or answer in lowered:
                raise _missing(answer if prompt in lowered else prompt, row)
        for name, value in row.items():
            if len(row) == 1 and isinstance(value, list) and value and isinstance(value[0], Mapping):
                raise RowError(f"the rows are inside the list '{name}'", "one object a row", f"jq -c '.{name}[]' FILE")
        raise RowError(
            f"found {_names(row)}",
            f"need {', or '.join(KNOWN_SHAPES)}",
            "or say which: --columns prompt=NAME completion=NAME",
        )

    def _choose_and_read(self, row: Mapping) -> tuple:
        """For keys that do not tell the shape alone (``input`` may be text or an object with a concept)."""
        if business_analyst_rows.is_business_analyst_row(row):
            return self._read_business_analyst(row)
        raise RowError(f"field 'input' is {describe(row.get('input'))}, not an object with a concept")

    def _read_business_analyst(self, row: Mapping) -> tuple:
        concept, requirements, mended, problems = business_analyst_rows.read_row(row)
        if problems:
            raise RowError("; ".join(f"field '{name}' {what}" for name, what in problems[:3]))
        for what in mended:
            self.mended[what] = self.mended.get(what, 0) + 1
        messages = [
            Message("user", business_analyst.render_prompt(concept)),
            Message("assistant", business_analyst.render_document(requirements)),
        ]
        return "business-analyst", messages, None


def _find_conversation(lowered: Mapping[str, str]) -> Callable | None:
    """Return the reader of the first shape that the columns (lowered name → name) fit, running text left aside."""
    system = lowered.get("system")
    if "messages" in lowered:
        return lambda row: ("messages", read_turns(row, lowered["messages"], system), None)
    if "conversations" in lowered:
        return lambda row: ("conversations", read_sharegpt(row, lowered["conversations"], system), None)
    for shape, prompt, extra, answer in _PAIRS:
        if prompt in lowered and answer in lowered:
            names = (lowered[prompt], lowered.get(extra), lowered[answer], system, lowered.get("history"))
            return lambda row, shape=shape, names=names: (shape, _read_pair(row, *names), None)
    return None


def _read_unless_marked(read: Callable, marks: Mapping[str, tuple], row: Mapping) -> tuple:
    """Read a row, or raise RowError where a column says of it what cannot be heeded (see :data:`_UNHEEDED`)."""
    for name, (says_so, what, allowed) in marks.items():
        if says_so(row[name]):
            way = "leave such rows out, or say which columns count, with --columns"
            raise RowError(f"field '{name}' {what}", allowed, way)
    return read(row)


def _read_pair(
    row: Mapping, prompt: str, extra: str | None, answer: str, system: str | None, history: str | None = None
) -> list[Message]:
    if isinstance(row[prompt], list) and isinstance(row[answer], list):
        messages = read_messages(row[prompt], prompt) + read_messages(row[answer], answer)
        return put_system_first(messages, row, system)
    question = read_text(row, prompt)
    if not question.strip():
        raise RowError(f"field '{prompt}' is empty", "text is needed")
    if extra and row[extra] is not None:
        context = read_text(row, extra)
        question = f"{question}\n\n{context}" if context.strip() else question
    turns = [Message("user", question), Message("assistant", read_text(row, answer))]
    return put_system_first(read_history(row, history) + turns, row, system)


def _read_text(row: Mapping, name: str) -> tuple:
    text = read_text(row, name)
    parsed = parse_turns(text)
    if parsed is None:
        return "text (running)", [], text
    template, turns = parsed
    return f"text ({template} template)", turns, None


def _missing(name: str, row: Mapping) -> RowError:
    return RowError(f"field '{name}' is missing", f"found {_names(row)}", did_you_mean(name, [str(key) for key in row]))


def _names(row: Mapping) -> str:
    return ", ".join(str(name) for name in row) or "no fields"


def _is_stable_business_analyst(row: Mapping) -> bool:
    return "concept" in row
