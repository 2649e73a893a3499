"""The turns of a conversation, as the columns of a row hold them: read into messages, and checked."""

from collections.abc import Mapping

from common.data.examples import ROLES, Message
from common.data.json_rows import describe
from common.data.problems import RowError, option_for
from common.errors import did_you_mean

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TRAINED_MARKS = ("weight", "train", "training", "loss")  # of a ShareGPT turn: is it learnt?


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


def read_text(row: Mapping, name: str) -> str:
    """Return what column ``name`` says. Raises RowError when it is no text."""
    value = row[name]
    if not isinstance(value, str):
        raise RowError(f"field '{name}' is {describe(value)}, not text", "text in quotes is needed")
    return value


def read_messages(value: object, name: str) -> list[Message]:
    """Return the messages of a list of objects with role and content; ``name`` is the column's, for RowError."""
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


def read_turns(row: Mapping, name: str, system: str | None) -> list[Message]:
    """Return the turns in column ``name``, after what column ``system`` says."""
    return put_system_first(read_messages(row[name], name), row, system)


def put_system_first(messages: list[Message], row: Mapping, system: str | None) -> list[Message]:
    """Return ``messages`` after the text of column ``system``, unless that is empty or they have a system turn."""
    if system and row[system] is not None and read_text(row, system).strip() and messages[0].role != "system":
        return [Message("system", row[system]), *messages]
    return messages


def read_sharegpt(row: Mapping, name: str, system: str | None) -> list[Message]:
    """Like :func:`read_turns`, for turns that have ``from`` and ``value``; of role and content they may be too."""
    turns = row[name]
    if not isinstance(turns, list):
        raise RowError(f"field '{name}' is {describe(turns)}, not a list of turns")
    if any(isinstance(turn, Mapping) and "role" in turn for turn in turns):
        return read_turns(row, name, system)
    renamed = []
    for index, turn in enumerate(turns):
        where = f"{name}[{index}]"
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise RowError(f"field '{where}' has no 'from' and 'value'")
        speaker = turn["from"]
        role = _SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            said = " → ".join(str(t.get("from")) for t in turns if isinstance(t, Mapping))
            raise RowError(
                f"field '{where}.from' is {speaker!r}; roles are {said}", f"allowed: {', '.join(_SHAREGPT_ROLES)}"
            )
        if role == "assistant":
            _check_trained(turn, where)
        renamed.append({"role": role, "content": turn["value"]})
    return read_turns({**row, name: renamed}, name, system)


def _check_trained(turn: Mapping, where: str) -> None:
    """Raise RowError for an answer that is marked as one not to be learnt, or less than others."""
    for mark in _TRAINED_MARKS:
        if turn.get(mark) not in (None, 1):  # true is 1
            raise RowError(
                f"field '{where}.{mark}' is {describe(turn[mark])}",
                "every answer is learnt, all alike",
                "leave out such answers, or the mark if they are good",
            )


def read_history(row: Mapping, name: str | None) -> list[Message]:
    """Return the earlier turns in column ``name``, a list of [question, answer]; none where it holds no list."""
    pairs = row[name] if name else None
    if not isinstance(pairs, list):
        return []
    messages = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError(
                f"field '{name}[{index}]' is {describe(pair)}",
                "a list of [question, answer] is needed",
                "or say which columns count, with --columns",
            )
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


def _roles(value: list) -> str:
    return " → ".join(str(item.get("role")) for item in value if isinstance(item, Mapping))
