"""Taking a folder for a new run, and every reason not to."""

import errno
import re
import shlex
from contextlib import suppress
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs.folders import MANIFEST_FILE, ROOT, check_run_name, find_lost, list_runs, run_folder, runs_dir
from common.runs.lock import LOCK_FILE, RunLock, held_error, is_held, read_holder
from common.runs.log import LOG_FILE
from common.runs.status import STATUS_FILE, STOP_REQUEST_FILE, read_status

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
# What an attempt that died before its manifest may have left; such a folder may be used again.
_BEFORE_MANIFEST = {LOCK_FILE, STATUS_FILE, STOP_REQUEST_FILE, LOG_FILE}
_DRAFT = re.compile(rf"\.({re.escape(MANIFEST_FILE)}|{re.escape(STATUS_FILE)})\.\d+")  # killed inside write_json
_SOURCE_FOLDERS = ("python", "scripts", "recipes", "tests", "docs", ".git")


def check_available(name: str, output: str | Path | None = None) -> Path:
    """Return the folder a new run ``name`` would get; writes nothing.

    UserError 64 for a bad name, 73 when the folder belongs to something else, 75 when a process holds it.
    """
    link = runs_dir() / check_run_name(name)
    folder = run_folder(name) if output is None else Path(output).expanduser().resolve()
    if folder == ROOT or any(folder.is_relative_to(ROOT / source) for source in _SOURCE_FOLDERS):
        raise cannot_create(
            f"output folder {folder} is part of the project", "runs write to runs/ or outside the clone"
        )
    if output is not None and folder == runs_dir():
        raise cannot_create(f"output folder {folder} holds all runs", "a run needs a folder of its own")
    if (link.exists() or link.is_dir()) and link.resolve() != folder:
        raise cannot_create(f"run '{name}' lies in {link.resolve()} already", "", "choose another with RUN=NAME")
    if link.resolve() == folder and (lost := find_lost(name)):
        raise UserError(lost, ExitCode.CANNOT_CREATE)
    if folder.exists() and not folder.is_dir():
        raise cannot_create(f"{folder} is not a folder", "", "choose another with RUN=NAME or OUTPUT=DIR")
    if is_held(folder):
        raise held_error(name, read_holder(folder))
    try:
        refuse_used(name, folder)
    except UserError:
        if is_held(folder):  # taken since the look above: what was found there is its holder's
            raise held_error(name, read_holder(folder)) from None
        raise
    return folder


def free_name(name: str) -> str:
    """Return ``name``, or the first of name-2, name-3, … that no completed run bears.

    For names nobody chose: a recipe that was trained is trained again beside the first. A run that is not completed
    keeps its name, for it is to be continued.
    """
    candidates = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next(n for n in candidates if read_status(runs_dir() / n)["state"] != "completed")


def refuse_used(name: str, folder: Path) -> None:
    """Raise UserError 73 when ``folder`` holds a run, or anything else that is not ours to overwrite."""
    entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if MANIFEST_FILE in entries:
        state = read_status(folder)["state"]
        known = next((run.name for run in list_runs() if run.resolve() == folder), None)
        name, link = known or name, shlex.join(["ln", "-s", str(folder), str(runs_dir() / name)])
        first = "" if known else f"{link}, then "
        if state == "completed":
            step = f"start another with RUN=NAME, or remove this one: {first}make clean RUN={name}"
        else:
            step = f"continue it: {first}make resume RUN={name}, or start another with RUN=NAME"
        raise cannot_create(f"run '{name}' exists and is {state}", "a run is never overwritten", step)
    if foreign := sorted(entry for entry in entries if not _is_left_before_manifest(entry)):
        raise cannot_create(
            f"{folder} is not empty ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''})",
            "a new run needs an empty folder",
            "choose another with RUN=NAME or OUTPUT=DIR",
        )


def claim(name: str, output: str | Path | None, record: dict) -> tuple[Path, RunLock]:
    """Make the folder of a new run and take its lock, with runs/<name> a link to it when it lies elsewhere."""
    folder = check_available(name, output)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock.acquire(folder, record)
        try:
            refuse_used(name, folder)  # again, now that nobody else can begin one
            for left in folder.iterdir():
                if left.name != LOCK_FILE and _is_left_before_manifest(left.name):
                    left.unlink(missing_ok=True)
            link = runs_dir() / name
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)  # a link whose folder was removed
                link.symlink_to(folder, target_is_directory=True)
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise write_error(error, folder) from error
    return folder, lock


def _is_left_before_manifest(name: str) -> bool:
    return name in _BEFORE_MANIFEST or _DRAFT.fullmatch(name) is not None


def cannot_create(what: str, allowed: str = "", next_step: str = "") -> UserError:
    return UserError(Problem(what, allowed, next_step), ExitCode.CANNOT_CREATE)


def write_error(error: OSError, folder: Path) -> UserError:
    """Say why ``folder`` cannot be written: 74 when it ran full or failed, 73 when it never could be written."""
    where = error.filename if isinstance(error.filename, str) else folder
    if error.errno in DISK_ERRNOS:
        first = "see whether the disk is full or broken" if error.errno == errno.EIO else "free some space"
        begun = (folder / MANIFEST_FILE).is_file()
        step = f"{first}, then " + (f"continue: make resume RUN={folder.name}" if begun else "try again")
        return UserError(Problem(f"cannot write {where}: {error.strerror}", "", step), ExitCode.IO)
    return cannot_create(
        f"cannot write {where}: {error.strerror or error}", "", "choose a folder you may write with OUTPUT=DIR"
    )
