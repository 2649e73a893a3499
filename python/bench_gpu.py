"""Measure LoRA training on one CUDA GPU against TRL, in one run: runs/bench/gpu.json and a table.

  python python/bench_gpu.py                      Mistral-7B's shape, random weights, 2048 and 4096 tokens
  python python/bench_gpu.py --device cpu --shape small --lengths 64 --steps 2      does it run? No figure to quote

Every arm trains in a process of its own. The share of the matrix rate counts 4 operations a weight and token: forward,
and backward to the activations; a frozen weight has no gradient.
"""

from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command


def main() -> None:
    args = build_parser().parse_args()

    from common.benchmarks import gpu
    from common.benchmarks.apart import print_figures

    if args.worker:
        (length,) = args.lengths
        print_figures(gpu.run_arm(args.worker, args.shape, args.device, length, args.micro_batch, args.steps))
        return

    from common import hardware
    from common.benchmarks.probes import matrix_rate_tflops
    from common.footprint import count_multiplied
    from common.manifest import describe_git, package_versions
    from common.runs import runs_dir, utc_now, write_json

    if args.device == "cuda":
        hardware.pick_device("cuda")
    rate = matrix_rate_tflops(args.device)
    lengths = {length: {arm: measure(args, arm, length) for arm in args.arms} for length in args.lengths}
    weights = count_multiplied(gpu.SHAPES[args.shape])
    for arms in lengths.values():
        for figures in arms.values():
            if "error" not in figures:
                figures["matrix_rate_share"] = 4 * weights * figures["tokens_per_s"] / 1e12 / rate
    report = {
        "date": utc_now(),
        "device": args.device,
        "gpu": gpu_name(args.device),
        "shape": args.shape,
        "steps": args.steps,
        "sequences_per_step": args.micro_batch,
        "gemm_tflops": rate,
        "lengths": lengths,
        "versions": package_versions(),
        "hardware": hardware.describe(),
        "git": describe_git(),
    }
    path = runs_dir() / "bench" / "gpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    print_table(report)
    print(f"written to {path}")
    if all("error" in figures for arms in lengths.values() for figures in arms.values()):
        problem = Problem("no training ran", "their errors are above", "--steps 1 --arms ours tells whether ours does")
        raise UserError(problem, ExitCode.INTERNAL)


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    arms = ["trl_default", "trl_tuned", "ours"]
    parser.add_argument("--shape", default="mistral-7b", choices=["mistral-7b", "small"], help="shape of the model")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu shows only that it runs")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096], help="tokens a packed sequence")
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences an optimizer step, one after the other")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps, after two that are not counted")
    parser.add_argument("--arms", nargs="+", default=arms, choices=arms, help="which trainings to run")
    parser.add_argument("--worker", metavar="ARM", help="run one training here and print its figures")
    return parser


def measure(args, arm: str, length: int) -> dict:
    """Run one arm in a fresh process and return its figures, or why it has none."""
    from common.benchmarks.apart import run_apart

    words = ["--worker", arm, "--lengths", length, "--shape", args.shape, "--device", args.device]
    words += ["--micro-batch", args.micro_batch, "--steps", args.steps]
    try:
        return run_apart(Path(__file__), words)
    except UserError as error:
        return {"error": error.problems[0].what}


def gpu_name(device: str) -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if device == "cuda" else None


def print_table(report: dict) -> None:
    print(f"{report['gpu'] or 'CPU'}, {report['gemm_tflops']:.2f} TFLOP/s bf16 matrix rate, {report['shape']}")
    print(f"{'tokens':>6} {'arm':<12} {'tokens/s':>10} {'of rate':>8} {'peak GiB':>9}")
    for length, arms in report["lengths"].items():
        for arm, figures in arms.items():
            if "error" in figures:
                print(f"{length:>6} {arm:<12} {figures['error']}")
                continue
            rate, share, peak = (figures[key] for key in ("tokens_per_s", "matrix_rate_share", "peak_memory_gib"))
            print(f"{length:>6} {arm:<12} {rate:>10,.0f} {share:>8.1%} {peak:>9.1f}")


if __name__ == "__main__":
    run_command(main)
