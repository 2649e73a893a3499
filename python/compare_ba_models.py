"""Is fine-tuning worth it over a better prompt? Three or four arms answer the same held-out items; a verdict, reasons.

  python python/compare_ba_models.py --run demo                          base model, better prompt, tuned
  python python/compare_ba_models.py --baseline ollama:mistral:7b-instruct --finetuned runs/ba-cpu \\
      --optimized artifacts/dspy/local_base_optimized --dataset test.jsonl --train train.jsonl --output report.json

An arm is a model folder or hub id, a run or adapter folder, ollama:NAME, or openai:NAME@URL. The optimised arm is the
baseline with the prompt of a DSPy program (JSON state, file or folder, as `make optimize` writes it), or with
demonstrations drawn from the training data. Beside report.json lie its .md and .html forms and scores.png. Run again
after an interruption, it goes on where it stopped. Exit codes: 0 compared, 1 with --gate unless the verdict is
ADOPT, 65 when a test item is known to an arm, 69 when a server stays away.
"""

import sys

from common.comparison.thresholds import Thresholds
from common.errors import CommandParser, ExitCode, run_command


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    arms = parser.add_argument_group("what is compared")
    arms.add_argument("--run", help="a finished run: its base model, its adapter, its data")
    arms.add_argument("--recipe", help="the run named after this recipe")
    arms.add_argument("--smoke", action="store_true", help="the smoke run of --recipe (ba-cpu unless given)")
    arms.add_argument("--baseline", help="the plain model (of --run: its base model)")
    arms.add_argument("--optimized", help="a DSPy program, or a model (the recipe's program, or the baseline)")
    arms.add_argument("--finetuned", help="the fine-tuned model (of --run: its adapter)")
    arms.add_argument("--dataset", help="held-out items (of --run: its validation data)")
    arms.add_argument("--train", help="training data: demonstrations, leak check (of --run: its training data)")
    arms.add_argument("--output", help="report.json; the other reports go beside it (of --run: runs/NAME/compare/)")
    arms.add_argument("--demonstrations", type=int, metavar="K", help="so many drawn ones instead of a program")
    arms.add_argument("--fourth-arm", action="store_true", help="also the fine-tuned model with the optimised prompt")
    arms.add_argument("--metric", metavar="MODULE:FUNCTION", help="how answers are scored (the recipe's)")
    decoding = parser.add_argument_group("how answers are drawn, the same for every arm")
    decoding.add_argument("--max-new-tokens", type=int, metavar="N", help="an answer is cut there (the recipe's)")
    decoding.add_argument(
        "--temperature", type=float, default=0.0, help="0 is greedy; 0.7 is a usual choice for sampling"
    )
    decoding.add_argument(
        "--samples", type=int, default=1, metavar="K", help="answers an item; their mean is its score"
    )
    decoding.add_argument("--seed", type=int, default=0, help="of sampling and of the choice of demonstrations")
    decoding.add_argument("--fresh", action="store_true", help="ask again what was answered in an earlier comparison")
    verdict = parser.add_argument_group("what the fine-tuned model must reach")
    verdict.add_argument(
        "--adopt-score", type=float, default=Thresholds.adopt_score, help="least mean score, a fraction"
    )
    verdict.add_argument(
        "--adopt-gain", type=float, default=Thresholds.adopt_gain, help="least gain over the prompt, a fraction"
    )
    verdict.add_argument("--gate", action="store_true", help="exit code 1 unless the verdict is ADOPT")
    return parser


def main() -> ExitCode:
    args = build_parser().parse_args()

    from common.comparison.comparing import compare
    from common.comparison.history import keep_report
    from common.comparison.setup import Progress, open_cache, set_up
    from common.report import write_reports
    from common.report.run_page import is_of_run, write_run_page
    from common.report.terminal import print_summary

    work, output = set_up(args)
    cache = open_cache(output, fresh=args.fresh)
    report = compare(work, cache=cache, progress=Progress(sys.stderr))
    moved = keep_report(report, output.parent)
    paths = write_reports(report, output)
    if is_of_run(output):
        write_run_page(output.parent.parent)

    print_summary(report)
    if moved:
        print(moved)
    print(f"report: {paths[2]}")
    adopted = report["comparison"]["decision"]["verdict"] == "ADOPT"
    return ExitCode.GATE if args.gate and not adopted else ExitCode.OK


if __name__ == "__main__":
    run_command(main)
