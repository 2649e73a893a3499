"""Putting finished files in their place: all or none, each complete under its name, never over something else."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs.folders import sync_folder


@contextmanager
def publish(folder: Path, names: Sequence[str], *, force: bool = False, replaced: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a working folder; when the block ends without an error, move the files ``names`` from it into ``folder``.

    Then files of an earlier set, ``replaced``, go. After an error nothing is left behind, folders included. Raises
    UserError 73 when ``folder`` cannot be written or holds one of the files already (unless ``force``).
    """
    present = [name for name in names if (folder / name).exists()]
    if present and not force:
        raise UserError(
            Problem(f"{folder} holds {', '.join(present)} already", "nothing is overwritten unasked", "add --force"),
            ExitCode.CANNOT_CREATE,
        )
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    except OSError as error:
        _remove_empty(made)
        raise UserError(
            Problem(f"cannot write into {folder} ({error.strerror})", next_step="choose another folder"),
            ExitCode.CANNOT_CREATE,
        ) from error
    try:
        yield work
        _move(work, folder, names, set(replaced) - set(names))
        made = []
    finally:
        shutil.rmtree(work, ignore_errors=True)
        _remove_empty(made)


def _move(work: Path, folder: Path, names: Sequence[str], replaced: Iterable[str]) -> None:
    for name in names:
        with (work / name).open("rb") as file:
            os.fsync(file.fileno())
    for name in names:
        (work / name).replace(folder / name)
    for name in replaced:
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
