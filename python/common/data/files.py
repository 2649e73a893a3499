"""Opening a data file: is it one, and in which format? Answered before a row is read."""

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from common.errors import ExitCode, Problem, UserError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_MAGIC = {
    b"\x1f\x8b": ("gzip", "gunzip -c"),
    b"PK\x03\x04": ("zip", "unzip -p"),
    b"BZh": ("bzip2", "bunzip2 -c"),
    b"\xfd7zXZ": ("xz", "unxz -c"),
    b"\x28\xb5\x2f\xfd": ("zstandard", "unzstd -c"),
}
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A readable file with rows in it. ``format`` is jsonl, json (an array), csv, tsv or parquet."""

    path: Path
    format: str
    has_bom: bool
    size_bytes: int

    @property
    def name(self) -> str:
        return self.path.name


def open_data_file(path: str | Path) -> DataFile:
    """Look at ``path`` and its first bytes. Raises UserError 66 when it cannot be read, 65 when it holds no rows."""
    path = Path(path)
    size = _check_readable(path)
    if size == 0:
        raise UserError(Problem(f"{path.name}: 0 rows", "the file is empty", f"look at {path}"), ExitCode.DATA)
    with path.open("rb") as file:
        head = file.read(4096)
    _check_encoding(path, head)
    has_bom = head.startswith(BOM)
    if head.startswith(b"PAR1"):
        return DataFile(path, "parquet", False, size)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            Problem(
                f"{path.name}: unknown kind of file '{path.suffix}'",
                f"known are {', '.join(FORMATS)}",
                "convert it, or name it by what it is",
            ),
            ExitCode.DATA,
        )
    if kind == "parquet":
        what = f"{path.name}: not a Parquet file (it does not begin with PAR1)"
        raise UserError(Problem(what, next_step="copy it again, or name it by what it is"), ExitCode.DATA)
    if kind in ("jsonl", "json"):
        kind = "json" if head.removeprefix(BOM).lstrip().startswith(b"[") else "jsonl"
    return DataFile(path, kind, has_bom, size)


def _check_readable(path: Path) -> int:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UserError(
                Problem(f"{path} is {kind}", "data is read several times and hashed", "give the path of a file"),
                ExitCode.NO_INPUT,
            )
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        raise UserError(Problem(f"{path}: {reason}", next_step=_suggest(path)), ExitCode.NO_INPUT) from error
    return status.st_size


def _suggest(path: Path) -> str:
    try:
        nearby = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in FORMATS)[:5]
    except OSError:
        nearby = []
    return f"in that folder are {', '.join(nearby)}" if nearby else "check the path"


def _check_encoding(path: Path, head: bytes) -> None:
    if path.suffix.lower() in _SPREADSHEETS:
        problem = Problem(f"{path.name}: a spreadsheet", "text is read", "save it as CSV UTF-8 and give that file")
        raise UserError(problem, ExitCode.DATA)
    ending = next((suffix for suffix in reversed(path.suffixes) if suffix.lower() in FORMATS), ".jsonl")
    quoted = shlex.quote(str(path))
    for magic, (name, tool) in _MAGIC.items():
        if head.startswith(magic):
            way = f"{tool} {quoted} > plain{ending}"
            raise UserError(Problem(f"{path.name}: compressed with {name}", "plain files are read", way), ExitCode.DATA)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(head) > 3 and head[:4].count(0) >= 2):
        raise UserError(
            Problem(
                f"{path.name}: looks like UTF-16",
                "UTF-8 is read",
                f"iconv -f UTF-16 -t UTF-8 {quoted} > utf8{ending}",
            ),
            ExitCode.DATA,
        )
