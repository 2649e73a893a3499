"""A job: a recipe with every choice made, and what it works on."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.engine import count_ranks
from common.errors import ExitCode, Problem, UserError
from common.footprint import Footprint
from common.manifest import fingerprint
from common.options import leaves_validation, recipe_from_options
from common.recipes import restore_recipe
from common.runs import free_name, read_json, run_folder
from common.settings import Recipe

PROBE = "memory_probe"  # what a probe before step 1 found: its entry in run.json


@dataclass
class Job:
    """A recipe with every choice made, and what it works on. ``data`` and ``model`` are what run.json records."""

    recipe: Recipe
    run_name: str
    resume: bool = False
    force: bool = False
    model_folder: Path | None = None
    examples: dict[str, list] = field(default_factory=dict)
    tokenizer: Any = None
    train_set: Sequence = ()
    validation_set: Sequence = ()
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    breaks: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)  # check → what it says besides what it found
    engine: dict[str, Any] = field(default_factory=dict)  # DeepSpeed's configuration, completed
    memory: Footprint | None = None  # what it will take at its peak
    available_gib: float = 0.0  # the memory that was free before anything was loaded
    kept_bytes: float | None = None  # what a layer was measured to keep of a token for the backward pass
    asked_pack_tokens: int | None = None  # where a probe before step 1 chooses packs and which layers recompute
    stand_in: Path | None = None  # a folder for config and tokenizer, where planning does without the model
    assumed: list[str] = field(default_factory=list)

    def fingerprint(self) -> dict[str, Any]:
        """Return what the result depends on, as kept in every checkpoint."""
        return self.fingerprint_of(self.data, self.model)

    def fingerprint_of(self, data: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same with other data or another model, as run.json records them."""
        parts = fingerprint(self.recipe, data, model, count_ranks(self.recipe.training))
        return parts | {f"deepspeed.{key}": value for key, value in self.engine.items()}


def requested_job(args: argparse.Namespace, options: Mapping[str, str]) -> Job:
    """Return the job that a training command's options ask for, its settings checked and nothing else yet."""
    if not args.resume:
        recipe = recipe_from_options(args, options)
        job = Job(recipe, args.run or free_name(recipe.name), force=args.force)
        if leaves_validation(args, options):
            job.notes["validation"] = (
                "these are the recipe's own: what they tell of a model trained on other data is of little use;"
                " VAL= or --val names yours"
            )
        return job
    given = [flag for flag, key in options.items() if getattr(args, key) is not None] + args.set
    if not args.run or given:
        what = f"--resume with {given[0]}" if given else "--resume without --run NAME"
        allowed = "a resumed run keeps its settings: --resume --run NAME and nothing else"
        raise UserError(Problem(what, allowed), ExitCode.USAGE)
    path = run_folder(args.run) / "run.json"
    if not path.is_file():
        raise UserError(Problem(f"there is no run '{args.run}'", next_step="make status lists them"), ExitCode.NO_INPUT)
    manifest = read_json(path)
    measured = manifest.get(PROBE, {}).get("kept_bytes")
    return Job(restore_recipe(manifest["settings"]), args.run, resume=True, force=args.force, kept_bytes=measured)
