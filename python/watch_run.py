"""Wait for a run to end, showing its progress on one line; the exit code is that of the run.

Ctrl-C ends the watching only. Exit codes: 0 completed, 75 stopped or no longer watching, else why the run failed.
"""

import sys
import time

from common import runs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs.choose import choose_run
from common.runs.line import StatusLine
from common.runs.view import progress_bar

POLL_S = 0.5
LINE_EVERY_S = 5.0  # where the output is no terminal


def main() -> int:
    parser = CommandParser(prog="watch_run.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the only one that is running)")
    options = parser.parse_args(sys.argv[1:])
    name = choose_run(options.run, "status", lambda status: status["running"])

    try:
        status = watch(name)
    except KeyboardInterrupt:
        raise UserError(
            Problem(f"no longer watching; run '{name}' goes on in the background", "", f"make status RUN={name}"),
            ExitCode.STOPPED,
        ) from None

    if status["state"] == "completed":
        print(f"run '{name}' is completed after {status.get('elapsed_s', 0):.0f} s")
        return ExitCode.OK
    for line in status["last_log_lines"]:
        print(f"  {line}", file=sys.stderr)
    code = {"stopped": ExitCode.STOPPED, "failed": status.get("exit_code")}.get(status["state"], ExitCode.INTERNAL)
    raise UserError(
        Problem(f"run '{name}' is {status['state']}", status["reason"], f"make resume RUN={name}"),
        code if code in list(ExitCode) else ExitCode.INTERNAL,
    )


def watch(name: str) -> dict:
    """Show the progress of run ``name`` until it does not run any more; return its last status."""
    bar = StatusLine(sys.stdout if sys.stdout.isatty() else None)
    shown, shown_s = "", -LINE_EVERY_S
    while (status := runs.read_status(runs.runs_dir() / name, 8))["running"]:
        line = describe(name, status)
        now_s = time.monotonic()
        if bar:
            bar.show(line)
        elif line != shown and now_s - shown_s >= LINE_EVERY_S:
            print(line, flush=True)
            shown, shown_s = line, now_s
        time.sleep(POLL_S)
    bar.clear()
    return status


def describe(name: str, status: dict) -> str:
    """Return one line: state, step, loss, speed, elapsed and remaining time; "~" marks what is an estimate."""
    parts = [f"{name}: {status['state']}"]
    if status.get("step") is not None and status.get("total_steps"):
        parts.append(f"{progress_bar(status)}  step {status['step']} of {status['total_steps']}")
    if isinstance(status.get("loss"), int | float):
        parts.append(f"loss {status['loss']:.3f}")
    if isinstance(status.get("elapsed_s"), int | float):
        parts.append(f"{status['elapsed_s']:.0f} s so far")
    if isinstance(status.get("eta_s"), int | float):
        parts.append(f"~{status['eta_s']:.0f} s to go")
    return "  ".join(parts)


if __name__ == "__main__":
    run_command(main)
