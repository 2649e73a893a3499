"""What survival costs: the share of a training's time that goes into commits and into status.

The recipe's own command trains, in this process; a stopwatch is put around the functions that exist for survival, and
around the whole training loop, evaluation included.
"""

import os
import runpy
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from common.errors import ExitCode, Problem, UserError
from common.recipes import load_recipe
from common.reliability.ground import clear_ground
from common.runs import ROOT, runs_dir

RUN = "overhead"


class Stopwatch:
    """Seconds and calls by part; a function that calls another of the same part is counted once."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._running: set[str] = set()

    def put_around(self, owner: Any, name: str, part: str) -> None:
        """Replace ``owner.name`` by a function that does the same and is timed as ``part``."""
        function: Callable = getattr(owner, name)

        @wraps(function)
        def timed(*args, **options):
            if part in self._running:
                return function(*args, **options)
            self._running.add(part)
            began_s = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds[part] += time.perf_counter() - began_s
                self.calls[part] += 1
                self._running.discard(part)

        setattr(owner, name, timed)


def measure_overhead(recipe: str, *, smoke: bool) -> dict[str, Any]:
    """Train ``recipe`` here and return seconds by part and the share of commits and status in the training's time.

    ``files`` is the writing of the checkpoint files themselves, which every trainer does; it is told, not counted.
    """
    command = ROOT / "python" / f"{load_recipe(recipe, smoke=smoke).command}.py"
    folder = runs_dir() / "bench" / "overhead"
    clear_ground(folder)
    os.environ["RECETARIO_RUNS"] = str(folder)
    watch = _set_up(Stopwatch())
    code = _run_command(command, "--recipe", recipe, "--run", RUN, *["--smoke"] * smoke)
    if code:
        raise UserError(Problem(f"the training ended with exit code {code}", "see above"), ExitCode(code))
    training_s = watch.seconds["training"]
    return {
        "recipe": recipe,
        "smoke": smoke,
        "seconds": {part: round(seconds, 4) for part, seconds in watch.seconds.items()},
        "calls": dict(watch.calls),
        "share_commits": watch.seconds["commits"] / training_s,
        "share_status": watch.seconds["status"] / training_s,
        "share": (watch.seconds["commits"] + watch.seconds["status"]) / training_s,
        "share_files": watch.seconds["files"] / training_s,
    }


def _set_up(watch: Stopwatch) -> Stopwatch:
    from common import checkpoints
    from common.epochs import Epochs
    from common.recipe_trainer import RecipeTrainer
    from common.runs import Run

    watch.put_around(RecipeTrainer, "train", "training")
    watch.put_around(RecipeTrainer, "_save_checkpoint", "files")
    watch.put_around(RecipeTrainer, "has_finite_weights", "commits")
    for name in ("commit_checkpoint", "rotate_checkpoints", "require_space", "size_bytes"):
        watch.put_around(checkpoints, name, "commits")
    for name in ("update_status", "append_metrics", "stop_requested"):
        watch.put_around(Run, name, "status")
    watch.put_around(Epochs, "write", "status")
    return watch


def _run_command(command: Path, *words: str) -> int:
    before, sys.argv = sys.argv, [str(command), *words]
    try:
        runpy.run_path(str(command), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0
