"""The three medical methods end to end: data, QLoRA, bottleneck adapters, p-tuning, and one evaluation of them all.

  python python/run_all.py                                                generated questions, the recipes' numbers
  python python/run_all.py --input_data qa.jsonl --model_name org/name --num_epochs 3 --batch_size 8
  python python/run_all.py --smoke                                        on the demo model, in minutes

What is done and unchanged is not done again; a training that was interrupted goes on. When one method fails the others
are trained and judged all the same. Exit codes: 0 all done, else that of the first stage that failed.
"""

from pathlib import Path

from common import runs
from common.errors import CommandParser, ExitCode, run_command
from common.pipeline.medical import METHODS, SHARED, plan_stages
from common.pipeline.stages import Pipeline, Stage


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("--input_data", metavar="FILE", help="questions and answers (default: generated ones)")
    add("--output_dir", metavar="DIR", help="where the runs and the evaluation go (default: runs/ and runs/pipeline)")
    add("--processed_data_dir", metavar="DIR", help="where the splits go (default: runs/data/NAME)")
    for flag in (*SHARED, *(flag for flags in METHODS.values() for flag in flags)):
        owners = [method for method, flags in METHODS.items() if flag in flags]
        add(flag, metavar="VALUE", help=f"for {owners[0] if owners else 'all three'} (default: the recipe's)")
    for part in ("data_prep", *METHODS, "evaluation"):
        add(f"--skip_{part}", action="store_true", help=f"leave out {part.replace('_', ' ')}; what is there is used")
    add("--smoke", action="store_true", help="the demo model and few steps: is everything in place?")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    folder = Path(args.output_dir or runs.runs_dir() / ("pipeline-smoke" if args.smoke else "pipeline")).absolute()
    stages = plan_stages(args, folder)
    states = Pipeline(stages, folder).run()
    return report(stages, states, folder)


def report(stages: list[Stage], states: dict[str, dict], folder: Path) -> int:
    """Print what became of every stage and return the exit code of the first that failed."""
    print()
    for stage in stages:
        entry = states.get(stage.name, {"state": "not begun"})
        seconds = f"{entry['seconds']:.0f} s" if "seconds" in entry else ""
        why = f"exit code {entry['exit_code']}" if entry.get("exit_code") else entry.get("needs", "")
        print(f"{stage.name:<11} {entry['state']:<9} {seconds:>8}  {why}".rstrip())
    print(f"state: {folder / 'pipeline.json'}")
    if any(entry["state"] == "stopped" for entry in states.values()):
        print("stopped: the same command goes on from here")
        return ExitCode.STOPPED
    codes = [
        states[stage.name].get("exit_code") for stage in stages if states.get(stage.name, {}).get("state") == "failed"
    ]
    if codes:
        return codes[0] or ExitCode.INTERNAL
    return ExitCode.OK if all(entry["state"] == "done" for entry in states.values()) else ExitCode.NO_INPUT


if __name__ == "__main__":
    run_command(main)
