"""The command line of a training command: the recipe's numbers as options, and how they are merged with the YAML."""

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.errors import CommandParser, ExitCode, Problem, UserError
from common.recipes import load_recipe
from common.schema import read_value
from common.settings import GROUPS, Recipe

_NEXT_SETTING = re.compile(r"\s+(?=[a-z_]+\.[a-z_]+=)")
# What a command takes that looks at a training before it starts: whatever changes what the training needs.
PREVIEW_OPTIONS = {
    "--model": "model.name",
    "--revision": "model.revision",
    "--train": "data.train",
    "--val": "data.validation",
    "--num-gpus": "training.ranks",
    "--output": "output.folder",
}
# What the medical commands share: the names their users know, and those that the launchers use.
MEDICAL_OPTIONS = {
    "--model_name": "model.name",
    "--base-model": "model.name",
    "--precision": "model.precision",
    "--data_path": "data.train",
    "--train": "data.train",
    "--val": "data.validation",
    "--max_length": "data.max_length_tokens",
    "--output_dir": "output.folder",
    "--output": "output.folder",
    "--num_epochs": "training.epochs",
    "--learning_rate": "training.learning_rate",
    "--batch_size": "training.micro_batch",
    "--seed": "training.seed",
}


def recipe_parser(
    description: str, options: Mapping[str, str], default_recipe: str, *, kind: str | None = None
) -> CommandParser:
    """Return the parser of a training command.

    ``options`` maps the command's own flags to settings, as in ``{"--lr": "training.learning_rate"}``; help texts come
    from the settings themselves, and ``--set group.key=value`` reaches every other one. ``kind`` is the one kind of
    method that the command trains.
    """
    parser = CommandParser(description=description)
    parser.set_defaults(kind=kind)
    run = parser.add_argument_group("the run")
    run.add_argument("--recipe", default=default_recipe, help="recipe: a name in recipes/, or a YAML file")
    run.add_argument("--run", metavar="NAME", help="name of the run in runs/ (default: the recipe's name)")
    run.add_argument("--smoke", action="store_true", help="the demo model and few steps: is everything in place?")
    run.add_argument("--check", action="store_true", help="check settings, data, memory, disk and model, then stop")
    run.add_argument("--resume", action="store_true", help="carry on the run from its last good checkpoint")
    run.add_argument("--force", action="store_true", help="resume although data, model or settings have changed")
    _add_numbers(parser, options)
    return parser


def preview_parser(description: str) -> CommandParser:
    """Return the parser of a command that looks at a training before it starts, with :data:`PREVIEW_OPTIONS`."""
    parser = CommandParser(description=description)
    parser.set_defaults(kind=None, resume=False, force=False)
    parser.add_argument(
        "--run", metavar="NAME", help="name the run would get (default: the recipe's, numbered if taken)"
    )
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top")
    _add_numbers(parser, PREVIEW_OPTIONS)
    return parser


def _add_numbers(parser: CommandParser, options: Mapping[str, str]) -> None:
    """Add ``options``, a flag for each setting or several, and ``--set`` for every other one."""
    recipe = parser.add_argument_group("the recipe's numbers (the YAML's unless given)")
    for key in dict.fromkeys(options.values()):
        group, name = key.split(".")
        flags = [flag for flag, its_key in options.items() if its_key == key]
        recipe.add_argument(
            *flags, dest=key, metavar=name.upper(), help=GROUPS[group].__dataclass_fields__[name].metadata["help"]
        )
    recipe.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE", help="any other setting")


def recipe_from_options(args: argparse.Namespace, options: Mapping[str, str]) -> Recipe:
    """Merge the layers that ``args`` of one of these parsers names into one checked recipe."""
    given = _read_given(args, options)
    recipe = load_recipe(args.recipe, given, smoke=args.smoke)
    if "training.ranks" in given and recipe.training.ranks > 1 and not recipe.training.deepspeed:
        asked, flag = recipe.training.ranks, given["training.ranks"][1]
        what = f"{flag} asks for {asked} ranks, and one process trains {recipe.name}"
        raise UserError(Problem(what, "several ranks need training.deepspeed, as in frida-h100"), ExitCode.USAGE)
    if args.kind and recipe.method.kind != args.kind:
        what = f"recipe {recipe.name} has method.kind {recipe.method.kind}"
        raise UserError(
            Problem(what, f"this command trains {args.kind}", f"use python/{recipe.command}.py"), ExitCode.CONFIG
        )
    return recipe


def leaves_validation(args: argparse.Namespace, options: Mapping[str, str]) -> bool:
    """True when ``args`` name training examples, and the validation examples are left to the recipe."""
    given = _read_given(args, options)
    return "data.train" in given and "data.validation" not in given


def _read_given(args: argparse.Namespace, options: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Return what the command line sets, as :func:`load_recipe` takes it."""
    flags = {key: flag for flag, key in reversed(options.items())}
    given = {key: (getattr(args, key), flag) for key, flag in flags.items() if getattr(args, key) is not None}
    given |= read_settings(args.set)
    if "data.train" in given:
        given |= _look_into_folder(*given["data.train"], given)
    return given


def read_settings(texts: Iterable[str]) -> dict[str, tuple[Any, str]]:
    """Return what the words of --set give, as :func:`load_recipe` takes it; of make, one SET= holds several of them.

    Raises UserError (64).
    """
    given = {}
    for text in (word for several in texts for word in _NEXT_SETTING.split(several.strip())):
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(Problem(f"--set {text}", "write --set GROUP.KEY=VALUE"), ExitCode.USAGE)
        try:
            given[key] = (read_value(value), "--set")
        except ValueError as error:
            what = f"--set {text}: {error}"
            raise UserError(Problem(what, "a value in YAML, in quotes if it has signs"), ExitCode.USAGE) from None
    return given


def _look_into_folder(train: str, flag: str, given: Mapping[str, tuple]) -> dict[str, tuple[str, str]]:
    """Return the files to train on and to validate with where ``train`` is a folder of prepare_dataset.py."""
    folder = Path(train)
    if not folder.is_dir():
        return {}
    found = {}
    for key, names in _SPLITS.items():
        files = [folder / f"{name}.{ending}" for name in names for ending in ("jsonl", "json")]
        there = next((path for path in files if path.is_file()), None)
        if there:
            found[key] = (str(there), flag)
        elif key not in given or key == "data.train":
            what = " or ".join(f"{name}.jsonl" for name in names)
            problem = Problem(f"{flag} {train}: no {what} in this folder", next_step="name the file itself")
            raise UserError(problem, ExitCode.NO_INPUT)
    return {key: value for key, value in found.items() if key not in given or key == "data.train"}


_SPLITS = {"data.train": ("train",), "data.validation": ("validation", "val")}
