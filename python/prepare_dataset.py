"""Turn one data file into train, validation and test files, checked for everything that spoils a training.

python python/prepare_dataset.py --input_data qa.jsonl --output_dir runs/data/mine \\
    --model_name mistralai/Mistral-7B-Instruct-v0.2 --max_length 512 --train_size 0.8
"""

import json
from pathlib import Path

from common.errors import CommandParser, run_command
from common.settings import ModelSettings


def main() -> None:
    options = parse_options()

    from common.chat.card import CARD, describe_dataset, find_written
    from common.chat.pipeline import process_file
    from common.chat.worker import FileJob
    from common.data import check_unchanged, parse_columns
    from common.data.checking import Rules
    from common.data.files import open_data_file
    from common.data.publishing import publish
    from common.data.splits import split_shares
    from common.hashing import sha256_of
    from common.runs import runs_dir

    shares = {name: share for name, share in split_shares(options.train_size, options.validation_size).items() if share}
    columns = parse_columns(options.columns) if options.columns else None
    file = open_data_file(options.input_data)
    output = options.output_dir or runs_dir() / "data" / file.path.stem
    names = [*(f"{split}.jsonl" for split in shares), CARD]
    tokenizer = load_tokenizer(options.model_name, options.max_length)
    job = FileJob(
        file.name,
        Rules(
            columns,
            options.on_bad_row,
            options.allow_empty,
            options.allow_duplicates,
            options.allow_secrets,
        ),
        tokenizer,
        options.max_length,
        options.on_overlong,
        shares=shares,
        seed=options.seed,
        write_rows=True,
        write_tokens=False,
    )
    sha256 = sha256_of(file.path)
    with publish(output, names, force=options.force, replaced=find_written(output)) as work:
        outcome = process_file(file, job, work, workers=options.workers, allow_leak=options.allow_leak)
        check_unchanged(file.path, sha256)
        card = describe_dataset(file, sha256, job, options.model_name, outcome, work)
        (work / CARD).write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    for split, rows in outcome.sizes.items():
        print(f"{output / split}.jsonl  {rows:,} rows")
    for note in (*outcome.notes, *outcome.report.notes(options.max_length)):
        print(f"note: {note}")
    print(output / CARD)


def parse_options():
    parser = CommandParser(prog="prepare_dataset.py", description=__doc__)
    add = parser.add_argument
    add("--input_data", "--input-data", required=True, metavar="FILE", help="JSONL, JSON array, CSV, TSV or Parquet")
    add("--output_dir", "--output-dir", type=Path, metavar="DIR", help="default: runs/data/<name of the file>")
    add(
        "--model_name",
        "--model-name",
        metavar="NAME",
        help="model whose tokenizer measures (none: no lengths)",
    )
    add(
        *("--max_length", "--max-length", "--max_length_tokens", "--max-length-tokens"),
        type=int,
        default=512,
        metavar="N",
        help="longest example in tokens",
    )
    add("--train_size", "--train-size", type=float, default=0.8, metavar="SHARE", help="share of the rows for training")
    add("--validation_size", "--validation-size", type=float, metavar="SHARE", help="default: half of the rest")
    add("--seed", type=int, default=42, help="another seed, other splits")
    add("--columns", nargs="+", metavar="NAME=COLUMN", help="such as prompt=Question completion=Answer")
    add(
        "--on-overlong",
        "--on_overlong",
        choices=("error", "drop", "truncate-prompt"),
        default="error",
        help="examples over the limit: refuse, leave out, or take from the beginning of the prompt (never the answer)",
    )
    add("--on-bad-row", "--on_bad_row", choices=("error", "drop"), default="error", help="rows that cannot be used")
    add("--allow-empty", action="store_true", help="let empty answers pass")
    add("--allow-duplicates", action="store_true", help="let more than a tenth of the rows be repeats")
    add("--allow-secrets", action="store_true", help="let what looks like keys and tokens pass")
    add("--allow-leak", action="store_true", help="let splits share rows or passages of 13 words; the card counts them")
    add("--workers", type=int, metavar="N", help="processes (default: one a CPU for large files; 0: this one only)")
    add("--force", action="store_true", help="replace what is there")
    return parser.parse_args()


def load_tokenizer(model: str | None, max_length: int):
    """Load the tokenizer that measures, after checking that its model can hold the limit."""
    if not model:
        return None
    from common import model_files, models
    from common.chat.dataset import check_limit

    tokenizer = models.load_tokenizer(model_files.find_model(ModelSettings(name=model)))
    check_limit(tokenizer, max_length)
    return tokenizer


if __name__ == "__main__":
    run_command(main)
