"""Writing generated rows to disk: complete or not at all, and never over a file somebody changed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs.folders import replace_file


def write_splits(folder: Path, splits: Mapping[str, Iterable[Mapping]], *, force: bool = False) -> dict[Path, str]:
    """Write ``folder/<split>.jsonl`` for every split; return path → "written" or "unchanged".

    Each file appears under its name only when it is complete. Raises UserError 73 when a file of that name holds
    something else (before anything is written) unless ``force``, or when the folder cannot be written.
    """
    contents = {folder / f"{name}.jsonl": encode_rows(rows) for name, rows in splits.items()}
    try:
        present = {path: path.read_bytes() if path.exists() else None for path in contents}
        changed = [path for path, old in present.items() if old not in (None, contents[path])]
        if changed and not force:
            problems = [
                Problem(f"{path} holds other data", "generated files are only replaced on request", "add --force")
                for path in changed
            ]
            raise UserError(problems, ExitCode.CANNOT_CREATE)
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            if present[path] != content:
                replace_file(path, content)
    except OSError as error:
        problem = Problem(
            f"cannot write {error.filename or folder} ({error.strerror})", next_step="choose another --output"
        )
        raise UserError(problem, ExitCode.CANNOT_CREATE) from error
    return {path: "unchanged" if present[path] == contents[path] else "written" for path in contents}


def encode_rows(rows: Iterable[Mapping]) -> bytes:
    """Return ``rows`` as JSON Lines: UTF-8, accents kept, keys in the order given, a line feed after each."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
