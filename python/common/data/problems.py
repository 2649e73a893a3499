"""Collecting what is wrong with a file, so that all of it is told at once, and a count instead of a flood."""

from common.errors import ExitCode, Problem, UserError

LISTED = 20


class RowError(Exception):
    """One row cannot be used. ``reason`` names the field; the number of the row is the caller's to know."""

    def __init__(self, reason: str, allowed: str = "", next_step: str = ""):
        super().__init__(reason)
        self.reason, self.allowed, self.next_step = reason, allowed, next_step


class ProblemList:
    """The problems of one file: the first :data:`LISTED` in full, the rest counted."""

    def __init__(self, listed: int = LISTED):
        self.listed = listed
        self.first: list[Problem] = []
        self.count = 0

    def add(self, what: str, allowed: str = "", next_step: str = "") -> None:
        self.count += 1
        if len(self.first) < self.listed:
            self.first.append(Problem(printable(what), printable(allowed), printable(next_step)))

    def extend(self, other: "ProblemList") -> None:
        """Append what ``other`` found later in the same file."""
        self.first += other.first[: self.listed - len(self.first)]
        self.count += other.count

    def __bool__(self) -> bool:
        return self.count > 0

    def error(self, next_step: str = "", exit_code: ExitCode = ExitCode.DATA) -> UserError:
        """The UserError that tells all of this."""
        problems = list(self.first)
        if self.count > len(problems):
            problems.append(Problem(f"… and {self.count - len(problems):,} more", next_step=next_step))
        elif next_step and problems:
            problems.append(Problem(f"{self.count:,} in all", next_step=next_step))
        return UserError(problems, exit_code)


def option_for(setting: str, value: str = "") -> str:
    """How a person sets ``setting`` of the data group: in a data command, with make inspect, and in a training.

    A switch has no value.
    """
    option = f"--{setting.replace('_', '-')}"
    choice = f"data.{setting}={value or 'true'}"
    inspecting = f"make inspect {setting.upper()}={value or 1}"
    return f"{option} {value}".rstrip() + f" ({inspecting}; when training: --set {choice}, with make SET={choice})"


def printable(text: str, limit: int = 400) -> str:
    """``text`` from a file, fit for a terminal: what is not visible is written as an escape, and it is not endless."""
    if len(text) > limit:
        text = f"{text[: limit - 20]} … {text[-15:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def join_ranges(numbers: list[int], shown: int = 12) -> str:
    """Write sorted row numbers shortly: [1, 2, 3, 7] → "1–3, 7"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    words = [str(a) if a == b else f"{a}–{b}" for a, b in ranges[:shown]]
    return ", ".join(words) + (", …" if len(ranges) > shown else "")
