"""Talk to a model: a base, a run, or the checkpoint of any epoch; two of them give answers side by side.

python python/test_model.py --run demo                                                a chat with a finished run
python python/test_model.py --model recipes/demo/model                                the same with any model
python python/test_model.py --model runs/frida-h100/checkpoint-epoch-2 --batch        predefined prompts
python python/test_model.py --batch --model runs/a/checkpoint-epoch-1 --model runs/a/checkpoint-epoch-3
"""

import sys
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs.log import clean_line

PROMPTS = (
    "¿Dónde está la biblioteca?",
    "Where is the library, and until when is it open?",
    "What can you help me with?",
    "Gracias por tu ayuda.",
)


def main() -> None:
    args = build_parser().parse_args()
    models = args.model or ([] if args.run or args.finished else ["recipes/demo/model"])
    if len(models) > 2 - bool(args.run or args.finished):
        raise UserError(Problem("too many models", "one, or two side by side"), ExitCode.USAGE)
    interactive = args.interactive or (not args.batch and sys.stdin.isatty())
    if not interactive and not args.batch:
        raise UserError(
            Problem("no terminal to talk at", "--batch (of make, BATCH=1) answers predefined prompts"), ExitCode.USAGE
        )

    if args.run or args.finished:
        models = [find_run(args.run), *models]

    from common.generation import Decoding
    from common.generation.talking import choose_way, open_speaker

    how = choose_way(models, args.precision)

    decoding = Decoding(args.max_new_tokens, args.temperature)
    shared = {}
    speakers = [open_speaker(spec, decoding, models=shared, **how) for spec in models]
    if interactive:
        chat(speakers)
    else:
        for prompt in read_prompts(args.prompts):
            print(f"\n> {clean_line(prompt)}")
            answer_all(speakers, [[] for _ in speakers], prompt)


def build_parser() -> CommandParser:
    parser = CommandParser(prog="test_model.py", description=__doc__)
    add = parser.add_argument
    add("--model", "--model_path", "--model-path", action="append", metavar="PATH",
        help="run, adapter or model folder, or hub id; twice: side by side (default: the demo's model)")  # fmt: skip
    add("--run", metavar="NAME", help="a finished run, its base as it was in training; --model: another beside it")
    add("--finished", action="store_true", help="the only completed run, where --run is not given")
    add("--batch", action="store_true", help="answer predefined prompts and end")
    add("--interactive", action="store_true", help="a chat with memory; an empty line ends it")
    add("--prompts", type=Path, metavar="FILE", help="prompts of your own for --batch, one a line")
    add("--max-new-tokens", type=int, default=256, help="an answer is cut there")
    add("--temperature", type=float, default=0.0, help="0: greedy")
    add("--precision", choices=("fp32", "bf16", "nf4"), help="of the base's weights (default: the run's, or fp32)")
    return parser


def find_run(name: str | None) -> str:
    """Return the folder of a finished run. UserError 64, 66, 75 without one."""
    from common import runs
    from common.runs.choose import choose_finished

    name = choose_finished(name, "chat")
    folder = runs.run_folder(name)
    info = runs.read_json(folder / "training_info.json")
    print(f"run '{name}': {info['method_kind']} on {info['base_model']} in {info['precision']}")
    return str(folder)


def read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return list(PROMPTS)
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(f"cannot read {path}: {error}", "a text file, one prompt a line", "check the path")
        raise UserError(problem, ExitCode.NO_INPUT) from None
    if not prompts:
        raise UserError(Problem(f"{path} holds no prompt", "one a line"), ExitCode.DATA)
    return prompts


def chat(speakers: list) -> None:
    """Read questions until an empty line or the end of input; each speaker remembers its own answers."""
    histories: list[list] = [[] for _ in speakers]
    print("Ask something; an empty line ends the talk.")
    while True:
        try:
            prompt = input("\n> ").strip()
        except EOFError:
            return
        if not prompt:
            return
        answer_all(speakers, histories, prompt)


def answer_all(speakers: list, histories: list[list], prompt: str) -> None:
    """Print each speaker's answer to ``prompt`` as it comes, and remember it in its history."""
    for speaker, history in zip(speakers, histories, strict=True):
        if len(speakers) > 1:
            print(f"[{speaker.name}]")
        for piece in speaker.reply(history, prompt):
            print(clean_line(piece), end="", flush=True)
        print()


if __name__ == "__main__":
    run_command(main)
