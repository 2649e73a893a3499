"""Write a model of a real model's shape with random weights: to measure speed and memory without any download.

  python python/make_random_model.py --shape mistral-7b                  14.5 GB in runs/models/random-mistral-7b
  python python/make_random_model.py --shape mistral-7b --layers 4       the same layers, fewer of them

It computes what the real one computes, at the same cost; what it says is noise. Tokenizer: that of the demo model.
"""

import shutil
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.models import copy_tokenizer
from common.random_model import default_folder, write_model
from common.shapes import DEMO_MODEL, SHAPES


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--shape", default="mistral-7b", choices=sorted(SHAPES), help="whose shape")
    parser.add_argument("--layers", type=int, help="number of decoder layers (default: the shape's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    parser.add_argument("--output", type=Path, help="folder (default: runs/models/random-SHAPE[-Nlayers])")
    args = parser.parse_args()
    if args.layers is not None and args.layers < 1:
        raise UserError(Problem(f"--layers {args.layers}", "at least 1"), ExitCode.USAGE)

    folder = args.output or default_folder(args.shape, args.layers)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what, allowed = f"{folder} is there already", "an empty folder, or none"
        problem = Problem(what, allowed, "delete it, or choose another with --output")
        raise UserError(problem, ExitCode.CANNOT_CREATE)

    shape = SHAPES[args.shape] | ({"num_hidden_layers": args.layers} if args.layers else {})
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        what = f"cannot write in {folder.parent}: {error.strerror}"
        raise UserError(Problem(what, next_step="choose another with --output"), ExitCode.CANNOT_CREATE) from error
    write_model(shape, draft, seed=args.seed)
    copy_tokenizer(DEMO_MODEL, draft)
    draft.rename(folder)
    print(f"wrote {folder}")


if __name__ == "__main__":
    run_command(main)
