"""Format question/answer files as {"text": "<s>[INST] question [/INST] answer </s>"} lines, as frIdA's data is kept.

python python/format.py --input raw/ --output runs/data/frida-h100/formatted_data.jsonl
"""

import json
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs import runs_dir


def main() -> None:
    options = parse_options()
    folder = runs_dir() / "data" / "frida-h100"
    source = options.input or folder / "raw"
    output = options.output or folder / "formatted_data.jsonl"

    from common.data import load_examples, parse_columns
    from common.data.formatting import format_mistral
    from common.data.problems import ProblemList, RowError
    from common.data.publishing import publish

    columns = parse_columns(options.columns) if options.columns else None
    problems, lines = ProblemList(), []
    for path in find_files(source, output):
        loaded = load_examples(path, columns=columns, on_bad_row=options.on_bad_row, allow_duplicates=True)
        print(f"{path}  {len(loaded):,} rows ({loaded.shape})", *loaded.notes, sep="\n  note: ")
        for example in loaded:
            try:
                lines.append(json.dumps({"text": format_mistral(example)}, ensure_ascii=False) + "\n")
            except RowError as error:
                problems.add(f"{example.source}: {error.reason}", error.allowed, error.next_step)
    if problems:
        raise problems.error()

    with publish(output.parent, [output.name], force=options.force) as work:
        (work / output.name).write_text("".join(lines), encoding="utf-8")
    print(f"{output}  {len(lines):,} rows written")


def parse_options():
    parser = CommandParser(prog="format.py", description=__doc__)
    parser.add_argument("--input", type=Path, metavar="PATH", help="file or folder (default: runs/data/frida-h100/raw)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: runs/data/frida-h100/formatted_data.jsonl"
    )
    parser.add_argument("--columns", nargs="+", metavar="NAME=COLUMN", help="such as prompt=Question completion=Answer")
    parser.add_argument("--on-bad-row", choices=("error", "drop"), default="error", help="rows that cannot be used")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    return parser.parse_args()


def find_files(source: Path, output: Path) -> list[Path]:
    """Return the data files to read, in the order of their names; the output is never one of them."""
    from common.data.files import FORMATS

    if not source.is_dir():
        return [source]
    ours = {output.resolve(), (source / "dataset_card.json").resolve()}
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in FORMATS and p.resolve() not in ours)
    if not files:
        raise UserError(
            Problem(f"no data files in {source}", f"known are {', '.join(FORMATS)}", "see --input"), ExitCode.NO_INPUT
        )
    return files


if __name__ == "__main__":
    run_command(main)
