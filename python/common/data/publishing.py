"""Putting finished files in their place: all of them at once as far as a file system can, and never over something else."""

import os
from collections.abc import Sequence
from pathlib import Path

from common.errors import ExitCode, Problem, UserError


def check_free(folder: Path, names: Sequence[str], force: bool) -> None:
    """Raise UserError 73 when ``folder`` cannot take these files, or holds one of them already (unless ``force``)."""
    present = [name for name in names if (folder / name).exists()]
    if present and not force:
        raise UserError(
            Problem(f"{folder} holds {', '.join(present)} already", "nothing is overwritten unasked", "add --force"),
            ExitCode.CANNOT_CREATE,
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise UserError(
            Problem(
                f"cannot write into {folder} ({(error.strerror or str(error)).lower()})", "", "choose another folder"
            ),
            ExitCode.CANNOT_CREATE,
        ) from error


def publish(source: Path, target: Path, names: Sequence[str]) -> None:
    """Move finished files from ``source`` (on the same file system) into ``target``, each complete under its name."""
    for name in names:
        with (source / name).open("rb") as file:
            os.fsync(file.fileno())
    for name in names:
        (source / name).replace(target / name)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
