"""The rows of a data file, one after another or in blocks for several processes, each with its number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from common.data.files import BOM, DataFile
from common.data.json_rows import ArrayReader, parse_row
from common.data.problems import RowError
from common.data.table_rows import read_parquet, read_table
from common.errors import ExitCode, Problem, UserError

BLOCK_BYTES = 1 << 20
_BLOCK_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows that follow one another: whole lines of JSONL (``first`` is the first's number), or parsed rows.

    ``size_bytes`` of the file are theirs; of parsed rows, about so many.
    """

    first: int
    size_bytes: int
    lines: bytes = b""
    rows: list[tuple[int, dict | RowError]] | None = None


def iter_blocks(file: DataFile, max_row_chars: int, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Split a file into blocks. Raises UserError 65 where reading cannot go on."""
    if file.format == "jsonl":
        yield from _line_blocks(file, max_row_chars, block_bytes)
        return
    rows: list[tuple[int, dict | RowError]] = []
    done_bytes = 0
    with file.path.open("rb") as raw:
        for numbered in _parsed_rows(file, raw, max_row_chars):
            rows.append(numbered)
            if len(rows) == _BLOCK_ROWS:
                yield Block(rows[0][0], raw.tell() - done_bytes, rows=rows)
                rows, done_bytes = [], raw.tell()
    if rows:
        yield Block(rows[0][0], file.size_bytes - done_bytes, rows=rows)


def rows_of(block: Block, max_row_chars: int) -> Iterator[tuple[int, dict | RowError]]:
    """The rows of a block, each with its number, or with what is wrong with it."""
    if block.rows is not None:
        yield from block.rows
        return
    for number, line in enumerate(block.lines.split(b"\n"), block.first):
        if not line.strip():
            continue
        if len(line) > 4 * max_row_chars:  # more than any text of that many characters in UTF-8
            yield number, too_long(len(line), "bytes", max_row_chars)
            continue
        try:
            yield number, parse_row(line)
        except RowError as error:
            yield number, error


def too_long(length: int, unit: str, max_row_chars: int) -> RowError:
    """The error of a row that would take too long to tokenise."""
    return RowError(
        f"has {length:,} {unit}",
        f"allowed are {max_row_chars:,} characters (max_row_chars)",
        "is a line break missing?",
    )


def ends_in_a_line_break(file: DataFile) -> bool:
    """Whether the last line of a text file is closed; if not, the file may have been cut."""
    with file.path.open("rb") as raw:
        raw.seek(-1, 2)
        return raw.read(1) == b"\n"


def _line_blocks(file: DataFile, max_row_chars: int, block_bytes: int) -> Iterator[Block]:
    number, rest = 1, b""
    longest = max(64 * block_bytes, 8 * max_row_chars)
    with file.path.open("rb") as raw:
        raw.seek(len(BOM) if file.has_bom else 0)
        while chunk := raw.read(block_bytes):
            end = chunk.rfind(b"\n") + 1
            if not end:
                rest += chunk
                if len(rest) > longest:
                    raise _fatal(file, f"line {number} has more than {longest:,} bytes", "one row a line is read")
                continue
            lines, rest = rest + chunk[:end], chunk[end:]
            yield Block(number, len(lines), lines)
            number += lines.count(b"\n")
    if rest.strip():
        yield Block(number, len(rest), rest)


def _parsed_rows(file: DataFile, raw: BinaryIO, max_row_chars: int) -> Iterator[tuple[int, dict | RowError]]:
    try:
        if file.format == "json":
            yield from ArrayReader(raw, 4 * max_row_chars)
        elif file.format == "parquet":
            yield from read_parquet(file, raw)
        else:
            yield from read_table(file, raw)
    except RowError as error:  # one that has no row to belong to: nothing after it can be read
        raise _fatal(file, error.reason, error.allowed, error.next_step) from None


def _fatal(file: DataFile, what: str, allowed: str = "", next_step: str = "") -> UserError:
    return UserError(Problem(f"{file.name}: {what}", allowed, next_step), ExitCode.DATA)
