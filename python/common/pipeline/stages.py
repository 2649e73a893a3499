"""Stages that are done once: each remembers what it was made from, and is done again only when that has changed.

A stage is a command of this project in a process of its own, so that a failure, or memory that is not given back, stays
there. What became of each is kept in pipeline.json, from which the next call goes on.
"""

import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from common import runs
from common.errors import ExitCode, Problem, UserError, print_error
from common.hashing import sha256_of
from common.runs import launch, utc_now

STATE_FILE = "pipeline.json"
_HASHED_BYTES = 2**26  # larger files, weights of a large model, are told apart by size and time
_ENDED_BY_USER = (ExitCode.STOPPED, 128 + signal.SIGHUP, 128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass
class Stage:
    """A command line with the files it reads and those it must leave behind.

    ``needs`` are names of stages without which this one cannot run; ``any_of`` names of which one must be done.
    ``run`` is the run that a training stage makes, which is resumed where it was interrupted. ``extra`` adds words to
    the command once it is known which stages are done.
    """

    name: str
    command: list[str]
    inputs: Sequence[Path] = ()
    outputs: Sequence[Path] = ()
    needs: Sequence[str] = ()
    any_of: Sequence[str] = ()
    run: str | None = None
    extra: Callable[[set[str]], list[str]] = field(default=lambda done: [])


class Pipeline:
    """Runs stages in order and keeps their state in ``folder``. One's failure leaves the others alone."""

    def __init__(self, stages: Sequence[Stage], folder: Path):
        self.stages, self.folder = list(stages), folder
        self.state: dict[str, dict] = {}

    def run(self) -> dict[str, dict]:
        """Run what is to be done and return name → state, exit code, seconds of every stage.

        Raises UserError: 75 while another process runs this pipeline, 73 when its folder cannot be written.
        """
        done: set[str] = set()
        begin = time.monotonic()
        with self._hold_folder():
            for number, stage in enumerate(self.stages, start=1):
                spent = timedelta(seconds=round(time.monotonic() - begin))
                entry = self._run_stage(stage, done, f"[{number}/{len(self.stages)}, {spent}] {stage.name}")
                self.state[stage.name] = entry
                self._write()
                if entry["state"] == "done":
                    done.add(stage.name)
                if entry["state"] == "stopped":
                    break
        return {stage.name: self.state[stage.name] for stage in self.stages if stage.name in self.state}

    @contextmanager
    def _hold_folder(self) -> Iterator[None]:
        """Keep other pipelines out of the folder, and read what the last one left there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            what = f"cannot write in {self.folder}: {error.strerror}"
            raise UserError(Problem(what, next_step="choose another folder"), ExitCode.CANNOT_CREATE) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = self.folder / STATE_FILE
            self.state = runs.read_json(path)["stages"] if path.is_file() else {}
            yield
        except BlockingIOError:
            what = f"another process runs the pipeline in {self.folder}"
            raise UserError(Problem(what, "one at a time", "wait for it, or --output_dir"), ExitCode.STOPPED) from None
        finally:
            os.close(descriptor)

    def _run_stage(self, stage: Stage, done: set[str], label: str) -> dict:
        missing = [name for name in stage.needs if name not in done]
        if missing or (stage.any_of and not done & set(stage.any_of)):
            wanted = ", ".join(missing or stage.any_of)
            print(f"{label}: left out, for it needs {wanted}", flush=True)
            return {"state": "left out", "needs": wanted}
        command = [*stage.command, *stage.extra(done)]
        before = self.state.get(stage.name, {})
        key = self._key(stage, command)
        if before.get("key") == key and before["state"] == "done" and self._is_as_left(stage, before):
            print(f"{label}: done already", flush=True)
            return before
        if self._is_finished_since(stage, before, key):
            print(f"{label}: finished since", flush=True)
            return before | {"state": "done", "exit_code": 0, "ended_at": utc_now(), "left": self._digests(stage)}
        resume = self._can_resume(stage, before, key)
        print(f"{label}: {'goes on' if resume else 'begins'}", flush=True)
        begin = time.monotonic()
        try:
            if resume:
                command = [*command[:2], "--resume", "--run", stage.run]
            elif stage.run:
                set_aside(stage.run)  # before the key is written: whoever finds the key may resume the run
            self.state[stage.name] = {"state": "running", "key": key, "started_at": utc_now()}
            self._write()
            code = launch.run_here(command)
        except UserError as error:
            print_error(error)
            key, code = None, int(error.exit_code)
        seconds = round(time.monotonic() - begin, 1)
        missing_files = [str(path) for path in stage.outputs if not path.exists()]
        state = "done" if code == 0 and not missing_files else "stopped" if code in _ENDED_BY_USER else "failed"
        print(f"{label}: {state} after {seconds:.0f} s" + (f", exit code {code}" if code else ""), flush=True)
        entry = {"state": state, "key": key, "exit_code": code, "seconds": seconds, "ended_at": utc_now()}
        return entry | ({"left": self._digests(stage)} if state == "done" and stage.run else {})

    def _is_as_left(self, stage: Stage, before: dict) -> bool:
        """Are the outputs there, and those of a run the very ones that this pipeline made?"""
        if not all(path.exists() for path in stage.outputs):
            return False
        return "left" not in before or before["left"] == self._digests(stage)

    def _digests(self, stage: Stage) -> dict[str, str]:
        return {path.name: _digest(path) for path in stage.outputs}

    def _is_finished_since(self, stage: Stage, before: dict, key: str) -> bool:
        """Has a run that was stopped, killed, or left alone by a killed pipeline come to its end meanwhile?"""
        if stage.run is None or before.get("key") != key or before["state"] not in ("stopped", "running", "failed"):
            return False
        folder = runs.run_folder(stage.run)
        if not all(path.exists() for path in stage.outputs) or runs.read_status(folder)["state"] != "completed":
            return False
        return runs.read_json(folder / "run.json").get("argv", [])[1:] == stage.command[2:]

    def _can_resume(self, stage: Stage, before: dict, key: str) -> bool:
        if stage.run is None or before.get("key") != key:
            return False
        folder = runs.run_folder(stage.run)
        return (folder / "run.json").is_file() and runs.read_status(folder)["state"] != "completed"

    def _key(self, stage: Stage, command: list[str]) -> str:
        """What the stage's result depends on: its command and the content of the files it reads."""
        files = {str(path): _digest(path) for path in stage.inputs if path.is_file()}
        return hashlib.sha256(json.dumps([command[1:], files], sort_keys=True).encode()).hexdigest()

    def _write(self) -> None:
        runs.write_json(self.folder / STATE_FILE, {"updated_at": utc_now(), "stages": self.state})


def _digest(path: Path) -> str:
    """Return what tells whether a file has changed."""
    stat = path.stat()
    return sha256_of(path) if stat.st_size <= _HASHED_BYTES else f"{stat.st_size} bytes of {stat.st_mtime_ns}"


def set_aside(name: str) -> None:
    """Nothing is overwritten: an old run of this name, and the folder it may link to, get another name.

    Raises UserError (75) when the run is running.
    """
    place = runs.runs_dir() / name
    if not place.is_symlink() and not place.exists():
        return
    if place.exists() and runs.read_status(place)["running"]:
        raise UserError(
            Problem(f"run '{name}' is running", "a run ends before it is made anew", f"make stop RUN={name}"),
            ExitCode.STOPPED,
        )
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    real = place.resolve()
    if real.exists():
        other = real.with_name(f"{real.name}-{stamp}")
        real.rename(other)
        print(f"run {name} is kept as {other}", flush=True)
    if place.is_symlink():
        place.unlink()
