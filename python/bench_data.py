"""Measure the data pipeline against datasets.map on the same rows, tokenizer and number of processes.

Ours reads, checks, splits, leak-checks and tokenises, from process start to the last file; theirs only tokenises text
that lies ready. Result: runs/bench/data.json.

python python/bench_data.py                          # one million rows, about 1 GB, with the demo model's tokenizer
python python/bench_data.py --rows 50000 --model mistralai/Mistral-7B-Instruct-v0.2
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.settings import ModelSettings

PROCESSES = 2
MAX_LENGTH_TOKENS = 4096


def main() -> None:
    options = parse_options()

    from common import models
    from common.runs import runs_dir, write_json

    folder = models.find_model(ModelSettings(name=options.model))
    if options.part:
        print(json.dumps(PARTS[options.part](options.file, folder)))
        return
    bench = runs_dir() / "bench"
    bench.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".data-", dir=bench) as work:
        file = Path(work) / "rows.jsonl"
        write_rows(file, options.rows)
        measured = {part: run_part(part, file, folder) for part in PARTS}
        result = summarise(options, file.stat().st_size, measured)
    write_json(bench / "data.json", result)
    print(json.dumps(result, indent=2, ensure_ascii=False))


def parse_options():
    parser = CommandParser(prog="bench_data.py", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of about 1 kB")
    parser.add_argument("--model", default="recipes/demo/model", metavar="NAME", help="model whose tokenizer is used")
    parser.add_argument("--part", choices=tuple(PARTS), help="measure one part on --file, and print it as JSON")
    parser.add_argument("--file", type=Path, metavar="FILE", help="rows for --part")
    return parser.parse_args()


def write_rows(path: Path, count: int) -> None:
    """Write question/answer rows of about 1 kB: words drawn as in natural text (a few common, most rare), seeded."""
    import numpy as np

    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    ranks = np.arange(1, 20_001)
    lengths = [1 + rank.bit_length() // 4 for rank in ranks.tolist()]  # rare words are longer
    vocabulary = np.array(["".join(rng.choice(syllables, length)) for length in lengths], object)
    heights = np.cumsum(1 / ranks)  # Zipf's law
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, count, 1000):
            number_of_words = rng.integers((15, 70), (55, 160), (1000, 2))
            places = rng.random(number_of_words.sum()) * heights[-1]
            words = iter(vocabulary[np.searchsorted(heights, places)].tolist())
            for number, (asked, answered) in enumerate(number_of_words.tolist()[: count - start], start):
                question, answer = " ".join(islice(words, asked)), " ".join(islice(words, answered))
                row = {"question": f"{question.capitalize()} {number}?", "answer": f"{answer.capitalize()}."}
                file.write(json.dumps(row) + "\n")


def measure_pipeline(file: Path, model: Path) -> dict:
    """Everything this project does with a file of rows before training. Timed from the start of the process."""
    from common import models
    from common.chat.pipeline import process_file
    from common.chat.worker import Job
    from common.data.checking import Rules
    from common.data.files import open_data_file
    from common.data.splits import split_shares

    job = Job(file.name, Rules(), models.load_tokenizer(model), MAX_LENGTH_TOKENS, shares=split_shares(0.9))
    with tempfile.TemporaryDirectory(prefix=".out-", dir=file.parent) as out:
        outcome = process_file(open_data_file(file), job, Path(out), workers=PROCESSES)
    return {"wall_s": None, "tokens": outcome.report.tokens, "cpu_s": sum(os.times()[:4])}


def measure_datasets_map(file: Path, model: Path) -> dict:
    """datasets.map(batched=True) calling the tokenizer on text that lies ready; only the map is timed."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            Problem("the package datasets is not installed", "it is what is compared with", "pip install datasets"),
            ExitCode.UNAVAILABLE,
        ) from None
    from common import models

    tokenizer = models.load_tokenizer(model)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix=".arrow-", dir=file.parent) as cache:
        rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
        ready = rows.map(join_texts, batched=True, remove_columns=rows.column_names)
        started, cpu_s = time.perf_counter(), sum(os.times()[:4])
        ready.map(
            lambda batch: tokenizer(batch["text"]), batched=True, num_proc=PROCESSES, remove_columns=ready.column_names
        )
        return {"wall_s": time.perf_counter() - started, "cpu_s": sum(os.times()[:4]) - cpu_s}


PARTS = {"pipeline": measure_pipeline, "datasets_map": measure_datasets_map}


def join_texts(batch: dict) -> dict:
    """Question and answer as one text in Mistral's template."""
    pairs = zip(batch["question"], batch["answer"], strict=True)
    return {"text": [f"[INST] {question} [/INST] {answer}</s>" for question, answer in pairs]}


def run_part(part: str, file: Path, model: Path) -> dict:
    """Run one part in a process of its own; add its time and the greatest memory of it and its children together."""
    import psutil

    command = [sys.executable, __file__, "--part", part, "--file", str(file), "--model", str(model.resolve())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    print(f"measuring {part} …", file=sys.stderr, flush=True)
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        process, peak_bytes = psutil.Process(child.pid), 0
        while child.poll() is None:
            peak_bytes = max(peak_bytes, sum(map(rss_bytes, [process, *children_of(process)])))
            time.sleep(0.1)
        output = child.stdout.read()
    wall_s = time.perf_counter() - started
    if child.returncode:
        raise UserError(Problem(f"measuring {part} failed with exit code {child.returncode}"), ExitCode.INTERNAL)
    measured = json.loads(output.splitlines()[-1])
    return measured | {"wall_s": measured["wall_s"] or wall_s, "peak_rss_gib": peak_bytes / 2**30}


def children_of(process) -> list:
    """The processes below one; none once it is gone."""
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def rss_bytes(process) -> int:
    """Resident memory of a process; pages that several share count for each. 0 once it is gone."""
    import psutil

    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def summarise(options, size_bytes: int, measured: dict[str, dict]) -> dict:
    """Return the content of data.json."""
    from common import hardware

    ours, theirs = measured["pipeline"], measured["datasets_map"]
    return {
        "rows_per_s": round(options.rows / ours["wall_s"]),
        "peak_rss_gib": round(ours["peak_rss_gib"], 2),
        "ratio_vs_datasets_map": round(theirs["wall_s"] / ours["wall_s"], 2),
        "cpu_ratio_vs_datasets_map": round(theirs["cpu_s"] / ours["cpu_s"], 2),
        "rows": options.rows,
        "bytes": size_bytes,
        "tokens": ours["tokens"],
        "processes": PROCESSES,
        "model": options.model,
        "pipeline": ours,
        "datasets_map": theirs,
        "machine": hardware.describe(),
        "load_average": os.getloadavg(),
        "date": datetime.now(UTC).date().isoformat(),
    }


if __name__ == "__main__":
    run_command(main)
