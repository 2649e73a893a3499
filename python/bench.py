"""Measure this project's CPU training against its peers, on this machine, in one run: runs/bench/cpu.json and a table.

  python python/bench.py                       a 4-layer Mistral shape with random weights
  python python/bench.py --layers 2 --repeats 1 --steps 2
  python python/bench.py --model runs/models/random-mistral-7b

Every arm trains the same examples for the same number of steps in a process of its own; arms take turns, and medians of
the repeats are compared. The slowest by far, TRL as it comes, runs once. Ratios are seconds of the other arm over ours:
above 1 we are faster.
"""

import os
from pathlib import Path
from statistics import median

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.settings import ModelSettings


def main() -> None:
    args = build_parser().parse_args()
    for name in ("layers", "steps", "repeats"):
        if getattr(args, name) < 1:
            raise UserError(Problem(f"--{name} is {getattr(args, name)}", "at least 1", f"--{name} 3"), ExitCode.USAGE)
    if args.worker:
        from common.benchmarks.apart import print_figures
        from common.benchmarks.trainings import run_arm

        arm, data = args.worker
        print_figures(run_arm(arm, Path(args.model), Path(data), args.steps))
        return

    from common import hardware, model_files
    from common.benchmarks import summary
    from common.benchmarks.probes import gradient_difference, matrix_rate_tflops
    from common.benchmarks.trainings import EXAMPLES_PER_STEP, RUN_ONCE
    from common.benchmarks.workloads import WORKLOADS, write_workload
    from common.random_model import require_model
    from common.runs import runs_dir, utc_now, write_json

    named = model_files.find_model(ModelSettings(name=args.model)) if args.model else None
    model = named or require_model("mistral-7b", args.layers)
    folder = runs_dir() / "bench"
    data = {name: folder / "data" / name / "train.jsonl" for name in WORKLOADS}
    examples = {name: write_workload(name, args.steps * EXAMPLES_PER_STEP, data[name]) for name in WORKLOADS}
    measured = {name: {arm: [] for arm in args.arms} for name in args.workloads}
    rates = [matrix_rate_tflops()]
    again = [arm for arm in args.arms if arm not in RUN_ONCE]
    trainings = len(args.workloads) * (len(args.arms) + (args.repeats - 1) * len(again))
    print(f"{trainings} trainings of {args.steps} steps, one after the other; each is told when it ends", flush=True)
    for repeat in range(1, args.repeats + 1):
        for workload in args.workloads:
            for arm in args.arms if repeat == 1 else again:
                figures = measure(arm, model, data[workload], args.steps)
                measured[workload][arm].append(figures)
                print(f"{repeat}/{args.repeats} {workload:<7} {arm:<12} {figures['seconds']:8.1f} s", flush=True)
                rates.append(matrix_rate_tflops())

    report = {
        "date": utc_now(),
        "machine": hardware.describe(),
        "model": str(model),
        "steps": args.steps,
        "repeats": args.repeats,
        "gemm_tflops": median(rates),
        "gradient_rel_diff": gradient_difference(),
        "workloads": {
            name: summary.summarise(model, examples[name], measured[name], median(rates)) for name in args.workloads
        },
    }
    write_json(folder / "cpu.json", report)
    summary.print_table(report)
    print(f"written to {folder / 'cpu.json'}")


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model", help="a model folder (default: random weights of the Mistral shape)")
    parser.add_argument("--layers", type=int, default=4, help="decoder layers of the random model")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of eight examples")
    parser.add_argument("--repeats", type=int, default=3, help="how often each arm runs")
    parser.add_argument("--workloads", nargs="+", default=["shared", "plain"], choices=["shared", "plain"])
    arms = ["trainer", "trl_tuned", "trl_default", "ours"]
    parser.add_argument(
        "--arms",
        nargs="+",
        default=arms,
        choices=[*arms, "ours_int8"],
        help="which trainings (default: all but the last)",
    )
    parser.add_argument("--worker", nargs=2, metavar=("ARM", "DATA"), help="run one training and print its figures")
    return parser


def measure(arm: str, model: Path, data: Path, steps: int) -> dict[str, float]:
    """Run one arm in a fresh process and return its figures."""
    from common.benchmarks.apart import run_apart
    from common.runs.launch import training_environment

    environment = (
        training_environment() if arm.startswith("ours") else os.environ
    )  # as the launchers start it, and as it comes
    words = ["--model", model, "--steps", steps, "--worker", arm, data]
    return run_apart(Path(__file__), words, environment=environment)


if __name__ == "__main__":
    run_command(main)
