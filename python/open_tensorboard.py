"""Show the curves of the runs in TensorBoard, for a browser on this machine only. Ctrl-C ends it.

It listens on localhost: from another machine, ssh -L 6006:localhost:6006 brings it to you.
"""

import os
import socket
import sys

from common import runs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs.choose import choose_run

HOST = "localhost"


def main() -> None:
    parser = CommandParser(prog="open_tensorboard.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="this run only (default: all)")
    parser.add_argument("--port", type=int, default=6006, help="port on localhost")
    options = parser.parse_args()
    if not 0 < options.port < 65_536:
        raise UserError(Problem(f"--port {options.port}", "1 to 65535"), ExitCode.USAGE)

    folder = runs.runs_dir() / choose_run(options.run, "tensorboard", bool) if options.run else runs.runs_dir()
    if not any(folder.glob("logs/events*" if options.run else "*/logs/events*")):
        problem = Problem(f"no curves in {folder} yet", "a training writes them from its first step on", "make status")
        raise UserError(problem, ExitCode.NO_INPUT)
    require_free(options.port)
    words = ["--logdir", str(folder), "--host", HOST, "--port", str(options.port)]
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", *words])  # so a signal to us ends it


def require_free(port: int) -> None:
    """Raise UserError (69) when somebody listens on ``port`` already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = f"port {port} cannot be used: {error.strerror}"
            step = f"another with PORT=, or what is there already: http://{HOST}:{port}"
            raise UserError(Problem(reason, next_step=step), ExitCode.UNAVAILABLE) from None


if __name__ == "__main__":
    run_command(main)
