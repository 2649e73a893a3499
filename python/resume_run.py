"""Continue a run that was stopped, failed or crashed, in the background, from its last good checkpoint."""

import os
import sys

from common import launching, runs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs import ending, launch
from common.runs.choose import choose_run


def main() -> None:
    options = read_options()
    name = choose_run(options.run, "resume", lambda status: status["state"] in ("stopped", "failed", "crashed"))
    status = runs.read_status(runs.runs_dir() / name)
    if status["running"]:
        raise UserError(
            Problem(f"run '{name}' is running: process {status.get('pid')}", "", f"make status RUN={name}"),
            ExitCode.STOPPED,
        )
    if status["state"] == "completed":
        print(f"run '{name}' is completed: there is nothing left to do")
        return
    ending.end_leftovers(status)

    manifest = runs.read_json(runs.runs_dir() / name / "run.json")
    team = launching.recorded_team(manifest, options)
    os.environ.update(team.environment())
    words = [manifest.get("command", ""), "--resume", "--run", name, *["--force"] * options.force]
    launch.check_first(launch.command_line(*words))
    pid = launch.start_in_background(team.command_line(*words), name)
    print(f"run {name} goes on: process {pid}, log {runs.runs_dir() / name / 'train.log'}")
    print(f"  make status RUN={name} · make logs RUN={name} · make stop RUN={name}")


def read_options():
    parser = CommandParser(prog="resume_run.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the only one that can go on)")
    parser.add_argument("--force", action="store_true", help="go on although data, model or settings have changed")
    launching.add_team_options(parser)
    return parser.parse_args(sys.argv[1:])


if __name__ == "__main__":
    run_command(main)
