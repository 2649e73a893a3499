"""Which run a command means when the user names none."""

from collections.abc import Callable

from common.errors import ExitCode, Problem, UserError, did_you_mean
from common.runs.folders import check_run_name, find_lost, list_runs, runs_dir
from common.runs.status import read_status


def choose_run(name: str | None, purpose: str, fits: Callable[[dict], bool]) -> str:
    """Return ``name`` if there is such a run, or, for None, the name of the only run whose status ``fits``.

    UserError 66 when there is no such run, 64 when the choice is not clear. ``purpose`` is the make target's name.
    """
    known = [folder.name for folder in list_runs()]
    if name is not None:
        if check_run_name(name) not in known:
            if lost := find_lost(name):
                raise UserError(lost, ExitCode.NO_INPUT)
            raise UserError(
                Problem(
                    f"there is no run '{name}' in {runs_dir()}",
                    did_you_mean(name, known) or (f"runs: {', '.join(known)}" if known else "there are none yet"),
                    "make status lists them",
                ),
                ExitCode.NO_INPUT,
            )
        return name
    fitting = [run for run in known if fits(read_status(runs_dir() / run, log_lines=0))]
    if len(fitting) == 1:
        return fitting[0]
    which = f"these are possible: {', '.join(fitting)}" if fitting else f"there is none to {purpose}"
    code = ExitCode.USAGE if fitting else ExitCode.NO_INPUT
    raise UserError(Problem(which, "", f"make {purpose} RUN=NAME" if fitting else "make status lists the runs"), code)


def choose_finished(name: str | None, purpose: str) -> str:
    """Return the name of a run as :func:`choose_run` does, one whose folder holds the finished adapter.

    UserError 75 when it is still running, 66 when it ended before it was finished.
    """
    name = choose_run(name, purpose, lambda status: status["state"] == "completed")
    if (runs_dir() / name / "adapter_config.json").is_file():
        return name
    status = read_status(runs_dir() / name, log_lines=0)
    step = f"make status RUN={name} tells how far it is" if status["running"] else f"make resume RUN={name}"
    code = ExitCode.STOPPED if status["running"] else ExitCode.NO_INPUT
    what = f"run '{name}' holds no finished adapter: it is {status['state']}"
    raise UserError(Problem(what, f"make {purpose} takes a finished run", step), code)
