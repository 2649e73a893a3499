"""A runs folder of its own for trainings that are made to be measured or killed."""

import shutil
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs import runs_dir
from common.runs.lock import is_held


def clear_ground(folder: Path) -> None:
    """Make ``folder`` an empty runs folder with this one's models and data; UserError 75 while a run works in it."""
    if any(is_held(run) for run in folder.glob("*/")):
        raise UserError(Problem(f"a run works in {folder}", "one at a time", "wait for its end"), ExitCode.STOPPED)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for shared in ("models", "data"):
        if (runs_dir() / shared).is_dir():
            (folder / shared).symlink_to(runs_dir() / shared)
