"""Starting a training command, in the foreground or so that it outlives the terminal.

In the background the child gets a session of its own, with SIGHUP ignored before it runs: a closing terminal cannot
reach it, whatever its libraries do to signal handlers. Until it holds the lock it writes to a launch log of its own,
so a start that loses, or fails early, leaves nothing in the log of the run that holds the name.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs.claim import write_error
from common.runs.folders import MANIFEST_FILE, ROOT, read_json, runs_dir
from common.runs.log import LAUNCH_LOG_VARIABLE, LOG_FILE, clean_line, last_lines
from common.runs.run import LAUNCH_VARIABLE

# Training reads local files only, and its log is for reading: no questions to the hub, no bars, no buffering. GNU's
# OpenMP is not to spin for long: threads that wait for one that has no core slow each other many times over. oneDNN is
# not to keep 1,024 compiled products, of 1.7 MB each with AMX, for packs of lengths that do not come again; and glibc's
# heap is in large pages, for a page costs a microsecond each time that it comes back. docs/fast-path.md has figures.
TRAINING_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "GOMP_SPINCOUNT": "1000",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_POLL_S = 0.05


def command_line(script: str, *arguments: str) -> list[str]:
    """Return the command that runs ``script`` (a path in the project) with this Python.

    UserError 78 when there is no such script in the project: a manifest is data, it may not name just any program.
    """
    path = (ROOT / script).resolve()
    if not path.is_relative_to(ROOT) or path.suffix != ".py" or not path.is_file():
        raise UserError(
            Problem(f"'{script}' is no command of this project", "commands are files in python/"), ExitCode.CONFIG
        )
    return [sys.executable, str(path), *arguments]


def run_here(command: list[str]) -> int:
    """Run ``command`` in the foreground and return its exit code, 128 + N when signal N ended it.

    Ctrl-C and a closing terminal reach it from the terminal itself; SIGTERM, which reaches this process alone, is
    passed on. What to do about them is for the command to decide.
    """
    sys.stdout.flush()
    child = subprocess.Popen(command, env=training_environment())
    answers = {signal.SIGINT: signal.SIG_IGN, signal.SIGHUP: signal.SIG_IGN}
    answers[signal.SIGTERM] = lambda *_: child.terminate()
    before = {number: signal.signal(number, answer) for number, answer in answers.items()}
    try:
        code = child.wait()
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)
    return code if code >= 0 else 128 - code


def check_first(command: list[str]) -> None:
    """Run the pre-flight of ``command``, its output for the user; leave with its exit code when it finds something."""
    sys.stdout.flush()
    code = subprocess.run([*command, "--check"], env=training_environment(), check=False).returncode
    if code != 0:
        raise SystemExit(code if code > 0 else 128 - code)


def start_in_background(command: list[str], name: str, carry=lambda command, environment: command) -> int:
    """Start ``command`` as run ``name`` and return its pid once the run has begun: lock held, manifest written.

    ``carry`` gets command and environment, and returns the command with what must be said in it.
    When it ends before that, what it said goes to stderr and SystemExit carries its exit code.
    """
    token = f"{name}:{uuid.uuid4().hex}"
    environment = {**training_environment(), LAUNCH_VARIABLE: token}
    launch_log = _make_launch_log()
    environment[LAUNCH_LOG_VARIABLE] = str(launch_log)
    try:
        with launch_log.open("ab") as output:
            before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited through exec
            child = subprocess.Popen(
                carry(command, environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
            signal.signal(signal.SIGHUP, before)
        while not _has_begun(name, token):
            code = child.poll()
            if code is not None and not _has_begun(name, token):
                _show_last_words(launch_log, name, child.pid)
                raise SystemExit(code if code > 0 else 128 - code if code < 0 else int(ExitCode.INTERNAL))
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGTERM)  # a group that is ours: the child leads it and was not waited for
        raise
    finally:
        launch_log.unlink(missing_ok=True)
    child.returncode = 0  # it is on its own now: no warning that it was not waited for
    return child.pid


def training_environment() -> dict[str, str]:
    """Return this environment with the defaults of training; what the user has set stays."""
    return {**TRAINING_ENVIRONMENT, **os.environ}


def _make_launch_log() -> Path:
    try:
        runs_dir().mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(prefix=".launch-", suffix=".log", dir=runs_dir())
    except OSError as error:
        raise write_error(error, runs_dir()) from error
    os.close(descriptor)
    return Path(path)


def _has_begun(name: str, token: str) -> bool:
    with suppress(UserError, OSError, LookupError):
        return read_json(runs_dir() / name / MANIFEST_FILE)["attempts"][-1]["launch"] == token
    return False


def _show_last_words(launch_log: Path, name: str, pid: int) -> None:
    """Print what the child said before the run began; it may have moved that to the run's own log already."""
    with suppress(OSError):
        lines = [clean_line(line) for line in launch_log.read_text(encoding="utf-8", errors="replace").splitlines()]
        for line in lines[-20:] or [f"process {pid} ended before the run began, and said nothing"]:
            print(line, file=sys.stderr)
        return
    for line in last_lines(runs_dir() / name / LOG_FILE, 20):
        print(line, file=sys.stderr)
