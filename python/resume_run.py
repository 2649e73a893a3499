"""Continue a run that was stopped, failed or crashed from its last good checkpoint: in the background, unless told."""

import os
import sys

from common import launching, runs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs import ending, launch
from common.runs.choose import choose_run


def main() -> int:
    options = read_options()
    name = choose_run(options.run, "resume", lambda status: status["state"] in ("stopped", "failed", "crashed"))
    if not options.node_rank and not may_go_on(name):  # with a rank: the leader, on another node, may hold it already
        print(f"run '{name}' is completed: there is nothing left to do")
        return ExitCode.OK

    manifest = runs.read_json(runs.runs_dir() / name / "run.json")
    team = launching.recorded_team(manifest, options)
    os.environ.update(team.environment())
    words = [manifest.get("command", ""), "--resume", "--run", name, *["--force"] * options.force]
    if not team.node_rank:
        launch.check_first(launch.command_line(*words))
    if options.foreground:
        return launching.train_here(team, name, *words)
    launching.refuse_lone_background(team)
    pid = launch.start_in_background(team.command_line(*words), name, team.carry)
    print(f"run {name} goes on: process {pid}, log {runs.runs_dir() / name / 'train.log'}")
    print(f"  make status RUN={name} · make logs RUN={name} · make stop RUN={name}")
    return ExitCode.OK


def may_go_on(name: str) -> bool:
    """True when nobody trains the run and it is not completed; what a crash has left of it is ended.

    Raises UserError (75) when it is running.
    """
    status = runs.read_status(runs.runs_dir() / name)
    if status["running"]:
        raise UserError(
            Problem(f"run '{name}' is running: process {status.get('pid')}", "", f"make status RUN={name}"),
            ExitCode.STOPPED,
        )
    if status["state"] == "completed":
        return False
    ending.end_leftovers(status)
    return True


def read_options():
    parser = CommandParser(prog="resume_run.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the only one that can go on)")
    parser.add_argument("--force", action="store_true", help="go on although data, model or settings have changed")
    parser.add_argument("--foreground", action="store_true", help="train here; Ctrl-C saves and stops")
    launching.add_team_options(parser)
    return parser.parse_args(sys.argv[1:])


if __name__ == "__main__":
    run_command(main)
