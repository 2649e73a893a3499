"""How long a training takes, how much memory and how much disk: before anything is downloaded, loaded or written.

  python python/plan.py --recipe ba-cpu
  python python/plan.py --recipe ba-cpu --train mine.jsonl --val more.jsonl --set training.epochs=2

Lengths come from the data, shapes from the model's config, times from two layers of that very shape with random
weights, trained here for some seconds. The training finds its plan again, and says at its end how true it came.
"""

import json
import tempfile
from pathlib import Path

from common.errors import run_command
from common.options import PREVIEW_OPTIONS, preview_parser


def main() -> None:
    args = read_options()

    from common.jobs import requested_job
    from common.planning.options import list_options
    from common.planning.planning import make_plan
    from common.planning.records import keep_plan
    from common.planning.wording import print_plan

    job = requested_job(args, PREVIEW_OPTIONS)
    with tempfile.TemporaryDirectory() as stand_in:
        job.stand_in = Path(stand_in)
        plan = make_plan(job, probe=not args.no_probe)
        options = list_options(job, plan)
        if plan.train_s is not None:
            keep_plan(job, plan.to_dict())
        if args.json:
            record = plan.to_dict() | {"recipe": job.recipe.name, "options": [option.to_dict() for option in options]}
            print(json.dumps(record, indent=2, ensure_ascii=False))
        else:
            print_plan(job, plan, options)


def read_options():
    parser = preview_parser(__doc__)
    parser.add_argument("--recipe", default="demo", help="a name in recipes/, or a YAML file")
    parser.add_argument("--no-probe", action="store_true", help="train no slice: memory from the shape, no times")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
