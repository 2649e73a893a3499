"""Kill a training with SIGKILL again and again, resume it each time, and compare its adapter with an undisturbed one's.

  python python/soak.py --recipe demo --kills 20 --seed 0
  python python/soak.py --recipe frida-h100 --smoke --kills 12 --set training.max_steps=60

At least a third of the kills hit a save. The report is runs/soak/report.json, and a copy stays with the runs in
runs/soak/<recipe>-seed<N>/. Exit code 0: every kill survived, the same bytes; 1: something differs.
"""

from common import options
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.recipes import load_recipe


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--recipe", default="demo", help="a name in recipes/, or a YAML file")
    parser.add_argument("--kills", type=int, default=20, help="how many SIGKILLs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top: a few steps")
    parser.add_argument(
        "--set", action="append", default=[], metavar="GROUP.KEY=VALUE", help="any setting of the recipe"
    )
    args = parser.parse_args()
    if args.kills < 1:
        raise UserError(Problem(f"--kills is {args.kills}", "at least 1"), ExitCode.USAGE)

    given = options.read_settings(args.set)
    load_recipe(args.recipe, given, smoke=args.smoke)  # what is wrong with it is said before anything is written

    from common.reliability.soak import Soak
    from common.runs import runs_dir, write_json

    passed_on = ["--smoke"] * args.smoke + [word for text in args.set for word in ("--set", text)]
    soak = Soak(args.recipe, args.kills, args.seed, passed_on)
    report = soak.run()
    for path in (soak.folder / "report.json", runs_dir() / "soak" / "report.json"):
        write_json(path, report)
    print(describe(report))
    print(f"written to {path}")
    return ExitCode.OK if survived(report) else ExitCode.GATE


def survived(report: dict) -> bool:
    """True when every kill asked for was made, every byte that must be equal is, and no loss differs."""
    return (
        report["kills"] == report["kills_asked"]
        and report["identical"]
        and report["other_files_identical"]
        and report["curves_part_at"] is None
    )


def describe(report: dict) -> str:
    """Return the outcome in a few lines."""
    lines = [
        f"{report['kills']} kills, {report['mid_save_kills']} of them inside a save, {report['resumed']} resumed",
        f"uninterrupted {report['sha256_uninterrupted']}",
        f"survivor      {report['sha256_survivor']}",
    ]
    if survived(report):
        return "\n".join([*lines, f"identical, and so are {len(report['other_files'])} other files and every loss"])
    if report["kills"] < report["kills_asked"]:
        lines.append(f"the training ended before all {report['kills_asked']} kills were made: train for more steps")
    differing = [name for name, equal in report["other_files"].items() if not equal]
    part = report["curves_part_at"]
    curves = "every loss is the same" if part is None else f"the losses part at step {part}"
    differing += ["the adapter"] * (not report["identical"])
    return "\n".join([*lines, f"differing: {', '.join(differing) or 'nothing'}; {curves}"])


if __name__ == "__main__":
    run_command(main)
