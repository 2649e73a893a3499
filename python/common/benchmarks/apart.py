"""A part of a benchmark in a process of its own, so that none profits from what another loaded or made warm."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs import runs_dir

_MARK = "RESULT "


def print_figures(figures: dict) -> None:
    """Print, in the process of a part, what :func:`run_apart` returns in the other."""
    print(_MARK + json.dumps(figures), flush=True)


def run_apart(
    command: Path,
    words: Sequence[object],
    *,
    quiet: bool = True,
    watch: Callable[[subprocess.Popen], object] = subprocess.Popen.wait,
    environment: Mapping[str, str] = os.environ,
) -> dict:
    """Run ``command`` with ``words`` and return the figures it prints; ``watch`` is called while it runs.

    What it says beside them is not shown, but for stderr unless ``quiet``. The hub is not asked for anything. Raises
    UserError 70 with its last line when there are no figures.
    """
    environment = {**environment, "HF_HUB_OFFLINE": "1"}
    with _temporary_file() as out, _temporary_file() as err:
        line = [sys.executable, str(command), *map(str, words)]
        with subprocess.Popen(line, stdout=out, stderr=err if quiet else None, env=environment) as process:
            watch(process)
        printed, said = (_lines(file) for file in (out, err))
    found = [line for line in printed if line.startswith(_MARK)]
    if process.returncode or not found:
        reason = said[-1] if said else f"exit code {process.returncode}"
        what = f"{command.name} {' '.join(line[2:])} failed: {reason}"
        raise UserError(Problem(what, next_step="that line by itself, with --debug, tells more"), ExitCode.INTERNAL)
    return json.loads(found[-1].removeprefix(_MARK))


def scratch() -> Path:
    """Return the folder for what a training must write and nobody reads."""
    return runs_dir() / "bench" / "scratch"


def _temporary_file():
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def _lines(file) -> list[str]:
    file.seek(0)
    return [line for line in file.read().splitlines() if line.strip()]
