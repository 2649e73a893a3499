"""Stop a run: it saves at the next safe point and ends, and `make resume` goes on from there.

The run gets a stop request and one SIGTERM. What is left of it after the grace period is killed; the last committed
checkpoint stays. Ctrl-C here ends the waiting only: the run still stops.
"""

import sys

from common import runs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs import ending
from common.runs.choose import choose_run
from common.runs.processes import boot_id

_FREED_WITHIN_S = 1.0  # the lock of a process that was killed


def main() -> None:
    options = read_options()
    name = choose_run(options.run, "stop", lambda status: status["running"])
    folder = runs.run_folder(name)
    status = runs.read_status(folder)
    if not status["running"]:
        killed = end_leftovers(name, status)
        print(
            f"run '{name}' is not running: it is {status['state']}" + ("; ended what was left of it" if killed else "")
        )
        return

    ending.ask_to_stop(folder, status)
    ended = wait(folder, name, status, options.grace)
    if not ended:
        if status.get("boot_id") != boot_id():
            raise still_there(f"run '{name}' runs on {status.get('host')} and has not stopped yet", "stop it there")
        print(f"run '{name}' did not stop within {options.grace:g} s: killing it", file=sys.stderr)
    end_leftovers(name, status)
    if not ended and not ending.wait_for_end(folder, status, _FREED_WITHIN_S, lambda _: None):
        what = f"run '{name}' is held by a process that cannot be reached from here"
        raise still_there(what, "it was asked to stop, and the request stays")
    ending.forget_request(folder)
    print(describe_end(name, runs.read_status(folder)))


def read_options():
    parser = CommandParser(prog="stop_run.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the only one that is running)")
    parser.add_argument("--grace", type=float, default=600.0, metavar="SECONDS", help="time to finish a step and save")
    return parser.parse_args(sys.argv[1:])


def wait(folder, name: str, status: dict, grace_s: float) -> bool:
    """Wait for the run to end by itself, saying so about twice a minute."""
    said_s = -30.0

    def tick(waited_s: float) -> None:
        nonlocal said_s
        if waited_s > 1.0 and waited_s - said_s >= 30.0:
            said_s = waited_s
            print(f"waiting for run '{name}' to finish its step and save ({waited_s:.0f} of {grace_s:g} s)", flush=True)

    try:
        return ending.wait_for_end(folder, status, grace_s, tick)
    except KeyboardInterrupt:
        raise still_there(f"no longer waiting; run '{name}' stops at its next safe point", "") from None


def end_leftovers(name: str, status: dict) -> bool:
    """Kill what is left of the run; True when there was something. UserError 75 when something cannot be killed."""
    count, left = ending.end_leftovers(status)
    if left:
        pids = ", ".join(str(member.pid) for member in left)
        raise still_there(f"processes {pids} of run '{name}' cannot be killed", "they wait for the disk or the kernel")
    return count > 0


def describe_end(name: str, status: dict) -> str:
    step = f" at step {status['step']} of {status.get('total_steps', '?')}" if "step" in status else ""
    if status["state"] == "completed":
        return f"run '{name}' is completed{step}"
    return f"run '{name}' is {status['state']}{step}; make resume RUN={name} goes on"


def still_there(what: str, allowed: str) -> UserError:
    return UserError(Problem(what, allowed, "make status"), ExitCode.STOPPED)


if __name__ == "__main__":
    run_command(main)
