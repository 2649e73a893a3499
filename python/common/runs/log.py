"""Where the output of a run goes: train.log always, and the terminal too when there is one.

Everything the process writes is caught at the level of file descriptors 1 and 2, so warnings of C++ libraries are
in the log as well. It starts only once the lock is held: the losers of a simultaneous start never touch the log.
"""

import atexit
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TextIO

LOG_FILE = "train.log"
LAUNCH_LOG_VARIABLE = "RECETARIO_LAUNCH_LOG"  # set by the background launcher: where output goes before the lock
_terminal: TextIO | None = None  # the one that stderr was before its output went to the log too
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def capture_output(path: Path) -> None:
    """Send stdout and stderr of this process to the log at ``path``, appending.

    In the background that is all, and what was printed before is moved over from the launcher's file. In the
    foreground a tee(1) in a session of its own feeds terminal and log; it drains what is left even after a SIGKILL.
    """
    if not _owns_descriptors():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    launch_log = os.environ.pop(LAUNCH_LOG_VARIABLE, None)
    if launch_log is not None:
        with contextlib.suppress(OSError):
            os.write(log, Path(launch_log).read_bytes())
            Path(launch_log).unlink()
        _redirect(log)
    else:
        _keep_terminal()
        _tee(path)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)


def terminal() -> TextIO | None:
    """Return the terminal that a captured process may draw on without leaving anything in the log; None without one."""
    return _terminal


def _keep_terminal() -> None:
    global _terminal
    if os.isatty(2):
        _terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")


def _owns_descriptors() -> bool:
    """False inside a test runner or notebook that has put its own streams in place of ours."""
    try:
        return sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False


def _redirect(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _tee(path: Path) -> None:
    """Put a tee(1) behind stdout and one behind stderr, so that each still arrives where the user sent it."""
    tees = []
    for target in (1, 2):
        try:
            tee = subprocess.Popen(
                ["tee", "-a", str(path)],
                stdin=subprocess.PIPE,
                stdout=target,
                start_new_session=True,  # Ctrl-C and a closing terminal are not for it
                restore_signals=False,  # SIGPIPE stays ignored: when the terminal goes, the log goes on
            )
        except OSError:  # no tee(1) here: the terminal matters more to someone who is watching it
            return
        tees.append(tee)
    for target, tee in enumerate(tees, start=1):
        os.dup2(tee.stdin.fileno(), target)
        tee.stdin.close()

    def finish() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        _redirect(nowhere)
        for tee in tees:
            with contextlib.suppress(subprocess.TimeoutExpired):
                tee.wait(timeout=5)

    atexit.register(finish)


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last ``count`` non-empty lines of a log, without anything that could move a terminal's cursor."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            tail = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = (clean_line(line) for line in re.split(r"[\r\n]+", tail))
    return [line for line in lines if line.strip()][-count:] if count else []


def clean_line(line: str) -> str:
    """Return ``line`` without escape sequences and control characters."""
    return _CONTROL.sub("", line)
