"""Judge a base model and the models tuned from it on the same test items: losses, answers, speed, size, cost.

  python python/evaluate_models.py --qlora_model runs/medical-qlora --adapter_model runs/medical-adapter \\
      --ptuning_model runs/medical-ptuning --test_data runs/data/medical_qa/test.jsonl

Every model gets the same items through the same encoding and decoding, one model in memory at a time. Each difference
to the base comes with its interval. The recommendation follows from the table and from the limits given. Beside the
JSON file lie its .md and .png forms. Interrupted, it goes on with the models that are not judged yet. Exit codes: 0
judged, 65 when a test item is in the training data, 66 and 78 for models that are not there or do not belong together.
"""

import sys
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    models = parser.add_argument_group("what is judged")
    models.add_argument("--base_model", metavar="NAME", help="the base (default: the one they were tuned from)")
    models.add_argument("--qlora_model", metavar="DIR", help="run or adapter folder of the QLoRA model")
    models.add_argument("--adapter_model", metavar="DIR", help="the same of the bottleneck adapters")
    models.add_argument("--ptuning_model", metavar="DIR", help="the same of the p-tuned model")
    models.add_argument("--test_data", required=True, metavar="FILE", help="items no model has seen (JSONL, JSON, CSV)")
    models.add_argument("--output_file", default="evaluation_results.json", metavar="FILE", help="the report")
    models.add_argument("--check_merge", action="store_true", help="also write LoRA into the weights and compare")
    decoding = parser.add_argument_group("how answers are drawn, the same for every model")
    decoding.add_argument("--max_new_tokens", type=int, metavar="N", help="an answer is cut there (the recipe's)")
    decoding.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    decoding.add_argument("--seed", type=int, default=0, help="of sampling")
    limits = parser.add_argument_group("limits for the recommendation (none unless given)")
    limits.add_argument("--max_memory_gib", type=float, metavar="GIB", help="peak memory of the training")
    limits.add_argument("--max_adapter_mib", type=float, metavar="MIB", help="adapter on disk")
    limits.add_argument("--min_token_f1", type=float, metavar="FRACTION", help="token F1 of the answers")
    return parser


def main() -> None:
    args = build_parser().parse_args()

    from common.checks import check_writable
    from common.comparison.held_out import check_separation
    from common.comparison.setup import Progress
    from common.evaluation.candidates import open_candidates, read_limits, read_test, training_data
    from common.evaluation.judging import Judged, judge
    from common.evaluation.recommending import Limits
    from common.generation import Decoding
    from common.generation.programs import Prompt
    from common.report.evaluation import print_evaluation, write_evaluation

    output = output_path(args.output_file)
    limits = Limits(args.max_memory_gib, args.max_adapter_mib, args.min_token_f1)
    named = {"qlora": args.qlora_model, "adapter": args.adapter_model, "ptuning": args.ptuning_model}
    candidates = open_candidates(args.base_model, {name: folder for name, folder in named.items() if folder})
    tokens = read_limits(candidates)
    new_tokens = tokens.max_new_tokens if args.max_new_tokens is None else args.max_new_tokens
    decoding = Decoding(new_tokens, args.temperature, args.seed)
    check_writable(str(output.parent))
    test = read_test(args.test_data, candidates)
    seen = training_data(candidates)
    if not seen:
        print("note: nothing tells what the models were trained on, so the items were not looked for in it")
    check_separation(test, seen, Prompt())

    judged = Judged(output.with_suffix(".partial.json"))
    report = judge(candidates, test, decoding, limits, tokens.max_length_tokens, Progress(sys.stderr), judged)
    paths = write_evaluation(report, output)
    print_evaluation(report)
    print(f"report: {paths[1]}")
    if args.check_merge:
        from common.evaluation.merges import check_merges

        report["merge"] = check_merges(candidates, test, tokens.max_length_tokens)
        write_evaluation(report, output)
    judged.forget()


def output_path(name: str) -> Path:
    """Return where the report goes; its .md and .png lie beside it. UserError (64) for what cannot be its name."""
    path = Path(name)
    if path.suffix != ".json" or path.is_dir():
        raise UserError(Problem(f"--output_file {name}", "a file name that ends in .json"), ExitCode.USAGE)
    return path


if __name__ == "__main__":
    run_command(main)
