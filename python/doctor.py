"""Check this machine and all that a recipe needs: one numbered line each, with the remedy where something is wrong.

python python/doctor.py ba-cpu
python python/doctor.py ba-cpu --train mine.jsonl --val more.jsonl --set model.precision=nf4
"""

import shlex

from common.errors import run_command
from common.options import PREVIEW_OPTIONS, preview_parser


def main() -> int:
    args = read_options()

    from common import checks
    from common.jobs import requested_job
    from common.preparation import check_job

    job = requested_job(args, PREVIEW_OPTIONS)
    outcomes = checks.check_machine() + check_job(job)
    return checks.conclude(outcomes, f"ready: {training_line(args)}")


def read_options():
    parser = preview_parser(__doc__)
    parser.add_argument("recipe", nargs="?", default="demo", help="a name in recipes/, or a YAML file")
    return parser.parse_args()


def training_line(args) -> str:
    """Return the line that starts what was looked at."""
    given = {"RECIPE": args.recipe, "SMOKE": "1" * args.smoke, "RUN": args.run}
    given |= {flag.strip("-").replace("-", "_").upper(): getattr(args, key) for flag, key in PREVIEW_OPTIONS.items()}
    given["SET"] = " ".join(args.set)
    return shlex.join(["make", "train", *(f"{name}={value}" for name, value in given.items() if value)])


if __name__ == "__main__":
    run_command(main)
