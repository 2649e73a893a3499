"""How long a training takes, how much memory and how much disk: before anything is downloaded, loaded or written.

  python python/plan.py --recipe ba-cpu
  python python/plan.py --recipe ba-cpu --train mine.jsonl --val more.jsonl --set training.epochs=2

Lengths come from the data, shapes from the model's config, times from two layers of that very shape with random
weights, trained here for some seconds. The training finds its plan again, and says at its end how true it came.
"""

import json
import tempfile
from pathlib import Path

from common.errors import CommandParser, run_command

OPTIONS = {
    "--model": "model.name",
    "--revision": "model.revision",
    "--train": "data.train",
    "--val": "data.validation",
    "--output": "output.folder",
}


def main() -> None:
    args = read_options()

    from common.jobs import Job
    from common.options import recipe_from_options
    from common.planning.options import list_options
    from common.planning.planning import make_plan
    from common.planning.records import keep_plan
    from common.planning.wording import print_plan
    from common.runs import free_name

    recipe = recipe_from_options(args, OPTIONS)
    with tempfile.TemporaryDirectory() as stand_in:
        job = Job(recipe, args.run or free_name(recipe.name), stand_in=Path(stand_in))
        plan = make_plan(job, probe=not args.no_probe)
        options = list_options(job, plan)
        if plan.train_s is not None:
            keep_plan(job, plan.to_dict())
        if args.json:
            record = plan.to_dict() | {"recipe": recipe.name, "options": [option.to_dict() for option in options]}
            print(json.dumps(record, indent=2, ensure_ascii=False))
        else:
            print_plan(job, plan, options)


def read_options():
    parser = CommandParser(prog="plan.py", description=__doc__)
    parser.set_defaults(kind=None)
    parser.add_argument("--recipe", default="demo", help="a name in recipes/, or a YAML file")
    parser.add_argument("--run", metavar="NAME", help="name the run would get")
    parser.add_argument("--model", dest="model.name", metavar="NAME", help="another base model: a folder, or a hub id")
    parser.add_argument("--revision", dest="model.revision", metavar="HASH", help="its revision")
    parser.add_argument("--train", dest="data.train", metavar="FILE", help="training examples")
    parser.add_argument("--val", dest="data.validation", metavar="FILE", help="validation examples")
    parser.add_argument("--output", dest="output.folder", metavar="DIR", help="where the run would be written")
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE", help="any other setting")
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top")
    parser.add_argument("--no-probe", action="store_true", help="train no slice: memory from the shape, no times")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
