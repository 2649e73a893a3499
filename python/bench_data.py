"""Measure the data pipeline against datasets.map on the same rows, tokenizer and number of processes.

Ours reads, checks, splits, leak-checks and tokenises, from process start to the last file; theirs only tokenises text
that lies ready. Result: runs/bench/data.json.

python python/bench_data.py                          # one million rows, about 1 GB, with the demo model's tokenizer
python python/bench_data.py --rows 50000 --model mistralai/Mistral-7B-Instruct-v0.2
"""

import json
import tempfile
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.settings import ModelSettings

PARTS = ("pipeline", "datasets_map")


def main() -> None:
    options = parse_options()

    from common import model_files
    from common.benchmarks import data
    from common.benchmarks.apart import print_figures
    from common.runs import runs_dir, write_json

    folder = model_files.find_model(ModelSettings(name=options.model))
    if options.part:
        measure = {"pipeline": data.measure_pipeline, "datasets_map": data.measure_datasets_map}[options.part]
        print_figures(measure(options.file, folder))
        return
    bench = runs_dir() / "bench"
    bench.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".data-", dir=bench) as work:
        file = Path(work) / "rows.jsonl"
        data.write_rows(file, options.rows)
        measured = {part: data.run_part(Path(__file__), part, file, folder) for part in PARTS}
        result = data.summarise(options.rows, file.stat().st_size, options.model, measured)
    write_json(bench / "data.json", result)
    print(json.dumps(result, indent=2, ensure_ascii=False))


def parse_options():
    parser = CommandParser(prog="bench_data.py", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of about 1 kB")
    parser.add_argument("--model", default="recipes/demo/model", metavar="NAME", help="model whose tokenizer is used")
    parser.add_argument("--part", choices=PARTS, help="measure one part on --file, and print it as JSON")
    parser.add_argument("--file", type=Path, metavar="FILE", help="rows for --part")
    options = parser.parse_args()
    if options.rows < 1:
        raise UserError(Problem(f"--rows is {options.rows}", "at least 1"), ExitCode.USAGE)
    return options


if __name__ == "__main__":
    run_command(main)
