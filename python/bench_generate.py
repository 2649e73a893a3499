"""How quick is answering? Ours against one-by-one and plain batched `generate` of transformers, on the same prompts.

  python python/bench_generate.py                        the demo model, its 22 validation prompts
  python python/bench_generate.py --model runs/models/mistralai--Mistral-7B-Instruct-v0.1 --items 8 --max-new-tokens 64

Every way answers the same prompts greedily; their times are taken in turn, and the best of the repeats counts. The
outcome is printed and written to runs/bench/generate.json.
"""

from common.errors import CommandParser, run_command


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model", default="recipes/demo/model", help="a model folder or hub id")
    parser.add_argument("--data", default="recipes/demo/data/validation.jsonl", help="where the prompts come from")
    parser.add_argument("--items", type=int, help="only so many prompts (default: all)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="an answer is cut there")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "nf4"), help="of the weights")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32], help="tried with plain generate")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    return parser


def main() -> None:
    args = build_parser().parse_args()

    from common.benchmarks.generation import describe_result, measure_generation
    from common.runs import runs_dir, write_json

    result = measure_generation(args)
    path = runs_dir() / "bench" / "generate.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    print(describe_result(result))
    print(f"written to {path}")


if __name__ == "__main__":
    run_command(main)
