"""Checkpoints that can be trusted: committed when complete, verified before use, rotated by step.

The stock trainer writes straight into ``checkpoint-N``. Here such a folder counts only once ``COMMIT.json`` lies in it:
every file synced to disk and hashed, and the commit itself written last and atomically. A run killed inside a save
leaves a folder without a commit; the next start moves it out of the way (never deletes it) and takes the one before.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import ExitCode, Problem, UserError, first_line
from common.hardware import GIB, free_disk_gib
from common.hashing import sha256_of
from common.ranks import is_leader
from common.runs import read_json, write_json
from common.runs.folders import sync_files, sync_folder

COMMIT = "COMMIT.json"
_TORCH_WRITER = re.compile("inline_container|iostream error")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int:
    """Return N of ``checkpoint-N``."""
    return int(_NAME.fullmatch(folder.name).group(1))


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Return the checkpoint folders of a run, complete or not, the oldest first."""
    return sorted((p for p in run_folder.glob("checkpoint-*") if _NAME.fullmatch(p.name) and p.is_dir()), key=step_of)


def newest_committed(run_folder: Path) -> Path | None:
    """Return the newest checkpoint that was declared complete, None without one."""
    return next((folder for folder in reversed(list_checkpoints(run_folder)) if is_committed(folder)), None)


def is_committed(folder: Path) -> bool:
    """True when ``folder`` was declared complete; whether it still is, :func:`find_damage` tells."""
    return (folder / COMMIT).is_file()


def commit_checkpoint(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Declare ``folder`` complete: sync and hash every file, then write COMMIT.json atomically."""
    sync_files(folder)
    files = {str(path.relative_to(folder)): sha256_of(path) for path in _files(folder)}
    commit = {"step": step_of(folder), "fingerprint": dict(fingerprint), "files": files}
    write_json(folder / COMMIT, commit | {"sha256": _seal(commit)})
    sync_folder(folder.parent)


def read_commit(folder: Path) -> dict[str, Any] | None:
    """Return what ``folder`` was committed with, None when it never was, or when COMMIT.json is not as written."""
    try:
        commit = read_json(folder / COMMIT)
    except (UserError, OSError):
        return None
    return commit if commit.pop("sha256", None) == _seal(commit) else None


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when it is committed and every file is as it was."""
    if not is_committed(folder):
        return "it was never completed"
    commit = read_commit(folder)
    if commit is None:
        return f"{COMMIT} has changed"
    for name, digest in commit["files"].items():
        try:
            if sha256_of(folder / name) != digest:
                return f"{name} has changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def choose_checkpoint(run_folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest sound checkpoint (None without one) and a line for each that was moved out of the way.

    Every folder that is broken, and so everything newer than the one chosen, is renamed to ``broken-checkpoint-…``.
    """
    notes = []
    for folder in reversed(list_checkpoints(run_folder)):
        damage = find_damage(folder)
        if damage is None:
            return folder, notes
        quarantine = _free_name(run_folder / f"broken-{folder.name}")
        folder.rename(quarantine)
        notes.append(f"{folder.name}: {damage}; moved to {quarantine.name}")
    return None, notes


def compare_fingerprints(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return a line for each part in which ``current`` differs from the fingerprint that a run was begun with."""
    return [
        f"{key}: was {saved.get(key)!r}, is {current.get(key)!r}"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key)
    ]


def rotate_checkpoints(run_folder: Path, keep: int) -> None:
    """Delete the oldest committed checkpoints until ``keep`` (at least 2) are left. The order is that of the steps."""
    committed = [folder for folder in list_checkpoints(run_folder) if is_committed(folder)]
    for folder in committed[: -max(keep, 2)]:
        (folder / COMMIT).unlink()  # first: a half-deleted folder must not look complete
        shutil.rmtree(folder)
    for folder in list_checkpoints(run_folder):
        if committed and not is_committed(folder) and step_of(folder) < step_of(committed[-1]):
            shutil.rmtree(folder)  # a kill in the lines above left it; what was never completed has been moved away


def require_space(run_folder: Path, needed_bytes: int) -> None:
    """Raise UserError (74) unless twice ``needed_bytes`` is free where the run is written."""
    free = free_disk_gib(run_folder) * GIB
    if free < 2 * needed_bytes:
        raise UserError(
            Problem(
                f"{free / GIB:.2f} GiB free in {run_folder}, {2 * needed_bytes / GIB:.2f} GiB needed for a checkpoint",
                "the checkpoint before is intact",
                "free some space, then make resume",
            ),
            ExitCode.IO,
        )


@contextmanager
def named_disk_errors(folder: Path):
    """Turn what torch and safetensors raise when a file cannot be written into the OSError that it was.

    torch tells no errno, so its error counts as EIO, with its own first line.
    """
    try:
        yield
    except Exception as error:
        text = first_line(error)
        number = _OS_ERROR.search(text)
        if number:  # safetensors: "I/O error: No space left on device (os error 28)"
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        if isinstance(error, RuntimeError) and _TORCH_WRITER.search(str(error)):
            raise OSError(errno.EIO, text, str(folder)) from error
        raise


@contextmanager
def written_or_removed(folder: Path):
    """Name disk errors while ``folder`` is written, and remove what there is of it then: it takes room that a run's end
    needs to be written down. What is committed stays. Of several ranks the leader removes it.
    """
    try:
        with named_disk_errors(folder.parent):
            yield
    except OSError:
        if is_leader() and not is_committed(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def size_bytes(folder: Path) -> int:
    """Return the total size of the files in a folder."""
    return sum(path.stat().st_size for path in _files(folder))


def _seal(commit: Mapping[str, Any]) -> str:
    """Return the sha256 of a commit's own content."""
    return hashlib.sha256(json.dumps(commit, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMMIT]


def _free_name(path: Path) -> Path:
    names = [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, 1000))]
    return next(name for name in names if not name.exists())
