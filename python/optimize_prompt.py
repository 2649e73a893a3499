"""Find a better prompt for a model: demonstrations, and instructions where a model can write them. DSPy's MIPROv2.

  python python/optimize_prompt.py --recipe demo                    the recipe's model on its training rows
  python python/optimize_prompt.py --model ollama:mistral:7b-instruct --train train.jsonl \\
      --proposer ollama:llama3.3:70b --output artifacts/dspy/local_base_optimized

Only training rows are used: some may be shown as demonstrations, others judge the candidates. The result is the JSON
state of a DSPy program with its score history, for `compare_ba_models.py --optimized`. Interrupted, the same command
goes on where it was; the same seed gives the same program. Exit codes: 0 done, 64-78 what was wrong (see the message).
"""

import sys

from common.errors import CommandParser, run_command


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    what = parser.add_argument_group("what is searched for")
    what.add_argument("--recipe", help="its model, training rows, limits and where its program is kept")
    what.add_argument("--model", help="a model folder or hub id, ollama:NAME, or openai:NAME@URL (the recipe's)")
    what.add_argument("--train", help="training rows (the recipe's)")
    what.add_argument("--output", help="the program's file, or its folder (the recipe's, or runs/dspy/RECIPE/)")
    what.add_argument("--proposer", metavar="MODEL", help="writes instructions; 'none' (default: the model, if able)")
    what.add_argument("--metric", metavar="MODULE:FUNCTION", help="how answers are scored (the recipe's)")
    effort = parser.add_argument_group("how hard it is searched for")
    effort.add_argument("--demonstrations", type=int, default=2, metavar="K", help="at most so many in a prompt")
    effort.add_argument("--dev", type=int, default=32, metavar="N", help="training rows that judge, a third at most")
    effort.add_argument("--candidates", type=int, default=8, metavar="N", help="sets of demonstrations, the empty too")
    effort.add_argument("--trials", type=int, default=12, metavar="N", help="candidates that are scored")
    effort.add_argument("--max-new-tokens", type=int, metavar="N", help="an answer is cut there (the recipe's)")
    effort.add_argument("--seed", type=int, default=42, help="of the split and the search")
    return parser


def main() -> None:
    args = build_parser().parse_args()

    from common.generation.programs import SEARCH_KEY
    from common.optimizing.search import search_program
    from common.optimizing.setup import set_up
    from common.runs import write_json

    task, cache, output = set_up(args)
    program = search_program(task, cache, sys.stderr)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, program)

    found = program[SEARCH_KEY]
    print(f"\ndev score {100 * found['score']:.1f} % on {len(found['dev_rows'])} training rows kept back")
    print(f"demonstrations: {', '.join(found['demonstrations']) or 'none'}")
    if found["instructions"]:
        print(f"instructions: {' '.join(found['instructions'].split())}")
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"program: {output}")


if __name__ == "__main__":
    run_command(main)
