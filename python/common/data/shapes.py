"""What a row means: the shapes of rows this project knows, and how each becomes a conversation.

A shape is recognised by its columns, row by row, because real files mix them. Every field that is used must be text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from common.data import business_analyst, business_analyst_rows
from common.data.examples import ROLES, Example, Message
from common.data.json_rows import describe
from common.data.problems import RowError, option_for
from common.data.text_templates import parse_turns
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
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


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
            return lambda row: ("mapped", _read_turns(row, names["messages"], names.get("system")), None)
        if "conversations" in names:
            return lambda row: ("mapped", _read_sharegpt(row, names["conversations"], names.get("system")), None)
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
        if "messages" in lowered:
            return lambda row: ("messages", _read_turns(row, lowered["messages"], lowered.get("system")), None)
        if "conversations" in lowered:
            read = partial(_read_sharegpt, name=lowered["conversations"], system=lowered.get("system"))
            return lambda row: ("conversations", read(row), None)
        for shape, prompt, extra, answer in _PAIRS:
            if prompt in lowered and answer in lowered:
                names = (lowered[prompt], lowered.get(extra), lowered[answer], lowered.get("system"))
                return lambda row, shape=shape, names=names: (shape, _read_pair(row, *names), None)
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


def check_turns(messages: list[Message], allow_empty: bool = False) -> None:
    """Raise RowError unless the roles are: perhaps system, then user and assistant by turns, the assistant last."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    regular = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != regular:
        raise RowError(
            f"roles are {' → '.join(roles) or 'none'}",
            "allowed: (system →) user → assistant, repeated, the assistant last",
        )
    for index, message in enumerate(messages):
        if not message.content.strip() and not (allow_empty and message.role == "assistant"):
            what = "the answer" if index == len(messages) - 1 else f"the {message.role}'s turn {index + 1}"
            hint = f"or let them pass: {option_for('allow_empty')}" if message.role == "assistant" else ""
            raise RowError(f"{what} is empty", "text is needed", hint)


def _read_pair(row: Mapping, prompt: str, extra: str | None, answer: str, system: str | None) -> list[Message]:
    if isinstance(row[prompt], list) and isinstance(row[answer], list):
        return _read_messages(row[prompt], prompt) + _read_messages(row[answer], answer)
    question = _text(row, prompt)
    if not question.strip():
        raise RowError(f"field '{prompt}' is empty", "text is needed")
    if extra and row[extra] is not None:
        context = _text(row, extra)
        question = f"{question}\n\n{context}" if context.strip() else question
    completion = _text(row, answer)
    messages = [Message("user", question), Message("assistant", completion)]
    if system and row[system] is not None and _text(row, system).strip():
        messages.insert(0, Message("system", row[system]))
    return messages


def _read_text(row: Mapping, name: str) -> tuple:
    text = _text(row, name)
    parsed = parse_turns(text)
    if parsed is None:
        return "text (running)", [], text
    template, turns = parsed
    return f"text ({template} template)", turns, None


def _read_messages(value: object, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise RowError(f"field '{name}' is {describe(value)}, not a list of messages")
    messages = []
    for index, item in enumerate(value):
        where = f"{name}[{index}]"
        if not isinstance(item, Mapping):
            raise RowError(f"field '{where}' is {describe(item)}, not an object with role and content")
        unknown = sorted(key for key in item if key not in ("role", "content") and item[key] is not None)
        if unknown:
            raise RowError(
                f"field '{where}' has the extra key '{unknown[0]}'; roles are {_roles(value)}", "allowed: role, content"
            )
        role, content = item.get("role"), item.get("content")
        if role not in ROLES:
            hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
            raise RowError(
                f"field '{where}.role' is {role!r}; roles are {_roles(value)}", f"allowed: {', '.join(ROLES)}", hint
            )
        if not isinstance(content, str):
            raise RowError(f"field '{where}.content' is {describe(content)}, not text")
        messages.append(Message(role, content))
    if not messages:
        raise RowError(f"field '{name}' is an empty list", "at least a user's and an assistant's turn are needed")
    return messages


def _read_turns(row: Mapping, name: str, system: str | None) -> list[Message]:
    """Return the turns in column ``name``; text in column ``system`` comes first, where they have no system turn."""
    messages, text = _read_messages(row[name], name), row.get(system) if system else None
    if isinstance(text, str) and text.strip() and messages[0].role != "system":
        messages.insert(0, Message("system", text))
    return messages


def _read_sharegpt(row: Mapping, name: str, system: str | None) -> list[Message]:
    turns = row[name]
    if not isinstance(turns, list):
        raise RowError(f"field '{name}' is {describe(turns)}, not a list of turns")
    if any(isinstance(turn, Mapping) and "role" in turn for turn in turns):
        return _read_turns(row, name, system)
    renamed = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise RowError(f"field '{name}[{index}]' has no 'from' and 'value'")
        speaker = turn["from"]
        if speaker not in _SHAREGPT_ROLES:
            said = " → ".join(str(t.get("from")) for t in turns if isinstance(t, Mapping))
            raise RowError(
                f"field '{name}[{index}].from' is {speaker!r}; roles are {said}",
                f"allowed: {', '.join(_SHAREGPT_ROLES)}",
            )
        renamed.append({"role": _SHAREGPT_ROLES[speaker], "content": turn["value"]})
    return _read_turns({**row, name: renamed}, name, system)


def _text(row: Mapping, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise RowError(f"field '{name}' is {describe(value)}, not text", "text in quotes is needed")
    return value


def _missing(name: str, row: Mapping) -> RowError:
    return RowError(f"field '{name}' is missing", f"found {_names(row)}", did_you_mean(name, [str(key) for key in row]))


def _names(row: Mapping) -> str:
    return ", ".join(str(name) for name in row) or "no fields"


def _roles(value: list) -> str:
    return " → ".join(str(item.get("role")) for item in value if isinstance(item, Mapping))


def _is_stable_business_analyst(row: Mapping) -> bool:
    return "concept" in row
