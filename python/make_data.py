"""Generate the sample data of a recipe: synthetic, seeded, the same bytes on every machine.

python python/make_data.py                                          # every recipe, into runs/data/
python python/make_data.py --recipe ba-cpu --output recipes/demo/data
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from common.errors import CommandParser, ExitCode, Problem, UserError, did_you_mean, run_command
from common.runs import runs_dir
from common.samples import business_analyst, frida, medical, regulations, yoda
from common.samples.files import write_splits


class Source(NamedTuple):
    """What makes a recipe's data (a function of the seed: file stem → rows) and its folder in runs/data."""

    generate: Callable[[int], dict[str, list[dict]]]
    folder: str


MEDICAL = Source(medical.generate_dataset, "medical")  # one file: three methods are compared on it
SOURCES: Mapping[str, Source] = {
    "ba-cpu": Source(business_analyst.generate_dataset, "ba-cpu"),
    "frida-h100": Source(frida.generate_dataset, "frida-h100/raw"),  # format.py reads them there
    "medical-qlora": MEDICAL,
    "medical-adapter": MEDICAL,
    "medical-ptuning": MEDICAL,
    "yoda-mps": Source(yoda.generate_dataset, "yoda-mps"),
    "yoda-mps-smoke": Source(yoda.generate_few_words, "yoda-mps-smoke"),  # shipped in recipes/demo/data/yoda
    "utn-qlora": Source(regulations.generate_dataset, "utn-qlora"),
}


def main() -> None:
    options = parse_options()
    for folder, source in choose_folders(options.recipe, options.output).items():
        files = source.generate(options.seed)
        for path, state in write_splits(folder, files, force=options.force).items():
            print(f"{path}  {len(files[path.stem])} rows  {state}")


def parse_options():
    parser = CommandParser(prog="make_data.py", description=__doc__)
    parser.add_argument("--recipe", default="all", metavar="NAME", help=f"all, {', '.join(SOURCES)}")
    parser.add_argument("--seed", type=int, default=42, help="another seed, another data set")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the files (default: in runs/data)")
    parser.add_argument("--force", action="store_true", help="replace files whose content differs")
    return parser.parse_args(sys.argv[1:])


def choose_folders(recipe: str, output: Path | None) -> dict[Path, Source]:
    """Return folder → source. One recipe is written straight into ``output``, all of them into folders below it."""
    if recipe == "all":
        return {(output or runs_dir() / "data") / source.folder: source for source in SOURCES.values()}
    if recipe not in SOURCES:
        allowed = f"sample data exists for: {', '.join(SOURCES)}, all"
        raise UserError(
            Problem(f"unknown recipe '{recipe}'", allowed, did_you_mean(recipe, SOURCES) or "see --help"),
            ExitCode.USAGE,
        )
    source = SOURCES[recipe]
    return {output or runs_dir() / "data" / source.folder: source}


if __name__ == "__main__":
    run_command(main)
