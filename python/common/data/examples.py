"""What every room of the project calls an example: a conversation whose last turn is the one to learn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from common.recipes import portable_path

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``role`` is one of :data:`ROLES`; ``content`` is text, never None."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """The form chat templates take."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Example:
    """One row of data in normal form.

    ``messages`` ends with the assistant's turn. It is empty for running text (``text`` is set then): text that is in no
    conversation template and is learnt as it stands. ``source`` names the row for a person ("train.jsonl:12": the line
    of a JSONL file, the row of any other). ``row`` is the raw row, read-only, for reports.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    source: str = ""
    row: Mapping = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)

    @property
    def texts(self) -> list[str]:
        """What its turns say, or its running text."""
        return [message.content for message in self.messages] or [self.text or ""]

    @property
    def prompt_messages(self) -> tuple[Message, ...]:
        """Everything before the last assistant turn."""
        return self.messages[:-1]

    @property
    def completion(self) -> str:
        """The last assistant turn, or the whole text of a running-text row."""
        return self.messages[-1].content if self.messages else (self.text or "")

    @property
    def prompt(self) -> str:
        """The turns before the answer as one text, for hashes and reports (not for a model)."""
        return "\n".join(message.content for message in self.prompt_messages)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file read whole: its examples, the shapes found, the sha256 of its raw bytes, and what is worth telling."""

    path: str
    examples: list[Example]
    shape: str
    sha256: str
    rows: int
    notes: list[str]
    repeats: int = 0  # rows that are an earlier one, but for case, spacing and punctuation

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self):
        return iter(self.examples)

    def summary(self) -> dict:
        """What a run's manifest keeps of this file."""
        return {
            "path": portable_path(Path(self.path)),
            "rows": self.rows,
            "examples": len(self.examples),
            "shape": self.shape,
            "sha256": self.sha256,
            "notes": list(self.notes),
        }
