"""Train, and carry the training on when it is killed: what `make train-cpu-background MAX_RESTARTS=3` starts.

A restart is for a process that was killed, by the kernel for memory or by hand, never for one that ended with an error:
that would end the same way again. For the same reason it must have passed the step at which it was last killed.
`make stop` ends the training, and this with it.
"""

import argparse
import signal
import subprocess
import sys

from common.errors import CommandParser, ExitCode, run_command


def main() -> int:
    parser = CommandParser(prog="keep_running.py", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME", help="name of the run")
    parser.add_argument("--max-restarts", type=int, required=True, metavar="N", help="how often it is carried on")
    parser.add_argument("script", help="the recipe's command, as in python/finetune_ba.py")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="its options")
    args = parser.parse_args(sys.argv[1:])

    from common.reliability.watching import Watch
    from common.runs import launch, read_status, run_folder
    from common.runs.ending import end_leftovers

    folder = run_folder(args.run)
    command = launch.command_line(args.script, *args.words)
    last_step, restarts = -1, 0
    while True:
        watch = Watch(folder)
        code = subprocess.run(command, check=False).returncode
        if code >= 0:
            if restarts and code not in (ExitCode.OK, ExitCode.STOPPED):
                end = f"restart {restarts} of {args.max_restarts} ended with exit code {code}"
                note(folder, f"{end}; make resume RUN={args.run} tries again, and says what is wrong")
            return code
        step, number = watch.last_step(), signal.Signals(-code).name
        if restarts == args.max_restarts:
            note(folder, f"{number} after step {step}: no restart is left of {args.max_restarts}")
            return 128 - code
        if step <= last_step:
            note(folder, f"{number} after step {step}, no further than the last time: not restarted")
            return 128 - code
        last_step, restarts = step, restarts + 1
        note(folder, f"{number} after step {step}: restart {restarts} of {args.max_restarts}")
        end_leftovers(read_status(folder))
        command = launch.command_line(args.script, "--resume", "--run", args.run)


def note(folder, line: str) -> None:
    """Add a line to the run's log, where the training's own last words are."""
    from common.runs.log import LOG_FILE

    with (folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    run_command(main)
