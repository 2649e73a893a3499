"""The command line of a training command: the recipe's numbers as options, and how they are merged with the YAML."""

import argparse
from collections.abc import Mapping

import yaml

from common.errors import CommandParser, ExitCode, Problem, UserError
from common.settings import GROUPS, Recipe, load_recipe


def recipe_parser(description: str, options: Mapping[str, str], default_recipe: str) -> CommandParser:
    """Return the parser of a training command.

    ``options`` maps the command's own flags to settings, as in ``{"--lr": "training.learning_rate"}``; help texts come
    from the settings themselves, and ``--set group.key=value`` reaches every other one.
    """
    parser = CommandParser(description=description)
    run = parser.add_argument_group("the run")
    run.add_argument("--recipe", default=default_recipe, help="recipe: a name in recipes/, or a YAML file")
    run.add_argument("--run", metavar="NAME", help="name of the run in runs/ (default: the recipe's name)")
    run.add_argument("--smoke", action="store_true", help="the demo model and few steps: is everything in place?")
    run.add_argument("--check", action="store_true", help="check settings, data, memory, disk and model, then stop")
    run.add_argument("--resume", action="store_true", help="carry on the run from its last good checkpoint")
    run.add_argument("--force", action="store_true", help="resume although data, model or settings have changed")
    recipe = parser.add_argument_group("the recipe's numbers (the YAML's unless given)")
    for flag, key in options.items():
        group, name = key.split(".")
        recipe.add_argument(
            flag, dest=key, metavar=name.upper(), help=GROUPS[group].__dataclass_fields__[name].metadata["help"]
        )
    recipe.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE", help="any other setting")
    return parser


def recipe_from_options(args: argparse.Namespace, options: Mapping[str, str]) -> Recipe:
    """Merge the layers that ``args`` of a :func:`recipe_parser` names into one checked recipe."""
    given = {key: (getattr(args, key), flag) for flag, key in options.items() if getattr(args, key) is not None}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(Problem(f"--set {text}", "write --set GROUP.KEY=VALUE"), ExitCode.USAGE)
        given[key] = (yaml.safe_load(value) if value else None, "--set")
    return load_recipe(args.recipe, given, smoke=args.smoke)
