"""class Run: the run folder in the hands of the process that trains."""

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from common.errors import ExitCode, Problem, StoppedRun, UserError
from common.runs import processes
from common.runs.claim import DISK_ERRNOS, cannot_create, claim, write_error
from common.runs.folders import MANIFEST_FILE, read_json, run_folder, runs_dir, utc_now, write_json
from common.runs.lock import RunLock
from common.runs.log import LOG_FILE, capture_output
from common.runs.status import STATES, STATUS_FILE, STOP_REQUEST_FILE, read_end

METRICS_FILE = "metrics.jsonl"
LAUNCH_VARIABLE = "RECETARIO_LAUNCH"  # NAME:TOKEN from the background launcher, inherited by all the run's processes
_STATUS_INTERVAL_S = 1.0
_SECOND_SIGNAL_S = 1.0


def _holder_record() -> dict:
    return {**processes.Identity.of_self().to_json(), "since": utc_now()}


class Run:
    """A run folder that this process holds. Use as a context manager: leaving it writes the final state.

    Files: run.json (manifest), status.json, metrics.jsonl, train.log, run.lock, stop-request.
    """

    def __init__(self, name: str, folder: Path, lock: RunLock, *, resumed: bool):
        self.name = name
        self.folder = folder
        self.resumed = resumed
        self._lock = lock
        self._manifest: dict | None = None
        self._stop_signal = threading.Event()
        self._last_interrupt_s = 0.0
        self._old_handlers: dict = {}
        self._written_s = -_STATUS_INTERVAL_S
        self._started_s = processes.boot_clock_s()
        self._guard = threading.RLock()
        launch = os.environ.get(LAUNCH_VARIABLE, "")
        launched = launch.startswith(f"{name}:")  # else it is that of a run which has started this one as a part
        self._status = {
            "name": name,
            "state": "starting",
            **processes.Identity.of_self().to_json(),
            "session": os.getsid(0) if launched else None,
            "launch": launch if launched else None,
            "folder_inode": folder.stat().st_ino,
            "resumed": resumed,
            "started_at": utc_now(),
            "started_boot_clock_s": round(self._started_s, 3),
            "oom_kills": processes.oom_kills(),
        }

    @classmethod
    def create(cls, name: str, output: str | Path | None = None) -> "Run":
        """Make the folder of a new run and take its lock.

        The folder is runs/<name>, or ``output`` with runs/<name> a link to it. UserError as in
        :func:`check_available`, and 73 or 74 when it cannot be written.
        """
        os.umask(0o077)  # a run folder may hold what its data held: for the owner only
        folder, lock = claim(name, output, _holder_record())
        try:
            run = cls(name, folder, lock, resumed=False)
            run._write_status(durable=True)
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def reopen(cls, name: str) -> "Run":
        """Take the lock of the existing run ``name`` to continue it.

        UserError 66 when there is none, 73 when it is completed or cannot be written, 75 when a process holds it.
        """
        os.umask(0o077)
        folder = run_folder(name)
        if not (folder / MANIFEST_FILE).is_file():
            raise UserError(
                Problem(f"there is no run '{name}' in {runs_dir()}", "", "make status lists the runs there are"),
                ExitCode.NO_INPUT,
            )
        try:
            lock = RunLock.acquire(folder, _holder_record())
        except OSError as error:
            raise write_error(error, folder) from error
        try:
            manifest = read_json(folder / MANIFEST_FILE)
            if "completed" in (read_end(folder), (manifest.get("attempts") or [{}])[-1].get("state")):
                raise cannot_create(f"run '{name}' is completed", "there is nothing left to do")
            (folder / STOP_REQUEST_FILE).unlink(missing_ok=True)
            run = cls(name, folder, lock, resumed=True)
            run._manifest = manifest
            run._write_status(durable=True)
            run._begin_attempt()
        except OSError as error:
            lock.release()
            raise write_error(error, folder) from error
        except BaseException:
            lock.release()
            raise
        return run

    def __enter__(self) -> "Run":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # the launcher has SIGHUP ignored
                    self._old_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind, error, _traceback) -> None:
        state, exit_code, line, replacement = self._verdict(error)
        with suppress(OSError, UserError):  # a full disk: the missing record then reads as crashed
            self._end_attempt(state, exit_code, line)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._lock.release()
        if replacement is not None:
            raise replacement from error

    # What was asked

    def write_manifest(self, manifest: dict) -> None:
        """Write run.json; the first call begins the run: from here on its output goes to train.log too.

        ``attempts`` is kept here: one entry a process that worked on the run, with its end when it had one.
        """
        first = self._manifest is None
        attempts = [] if first else self._manifest.get("attempts", [])
        self._manifest = {"name": self.name, **manifest, "attempts": attempts}
        if first:
            self._begin_attempt()
        else:
            self._write_file(MANIFEST_FILE, self._manifest)

    def manifest(self) -> dict:
        """Return a copy of run.json."""
        return json.loads(json.dumps(self._manifest or {}, default=str))

    # What is happening

    def update_status(self, state: str | None = None, **fields) -> None:
        """Merge ``fields`` into status.json; written at once when ``state`` changes, else at most once a second."""
        if state is not None and state not in STATES:
            raise ValueError(f"unknown state {state!r}; known: {', '.join(STATES)}")
        with self._guard:
            changed = state is not None and state != self._status["state"]
            self._status.update(fields)
            if changed:
                self._status["state"] = state
            if changed or time.monotonic() - self._written_s >= _STATUS_INTERVAL_S:
                self._write_status(durable=changed)

    def append_metrics(self, record: dict) -> None:
        """Append ``record`` to metrics.jsonl as one line, in one write."""
        line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
        try:
            with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise write_error(error, self.folder) from error

    def write_log(self, line: str) -> None:
        """Write ``line`` into train.log and nowhere else: for what a terminal shows in another form."""
        with suppress(OSError), (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def stop_requested(self) -> bool:
        """True once the run was asked to stop, by signal or by the stop-request file; cheap enough for every step."""
        return self._stop_signal.is_set() or (self.folder / STOP_REQUEST_FILE).exists()

    # Inside

    def _on_signal(self, number, _frame) -> None:
        now_s = time.monotonic()
        again = self._stop_signal.is_set() and now_s - self._last_interrupt_s > _SECOND_SIGNAL_S
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt
        self._last_interrupt_s = now_s
        if not self._stop_signal.is_set():
            self._stop_signal.set()
            more = " (Ctrl-C again: end at once, without saving)" if number == signal.SIGINT else ""
            os.write(2, f"\n{signal.Signals(number).name}: stopping at the next safe point{more}\n".encode())

    def _begin_attempt(self) -> None:
        self._manifest.setdefault("attempts", []).append(
            {
                "started_at": self._status["started_at"],
                "argv": list(sys.argv),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "boot_id": self._status["boot_id"],
                "resumed": self.resumed,
                "launch": self._status["launch"],
            }
        )
        capture_output(self.folder / LOG_FILE)  # first: the launcher takes its log away once it sees the attempt
        self._write_file(MANIFEST_FILE, self._manifest)

    def _end_attempt(self, state: str, exit_code: int, line: str | None) -> None:
        with self._guard:
            self._status.update(state=state, exit_code=exit_code, error=line, ended_at=utc_now())
            for estimate in ("eta_s", "next_save_s"):
                self._status.pop(estimate, None)
            self._write_status(durable=True)
            if self._manifest is not None:
                end = {"ended_at": self._status["ended_at"], "state": state, "exit_code": exit_code, "error": line}
                self._manifest["attempts"][-1].update(end)
                write_json(self.folder / MANIFEST_FILE, self._manifest)
            (self.folder / STOP_REQUEST_FILE).unlink(missing_ok=True)

    def _verdict(self, error: BaseException | None) -> tuple[str, int, str | None, UserError | None]:
        """Return final state, exit code, error line, and the error to raise in place of ``error``."""
        if error is None:
            return "completed", 0, None, None
        if isinstance(error, StoppedRun | KeyboardInterrupt):
            return "stopped", int(ExitCode.STOPPED), None, None
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            state = {0: "completed", int(ExitCode.STOPPED): "stopped"}.get(code, "failed")
            return state, code, f"exit code {code}" if state == "failed" else None, None
        if isinstance(error, UserError):
            return "failed", int(error.exit_code), str(error.problems[0]), None
        if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
            replacement = write_error(error, self.folder)
            return "failed", int(replacement.exit_code), str(replacement), replacement
        return "failed", int(ExitCode.INTERNAL), f"{type(error).__name__}: {error}".splitlines()[0], None

    def _write_file(self, file_name: str, value) -> None:
        try:
            write_json(self.folder / file_name, value)
        except OSError as error:
            raise write_error(error, self.folder) from error

    def _write_status(self, *, durable: bool) -> None:
        self._written_s = time.monotonic()
        self._status["updated_at"] = utc_now()
        self._status["elapsed_s"] = round(processes.boot_clock_s() - self._started_s, 1)
        rss_gib = processes.rss_gib(os.getpid()) or 0.0
        self._status["rss_gib"] = rss_gib
        self._status["peak_rss_gib"] = max(rss_gib, self._status.get("peak_rss_gib") or 0.0)
        try:
            write_json(self.folder / STATUS_FILE, self._status, durable=durable)
        except OSError as error:
            raise write_error(error, self.folder) from error
