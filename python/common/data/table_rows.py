"""CSV, TSV and Parquet as rows. A CSV cell is the text written in it: no dates, numbers or missing values."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

from common.data.files import BOM, DataFile
from common.data.json_rows import decode
from common.data.problems import RowError
from common.errors import ExitCode, Problem, UserError, first_line

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_BATCH_ROWS = 1024


def read_table(file: DataFile, raw: BinaryIO) -> Iterator[tuple[int, dict | RowError]]:
    """Yield (row number, row or what is wrong with it) of ``raw``, which is ``file`` opened.

    The header is row 1, as a spreadsheet shows it.

    Raises UserError 65 for a header that cannot be used; RowError where reading cannot go on.
    """
    csv.field_size_limit(1 << 30)  # the length of a row is limited elsewhere, with a better message
    reader = csv.reader(_lines(raw), delimiter=_DELIMITERS[file.format], strict=True)
    number = 0
    try:
        header = next((cells for cells in reader if cells), [])
        _check_header(file, header)
        number = 1
        for number, cells in enumerate(reader, 2):
            if not cells:  # a blank line
                continue
            if len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            else:
                yield number, RowError(f"has {len(cells)} fields, the header has {len(header)}")
    except csv.Error as error:
        if not number:  # quoted names with another delimiter between them are no CSV either
            raw.seek(0)
            _check_header(file, [decode(raw.readline().removeprefix(BOM)).strip()])
        raise RowError(
            f"line {reader.line_num}: {error}", "quotes open and close within a field", f"look at row {number + 1}"
        ) from None


def read_parquet(file: DataFile, raw: BinaryIO) -> Iterator[tuple[int, dict]]:
    """Yield (row number from 1, row) of a Parquet file; ``raw``, open on it, is kept about as far in it as the rows."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path) as parquet:
            names = parquet.schema_arrow.names
            if len(set(names)) < len(names):
                problem = Problem(f"{file.name}: two columns have the same name", next_step="rename one of them")
                raise UserError(problem, ExitCode.DATA)
            number = 0
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                raw.seek(file.size_bytes * (number + len(batch)) // max(1, parquet.metadata.num_rows))
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        problem = Problem(
            f"{file.name}: not a complete Parquet file ({first_line(error)})", next_step="copy or write it again"
        )
        raise UserError(problem, ExitCode.DATA) from error


def _lines(raw) -> Iterator[str]:
    for number, line in enumerate(raw, 1):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.endswith(b"\r\n"):
            line = line[:-2] + b"\n"
        if b"\0" in line:
            raise RowError(f"line {number}: holds a NUL byte", "text is read", "is the file damaged, or UTF-16?")
        try:
            yield decode(line)
        except RowError as error:
            raise RowError(f"line {number}: {error.reason}", error.allowed, error.next_step) from None


def _check_header(file: DataFile, header: list[str]) -> None:
    if not header:
        raise UserError(Problem(f"{file.name}: 0 rows", "there are blank lines only"), ExitCode.DATA)
    if len(header) == 1:
        own = _DELIMITERS[file.format]
        other = next((sign for sign in (";", "\t", "|", ",") if sign in header[0] and sign != own), None)
        if other:
            name = {"\t": "a tab"}.get(other, f"'{other}'")
            ending = next((ending for ending, sign in _DELIMITERS.items() if sign == other), None)
            raise UserError(
                Problem(
                    f"{file.name}: one column named '{header[0]}': is the delimiter {name}?",
                    "a .csv is separated by commas, a .tsv by tabs",
                    "save it so" + (f", or name it .{ending}" if ending else ""),
                ),
                ExitCode.DATA,
            )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        problem = Problem(f"{file.name}: the header names column '{twice[0]}' twice", next_step="rename one of them")
        raise UserError(problem, ExitCode.DATA)
    if "" in header:
        what = f"{file.name}: column {header.index('') + 1} of the header has no name"
        raise UserError(Problem(what, next_step="give it one"), ExitCode.DATA)
