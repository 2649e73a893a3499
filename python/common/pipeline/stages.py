"""Stages that are done once: each remembers what it was made from, and is done again only when that has changed.

A stage is a command of this project in a process of its own, so that a failure, or memory that is not given back, stays
there. What became of each is kept in pipeline.json, from which the next call goes on.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import runs
from common.errors import ExitCode, Problem, UserError, print_error
from common.hashing import sha256_of
from common.runs import launch, utc_now

STATE_FILE = "pipeline.json"
_HASHED_BYTES = 2**26  # larger files, weights of a large model, are told apart by size and time


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
        path = folder / STATE_FILE
        self.state: dict[str, dict] = runs.read_json(path)["stages"] if path.is_file() else {}

    def run(self) -> dict[str, dict]:
        """Run what is to be done and return name → state, exit code, seconds of every stage."""
        done: set[str] = set()
        for number, stage in enumerate(self.stages, start=1):
            entry = self._run_stage(stage, done, f"[{number}/{len(self.stages)}] {stage.name}")
            self.state[stage.name] = entry
            self._write()
            if entry["state"] == "done":
                done.add(stage.name)
            if entry.get("exit_code") == ExitCode.STOPPED:
                break
        return {stage.name: self.state[stage.name] for stage in self.stages if stage.name in self.state}

    def _run_stage(self, stage: Stage, done: set[str], label: str) -> dict:
        missing = [name for name in stage.needs if name not in done]
        if missing or (stage.any_of and not done & set(stage.any_of)):
            wanted = ", ".join(missing or stage.any_of)
            print(f"{label}: left out, for it needs {wanted}", flush=True)
            return {"state": "left out", "needs": wanted}
        command = [*stage.command, *stage.extra(done)]
        before = self.state.get(stage.name, {})
        key = self._key(stage, command)
        if before.get("key") == key and before["state"] == "done" and all(path.exists() for path in stage.outputs):
            print(f"{label}: done already", flush=True)
            return before
        print(f"{label}: {'goes on' if self._can_resume(stage, before, key) else 'begins'}", flush=True)
        self.state[stage.name] = {"state": "running", "key": key, "started_at": utc_now()}
        self._write()
        begin = time.monotonic()
        try:
            code = launch.run_here(self._command(stage, command, before, key))
        except UserError as error:
            print_error(error)
            code = int(error.exit_code)
        seconds = round(time.monotonic() - begin, 1)
        missing_files = [str(path) for path in stage.outputs if not path.exists()]
        state = "done" if code == 0 and not missing_files else "stopped" if code == ExitCode.STOPPED else "failed"
        print(f"{label}: {state} after {seconds:.0f} s" + (f", exit code {code}" if code else ""), flush=True)
        return {"state": state, "key": key, "exit_code": code, "seconds": seconds, "ended_at": utc_now()}

    def _command(self, stage: Stage, command: list[str], before: dict, key: str) -> list[str]:
        """The stage's own command; of an interrupted run, unchanged, the one that carries it on."""
        if stage.run is None:
            return command
        if self._can_resume(stage, before, key):
            return [*command[:2], "--resume", "--run", stage.run]
        set_aside(stage.run)
        return command

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
        self.folder.mkdir(parents=True, exist_ok=True)
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
    if place.is_symlink():
        place.unlink()
        if not real.exists():
            return
    other = real.with_name(f"{real.name}-{stamp}")
    real.rename(other)
    print(f"run {name} is kept as {other}", flush=True)
