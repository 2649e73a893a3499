"""The kill soak: a training killed again and again, held against the same training left alone.

Both are started, and the killed one is carried on, by the commands a user has; the killer only watches the run's folder
and sends SIGKILL to every process of the run. Instants are drawn from a seed: anywhere in the start, anywhere in a
step, or inside a save. A kill counts as inside a save only if an uncommitted checkpoint is left behind to show it.
"""

import math
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import hardware
from common.calling import call
from common.errors import ExitCode, Problem, UserError
from common.manifest import describe_git, package_versions
from common.reliability.comparing import compare_runs, differing_files
from common.reliability.ground import clear_ground
from common.reliability.watching import Watch, committed_step, save_duration_s
from common.runs import read_json, read_status, runs_dir, utc_now
from common.runs.ending import end_leftovers, find_leftovers, wait_for_end
from common.runs.lock import is_held
from common.runs.log import LOG_FILE

ALONE, SURVIVOR = "uninterrupted", "survivor"
_OFTEN = ("--set", "training.save_every_minutes=0.01")  # more saves to kill; the result does not depend on it
_SAVE_SHARE = 0.45  # kills are aimed at a save while fewer than this share have hit one; a third is promised
_IDLE_S, _SHARP_S = 0.02, 0.0005  # how often the folder is looked at: usually, and while waiting for a save
_PATIENCE_S = 60.0


class Soak:
    """The soak of one recipe with one seed, in a folder of its own below runs/soak/."""

    def __init__(self, recipe: str, kills: int, seed: int, options: Sequence[str] = ()):
        stem = Path(recipe).stem + ("-smoke" if "--smoke" in options else "")
        self.recipe, self.kills, self.seed, self.options = recipe, kills, seed, list(options)
        self.folder = runs_dir() / "soak" / f"{stem}-seed{seed}"
        self.dice = random.Random(seed)
        self.events: list[dict[str, Any]] = []
        self.resumed = 0

    def run(self) -> dict[str, Any]:
        """Train undisturbed, train again under fire, compare; return the report.

        Raises UserError: 75 when another soak works in the folder, else what a start or a resume ended with.
        """
        began_s = time.monotonic()
        clear_ground(self.folder)
        try:
            self._train_alone()
            self._start(SURVIVOR, *_OFTEN)
            for number in range(1, self.kills + 1):
                if not self._kill_once(number):
                    break
                self._resume()
            self._wait(SURVIVOR)
        finally:
            for name in (ALONE, SURVIVOR):
                end_leftovers(read_status(self.folder / name, log_lines=0))
        return self._report(time.monotonic() - began_s)

    # -------------------------------------------------------------------------------------------------- both trainings

    def _train_alone(self) -> None:
        print(f"training {self.recipe} undisturbed", flush=True)
        began_s = time.monotonic()
        self._start(ALONE)
        watch = Watch(self.folder / ALONE)
        begun_s = time.monotonic()
        while not watch.last_step() and not watch.has_ended():
            time.sleep(_IDLE_S)
        self.load_s = time.monotonic() - begun_s  # from the run's beginning to its first step
        self._wait(ALONE)
        self.alone_s = time.monotonic() - began_s
        self.total_steps = read_json(self.folder / ALONE / "status.json")["total_steps"]
        self.save_s = save_duration_s(self.folder / ALONE)

    def _start(self, name: str, *more: str) -> None:
        call(self.folder, "start_run.py", "--recipe", self.recipe, "--run", name, *self.options, *more)

    def _resume(self) -> None:
        call(self.folder, "resume_run.py", "--run", SURVIVOR)
        self.resumed += 1

    def _wait(self, name: str) -> None:
        """Wait until the run has ended; UserError 70 when it did not complete."""
        while is_held(self.folder / name):
            time.sleep(_IDLE_S)
        status = read_status(self.folder / name)
        if status["state"] != "completed":
            lines = "; ".join(status["last_log_lines"])
            what = f"{name} is {status['state']}: {status['reason']}; {lines}"
            problem = Problem(what, next_step=f"its log is {self.folder / name / LOG_FILE}")
            raise UserError(problem, ExitCode.INTERNAL)

    # --------------------------------------------------------------------------------------------------------- killing

    def _kill_once(self, number: int) -> bool:
        """Kill the run once, at an instant drawn from the seed, and write down what was hit; False if it had ended."""
        folder = self.folder / SURVIVOR
        status = read_status(folder, log_lines=0)
        watch = Watch(folder)
        aim = self._choose_aim(number)
        target = math.ceil((number - 1 + self.dice.random()) / self.kills * self.total_steps)
        moment = self.dice.random()

        self._wait_for_moment(watch, aim, target, moment)
        if not [member for member in find_leftovers(status) if member.send(signal.SIGKILL)]:
            return False
        wait_for_end(folder, status, _PATIENCE_S, lambda _: None)
        left = watch.open_save()
        event = {
            "aim": aim,
            "step": watch.last_step(),
            "state": read_json(folder / "status.json")["state"],
            "inside_save": left is not None,
            "left_behind": sorted(path.name for path in left.iterdir()) if left else [],
            "committed_step": committed_step(folder),
        }
        self.events.append(event)
        hit = f"inside the save of {left.name}, {len(event['left_behind'])} files written" if left else event["state"]
        print(f"kill {number}/{self.kills} after step {event['step']}: {hit}", flush=True)
        return True

    def _choose_aim(self, number: int) -> str:
        hits = sum(event["inside_save"] for event in self.events)
        return "save" if hits < _SAVE_SHARE * number else self.dice.choice(("start", "step", "step"))

    def _wait_for_moment(self, watch: Watch, aim: str, target: int, moment: float) -> None:
        """Return when it is time to kill; at the latest when the finished adapter is being written."""
        if aim == "start":
            self._sleep(moment * self.load_s, watch)
            return
        while watch.last_step() < target and not watch.is_finishing() and not watch.has_ended():
            time.sleep(_IDLE_S)
        if aim == "step":
            self._sleep(moment * self._step_s(), watch)
            return
        while not watch.open_save() and not watch.is_finishing() and not watch.has_ended():
            time.sleep(_SHARP_S)
        time.sleep(moment * self.save_s)

    def _sleep(self, seconds: float, watch: Watch) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not watch.is_finishing() and not watch.has_ended():
            time.sleep(_IDLE_S)

    def _step_s(self) -> float:
        return read_json(self.folder / SURVIVOR / "status.json").get("step_s", 0.1)

    # ---------------------------------------------------------------------------------------------------------- report

    def _report(self, seconds: float) -> dict[str, Any]:
        comparison = compare_runs(self.folder / ALONE, self.folder / SURVIVOR)
        manifest = read_json(self.folder / ALONE / "run.json")
        attempts = read_json(self.folder / SURVIVOR / "run.json")["attempts"]
        return {
            "date": utc_now(),
            "recipe": manifest["recipe"],
            "seed": self.seed,
            "kills_asked": self.kills,
            "kills": len(self.events),
            "mid_save_kills": sum(event["inside_save"] for event in self.events),
            "resumed": self.resumed,
            "attempts": len(attempts),
            "sha256_uninterrupted": comparison["sha256"][0],
            "sha256_survivor": comparison["sha256"][1],
            "identical": comparison["identical"],
            "other_files": comparison["other_files"],
            "other_files_identical": not differing_files(comparison),
            "curves_part_at": comparison["curves_part_at"],
            "steps": self.total_steps,
            "dropout": manifest["settings"]["method"].get("dropout"),
            "seconds": round(seconds, 1),
            "seconds_uninterrupted": round(self.alone_s, 1),
            "machine": hardware.describe(),
            "versions": package_versions(),
            "git": describe_git(),
            "events": self.events,
        }
