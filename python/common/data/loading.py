"""One call that reads a data file whole: checked, in normal form, or a UserError that says everything that is wrong."""

from collections.abc import Mapping
from pathlib import Path

from common.data.checking import MAX_ROW_CHARS, RowChecker, Rules
from common.data.examples import Loaded
from common.data.files import BOM, DataFile, open_data_file
from common.data.rows import ends_in_a_line_break, iter_blocks, rows_of
from common.data.shapes import MAPPABLE
from common.errors import ExitCode, Problem, UserError, did_you_mean
from common.hashing import sha256_of


def load_examples(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: str = "error",
    allow_empty: bool = False,
    allow_duplicates: bool = False,
    allow_secrets: bool = False,
    max_row_chars: int = MAX_ROW_CHARS,
) -> Loaded:
    """Read JSONL, a JSON array, CSV, TSV or Parquet.

    ``columns`` maps prompt, completion, system, messages, conversations or text to columns of the file; without it
    the shape of each row is detected. ``on_bad_row="drop"`` leaves out rows that cannot be used (a line that is no row
    at all stays an error) and says so in the notes.

    Raises UserError 66 when the file cannot be read, 65 when its content cannot be used (every row named by line and
    field, 20 listed), 64 for a wrong mapping.
    """
    rules = Rules(check_columns(columns), on_bad_row, allow_empty, allow_duplicates, allow_secrets, max_row_chars)
    file = open_data_file(path)
    before = file.path.stat()
    sha256 = sha256_of(file.path)
    checker = RowChecker(file.name, rules)
    examples = [
        example
        for block in iter_blocks(file, rules.max_row_chars)
        for number, row in rows_of(block, rules.max_row_chars)
        if (example := checker.check(number, row)) is not None
    ]
    finish_check(checker, file)
    notes = file_notes(file) + checker.notes(first_row(file))
    repeats, told = _check_duplicates(examples, file.name, allow_duplicates)
    after = file.path.stat()
    if (before.st_mtime_ns, before.st_size, before.st_ino) != (after.st_mtime_ns, after.st_size, after.st_ino):
        raise changed(file.path)
    return Loaded(str(path), examples, checker.shape(), sha256, checker.rows, notes + told, repeats)


def check_unchanged(path: str | Path, sha256: str) -> None:
    """Raise UserError 65 unless the file still is what was read (call it when a run ends or is resumed)."""
    if not Path(path).is_file() or sha256_of(path) != sha256:
        raise changed(path)


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str] | None:
    """Check a ``--columns`` mapping. Raises UserError 64."""
    if not columns:
        return None
    problems = [
        Problem(f"--columns knows no '{name}'", f"allowed: {', '.join(MAPPABLE)}", did_you_mean(name, MAPPABLE))
        for name in columns
        if name not in MAPPABLE
    ]
    whole = [name for name in ("messages", "conversations", "text") if name in columns]
    pair = {"prompt", "completion"} & set(columns)
    if not problems and (len(whole) + bool(pair) != 1 or len(pair) == 1):
        problems.append(
            Problem(
                f"--columns maps {', '.join(columns)}",
                "either prompt and completion, or one of messages, conversations, text",
            )
        )
    if problems:
        raise UserError(problems, ExitCode.USAGE)
    return dict(columns)


def parse_columns(words: list[str]) -> dict[str, str]:
    """Read the words of ``--columns prompt=Question completion=Answer``. Raises UserError 64."""
    if len(words) == 1 and words[0].count("=") > 1:
        words = words[0].split()  # all in one, as make hands them on
    pairs = [word.partition("=") for word in words]
    wrong = [word for word, (name, _, column) in zip(words, pairs, strict=True) if not name or not column]
    if wrong:
        raise UserError(
            Problem(f"--columns has '{wrong[0]}'", "each is NAME=COLUMN, such as prompt=Question"), ExitCode.USAGE
        )
    return check_columns({name: column for name, _, column in pairs}) or {}


def first_row(file: DataFile) -> int:
    """The number of the first row of data: a table's header is row 1."""
    return 2 if file.format in ("csv", "tsv") else 1


def file_notes(file: DataFile) -> list[str]:
    """What is worth telling about the file as such."""
    return ["the file begins with a byte order mark (left out)"] if file.has_bom else []


def finish_check(checker: RowChecker, file: DataFile) -> None:
    """Raise the errors found; say so when the last line looks cut, or an object goes over several lines."""
    if checker.broken and file.format == "jsonl" and _first_line(file) == b"{":
        raise UserError(
            Problem(
                f"{file.name}:1: an object over several lines", "one object a line, or a JSON array", "jq -c . FILE"
            ),
            ExitCode.DATA,
        )
    if checker.broken == 1 and file.format == "jsonl" and not ends_in_a_line_break(file):
        last = checker.problems.first[-1]
        if checker.problems.count == 1 and last.what.startswith(f"{file.name}:{_last_line(file)}:"):
            whole = f"file cut? {checker.rows - 1:,} complete rows"
            raise UserError(Problem(last.what, whole, "copy the file again, or take the last line off"), ExitCode.DATA)
    checker.finish()


def changed(path: str | Path) -> UserError:
    """The error of a file that is no longer what was read."""
    return UserError(Problem(f"{path} changed after it was read", next_step="start again"), ExitCode.DATA)


def _first_line(file: DataFile) -> bytes:
    with file.path.open("rb") as raw:
        return raw.readline(1 << 20).removeprefix(BOM).strip()


def _last_line(file: DataFile) -> int:
    with file.path.open("rb") as raw:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: raw.read(1 << 20), b"")) + 1


def _check_duplicates(examples, name: str, allowed: bool) -> tuple[int, list[str]]:
    """Return how many examples repeat earlier ones, and what is to be told about it."""
    import numpy as np

    from common.data.duplicates import check_duplicates, find_duplicates
    from common.data.fingerprints import fingerprint

    found = find_duplicates(np.array([fingerprint(example)[0] for example in examples], np.uint64).reshape(-1, 3))

    def source_of(row: int) -> str:
        return examples[row].source

    if not allowed:
        check_duplicates(found, name, source_of)
    return found.normalised, found.notes(source_of)
