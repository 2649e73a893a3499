"""One of the project's commands, called by another: the soak and the plan's benchmark do what a user would do."""

import shlex
import subprocess
import sys
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs import ROOT
from common.runs.launch import training_environment

_LAST_CHARACTERS = 1500


def call(runs: Path, command: str, *words: str) -> str:
    """Run ``command`` with its runs in ``runs``; return what it printed.

    Raises UserError with its exit code and its last words when it fails.
    """
    line = [sys.executable, str(ROOT / "python" / command), *words]
    environment = training_environment() | {"RECETARIO_RUNS": str(runs)}  # that of `make`
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        by_hand = f"RECETARIO_RUNS={shlex.quote(str(runs))} python python/{shlex.join([command, *words])}"
        what = f"{command} failed: {done.stderr.strip()[-_LAST_CHARACTERS:] or f'exit code {done.returncode}'}"
        code = done.returncode if done.returncode in list(ExitCode) else ExitCode.INTERNAL  # a signal's is none of ours
        raise UserError(Problem(what, next_step=f"by hand: {by_hand}"), ExitCode(code))
    return done.stdout
