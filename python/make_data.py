"""Generate the sample data of a recipe: synthetic, seeded, the same bytes on every machine.

python python/make_data.py                                          # every recipe, into runs/data/<recipe>/
python python/make_data.py --recipe ba-cpu --output recipes/demo/data
"""

import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, did_you_mean, run_command
from common.runs import runs_dir
from common.samples import business_analyst
from common.samples.files import write_splits

# Recipe name → a function of the seed that returns {split: rows}.
GENERATORS: dict[str, Callable[[int], dict[str, list[dict]]]] = {
    "ba-cpu": business_analyst.generate_dataset,
}


def main() -> None:
    options = parse_options()
    for recipe, folder in choose_folders(options.recipe, options.output).items():
        splits = GENERATORS[recipe](options.seed)
        for path, state in write_splits(folder, splits, force=options.force).items():
            print(f"{path}  {len(splits[path.stem])} rows  {state}")


def parse_options():
    parser = CommandParser(prog="make_data.py", description=__doc__)
    parser.add_argument("--recipe", default="all", metavar="NAME", help=f"all, {', '.join(GENERATORS)}")
    parser.add_argument("--seed", type=int, default=42, help="another seed, another data set")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the files (default: runs/data/<recipe>)")
    parser.add_argument("--force", action="store_true", help="replace files whose content differs")
    return parser.parse_args(sys.argv[1:])


def choose_folders(recipe: str, output: Path | None) -> dict[str, Path]:
    """Return recipe → folder. One recipe is written straight into ``output``, all of them into folders below it."""
    if recipe == "all":
        return {name: (output or runs_dir() / "data") / name for name in GENERATORS}
    if recipe not in GENERATORS:
        allowed = f"sample data exists for: {', '.join(GENERATORS)}, all"
        raise UserError(
            Problem(f"unknown recipe '{recipe}'", allowed, did_you_mean(recipe, GENERATORS) or "see --help"),
            ExitCode.USAGE,
        )
    return {recipe: output or runs_dir() / "data" / recipe}


if __name__ == "__main__":
    run_command(main)
