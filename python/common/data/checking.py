"""Every row goes through here: is it usable, and what is worth telling about it?"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.data.checks import TextFindings
from common.data.examples import Example
from common.data.problems import ProblemList, RowError, join_ranges, option_for
from common.data.rows import too_long
from common.data.shapes import ShapeReader
from common.errors import ExitCode, Problem, UserError

MAX_ROW_CHARS = 1_000_000


@dataclass(frozen=True, slots=True)
class Rules:
    """What a person may allow. Row lengths are in characters of text."""

    columns: Mapping[str, str] | None = None
    on_bad_row: str = "error"
    allow_empty: bool = False
    allow_duplicates: bool = False
    allow_secrets: bool = False
    max_row_chars: int = MAX_ROW_CHARS


@dataclass(slots=True)
class RowChecker:
    """Checks the rows of one file, or of one part of it; parts are merged in the order of the file."""

    name: str
    rules: Rules
    rows: int = 0
    problems: ProblemList = field(default_factory=ProblemList)
    findings: TextFindings = field(default_factory=TextFindings)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    mended: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    _reader: ShapeReader = None
    _key_sets: set[tuple] = field(default_factory=set)

    def __post_init__(self):
        self._reader = ShapeReader(self.rules.columns, self.rules.allow_empty, self.mended, self.shapes)

    def check(self, number: int, row: dict | RowError) -> Example | None:
        """Return the example of a row, or None after taking down what is wrong with it."""
        self.rows += 1
        if isinstance(row, RowError):
            self._reject(number, row, broken=True)
            return None
        keys = tuple(row)
        if keys not in self._key_sets:
            self._key_sets.add(keys)
            for key in keys:
                self.columns.setdefault(key, number)
        try:
            example = self._reader.read(row, f"{self.name}:{number}")
            length = sum(map(len, example.texts))
            if length > self.rules.max_row_chars:
                raise too_long(length, "characters", self.rules.max_row_chars)
        except RowError as error:
            self._reject(number, error)
            return None
        self.findings.check(example)
        return example

    def detach(self) -> "RowChecker":
        """Make it fit to be sent to another process: what was found stays, the means of checking go."""
        self._reader, self._key_sets = None, set()
        return self

    def merge(self, other: "RowChecker") -> None:
        """Add what was found in a later part of the same file."""
        self.rows += other.rows
        self.broken += other.broken
        self.problems.extend(other.problems)
        self.findings.merge(other.findings)
        for reason, numbers in other.dropped.items():
            self.dropped.setdefault(reason, []).extend(numbers)
        for key, number in other.columns.items():
            self.columns.setdefault(key, number)
        for mine, others in ((self.shapes, other.shapes), (self.mended, other.mended)):
            for key, count in others.items():
                mine[key] = mine.get(key, 0) + count

    def finish(self) -> None:
        """Raise UserError 65 for everything found so far that is an error."""
        if self.problems:
            drop = f"leave such rows out: {option_for('on_bad_row', 'drop')}" if not self.broken else ""
            raise self.problems.error(next_step=drop)
        if self.rows == 0:
            raise UserError(Problem(f"{self.name}: 0 rows", "there are blank lines only"), ExitCode.DATA)
        if not sum(self.shapes.values()):
            what = f"{self.name}: 0 rows are left of {self.rows:,}"
            raise UserError(Problem(what, "all were dropped", "without dropping, each is named"), ExitCode.DATA)
        if self.findings.secrets and not self.rules.allow_secrets:
            raise UserError(
                [
                    Problem(
                        f"{finding.sources[0]} holds what looks like a {kind} ({finding.count:,} rows)",
                        "a model repeats what it learns",
                        f"take it out and revoke it, or allow it: {option_for('allow_secrets')}",
                    )
                    for kind, finding in self.findings.secrets.items()
                ],
                ExitCode.DATA,
            )

    def notes(self, first_row: int) -> list[str]:
        """What is worth telling that is not an error, one line each."""
        notes = [
            f"mended: {what} ({count:,} {'times' if count > 1 else 'time'})" for what, count in self.mended.items()
        ]
        notes += [
            f"dropped {len(numbers):,} rows ({reason}): {join_ranges(numbers)}"
            for reason, numbers in self.dropped.items()
        ]
        late = {key: number for key, number in self.columns.items() if number > first_row}
        if late:
            listed = ", ".join(f"'{key}' in row {number:,}" for key, number in list(late.items())[:5])
            notes.append(f"columns that the first row lacks: {listed}{', …' if len(late) > 5 else ''}")
        if len(self.shapes) > 1:
            notes.append(f"{len(self.shapes)} shapes in one file: {self.shape()}")
        for kind, finding in self.findings.secrets.items():
            notes.append(f"rows that seem to hold a {kind}, allowed: {finding}")
        return notes + self.findings.notes()

    def shape(self) -> str:
        """The shapes found, with counts when there are several."""
        if len(self.shapes) == 1:
            return next(iter(self.shapes))
        return ", ".join(f"{shape} ({count:,})" for shape, count in self.shapes.items())

    def _reject(self, number: int, error: RowError, broken: bool = False) -> None:
        if self.rules.on_bad_row == "drop" and not broken:
            self.dropped.setdefault(error.reason, []).append(number)
            return
        self.broken += broken
        self.problems.add(f"{self.name}:{number}: {error.reason}", error.allowed, error.next_step)
