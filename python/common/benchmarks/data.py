"""The data pipeline beside datasets.map: the same rows, tokenizer and number of processes.

Each part runs in a process of its own, timed, with the memory of it and its children watched.
"""

import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from common.benchmarks.apart import run_apart
from common.data.meter import meter
from common.errors import ExitCode, Problem, UserError

PROCESSES = 2
MAX_LENGTH_TOKENS = 4096
_ROW_BYTES = 1040  # about; for the meter


def write_rows(path: Path, count: int) -> None:
    """Write question/answer rows of about 1 kB: words drawn as in natural text (a few common, most rare), seeded."""
    import numpy as np

    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    ranks = np.arange(1, 20_001)
    lengths = [1 + rank.bit_length() // 4 for rank in ranks.tolist()]  # rare words are longer
    vocabulary = np.array(["".join(rng.choice(syllables, length)) for length in lengths], object)
    heights = np.cumsum(1 / ranks)  # Zipf's law
    with path.open("w", encoding="utf-8") as file, meter("writing rows", count * _ROW_BYTES) as advance:
        for start in range(0, count, 1000):
            advance(1000 * _ROW_BYTES)
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
    from common.chat.worker import FileJob
    from common.data.checking import Rules
    from common.data.files import open_data_file
    from common.data.splits import split_shares

    job = FileJob(file.name, Rules(), models.load_tokenizer(model), MAX_LENGTH_TOKENS, shares=split_shares(0.9))
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
    datasets.disable_progress_bars()  # they are not made for logs
    with tempfile.TemporaryDirectory(prefix=".arrow-", dir=file.parent) as cache:
        rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
        ready = rows.map(join_texts, batched=True, remove_columns=rows.column_names)
        tell(f"{len(ready):,} texts lie ready; datasets.map begins")
        started, cpu_s = time.perf_counter(), sum(os.times()[:4])
        ready.map(
            lambda batch: tokenizer(batch["text"]), batched=True, num_proc=PROCESSES, remove_columns=ready.column_names
        )
        return {"wall_s": time.perf_counter() - started, "cpu_s": sum(os.times()[:4]) - cpu_s}


def join_texts(batch: dict) -> dict:
    """Question and answer as one text in Mistral's template."""
    pairs = zip(batch["question"], batch["answer"], strict=True)
    return {"text": [f"[INST] {question} [/INST] {answer}</s>" for question, answer in pairs]}


def tell(line: str) -> None:
    """Say how far it is; the result goes to stdout, this does not."""
    print(line, file=sys.stderr, flush=True)


def run_part(command: Path, part: str, file: Path, model: Path) -> dict:
    """Run one part of ``command`` in a process of its own; add its time and the greatest memory of it and its children
    together.
    """
    import psutil

    peak_bytes = 0

    def watch(child) -> None:
        nonlocal peak_bytes
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak_bytes = max(peak_bytes, sum(map(rss_bytes, [process, *children_of(process)])))
            time.sleep(0.1)

    tell(f"measuring {part} …")
    started = time.perf_counter()
    words = ["--part", part, "--file", file, "--model", model.resolve()]
    measured = run_apart(command, words, quiet=False, watch=watch)
    wall_s = measured["wall_s"] or time.perf_counter() - started
    tell(f"{part}: {wall_s:,.1f} s, {peak_bytes / 2**30:.2f} GiB")
    return measured | {"wall_s": wall_s, "peak_rss_gib": peak_bytes / 2**30}


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


def summarise(rows: int, size_bytes: int, model: str, measured: dict[str, dict]) -> dict:
    """Return the content of data.json."""
    from common import hardware

    ours, theirs = measured["pipeline"], measured["datasets_map"]
    return {
        "rows_per_s": round(rows / ours["wall_s"]),
        "peak_rss_gib": round(ours["peak_rss_gib"], 2),
        "ratio_vs_datasets_map": round(theirs["wall_s"] / ours["wall_s"], 2),
        "cpu_ratio_vs_datasets_map": round(theirs["cpu_s"] / ours["cpu_s"], 2),
        "rows": rows,
        "bytes": size_bytes,
        "tokens": ours["tokens"],
        "processes": PROCESSES,
        "model": model,
        "pipeline": ours,
        "datasets_map": theirs,
        "machine": hardware.describe(),
        "load_average": os.getloadavg(),
        "date": datetime.now(UTC).date().isoformat(),
    }
