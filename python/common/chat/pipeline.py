"""A data file of any size, read, checked, split, leak-checked and encoded in bounded memory by several processes.

Blocks of rows go out to workers and come back in the order of the file; tokens and rows go straight to disk, a file for
each split; only hashes and lengths stay in memory (about 60 bytes a row).
"""

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.chat import worker
from common.chat.lengths import LengthReport
from common.chat.worker import FileJob, Part
from common.data.checking import RowChecker
from common.data.duplicates import check_duplicates, find_duplicates
from common.data.files import DataFile
from common.data.leaks import Contents, LeakReport, find_leaks, raise_leaks
from common.data.loading import file_notes, finish_check, first_row
from common.data.meter import meter
from common.data.overlaps import HashFile, NgramStore, sampling_stride
from common.data.rows import BLOCK_BYTES, iter_blocks
from common.data.splits import check_sizes
from common.errors import ExitCode, Problem, UserError
from common.hardware import usable_cores

SMALL_BYTES = 8 << 20  # below this, other processes take longer to start than to help
_AHEAD = 4  # blocks a worker may have waiting


@dataclass(slots=True)
class Outcome:
    """What became of a file: counts by split, and everything worth writing into a manifest or a data set's card."""

    sizes: dict[str, int]
    checker: RowChecker
    report: LengthReport
    duplicates: object
    leaks: LeakReport | None
    notes: list[str]
    token_lengths: dict[str, np.ndarray] = field(default_factory=dict)


def process_file(
    file: DataFile,
    job: FileJob,
    folder: Path,
    *,
    workers: int | None = None,
    allow_leak: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> Outcome:
    """Process ``file`` into ``folder`` (which exists and is empty): for each split ``<split>.jsonl`` (if the job writes
    rows) and ``<split>/`` with tokens (if it has a tokenizer; see :func:`common.chat.dataset.open_encoded`).

    ``workers`` 0 works in this process; by default as many as there are CPUs for files that are worth it. Raises
    UserError 65 for everything wrong with rows, lengths, splits, duplicates or leaks; ``folder`` may hold parts then.
    """
    job = replace(job, phrase_stride=sampling_stride(file.size_bytes))
    sink = Sink(job, folder)
    checker, report = RowChecker(file.name, job.rules), LengthReport()
    with sink, meter(f"reading {file.name}", file.size_bytes) as advance:
        for part, size_bytes in parts_of(file, job, workers, block_bytes):
            checker.merge(part.checker)
            if part.error:
                raise UserError(*part.error)
            if part.report:
                report.merge(part.report)
            sink.write(part)
            advance(size_bytes)
    finish_check(checker, file)
    if job.tokenizer is not None:
        report.check(job.max_length_tokens, job.on_overlong)
    notes = file_notes(file) + checker.notes(first_row(file))
    return sink.finish(checker, report, notes, allow_leak)


def parts_of(
    file: DataFile, job: FileJob, workers: int | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[Part, int]]:
    """Yield what became of each block, in order, with the block's share of the file's bytes."""
    if workers is None:
        workers = 0 if file.size_bytes < SMALL_BYTES else usable_cores().value
    blocks = iter_blocks(file, job.rules.max_row_chars, block_bytes)
    if workers < 1:
        local = worker.Worker(job)
        for block in blocks:
            yield local.work(block), block.size_bytes
        return
    context = multiprocessing.get_context("spawn")  # a forked process may hang in a library's threads
    pool = ProcessPoolExecutor(workers, context, worker.start, (job,))
    waiting: deque[tuple[Future, int]] = deque()
    try:
        for block in blocks:
            waiting.append((pool.submit(worker.work, block), block.size_bytes))
            if len(waiting) >= _AHEAD * workers:  # else the whole file would wait in the queue
                future, size_bytes = waiting.popleft()
                yield future.result(), size_bytes
        for future, size_bytes in waiting:
            yield future.result(), size_bytes
    except BrokenProcessPool as error:
        raise UserError(
            Problem("a worker process was killed", "most often for want of memory", "use fewer workers"),
            ExitCode.UNAVAILABLE,
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class Sink:
    """Takes parts in order: big arrays to disk, small ones kept."""

    def __init__(self, job: FileJob, folder: Path):
        self.job, self.folder, self.names = job, Path(folder), list(job.shares)
        self.small: dict[str, list[np.ndarray]] = {
            name: []
            for name in (
                *("numbers", "splits", "fingerprints", "kept", "lengths"),
                *("texts", "ngram_lengths", "phrase_lengths"),
            )
        }
        self.files: dict[str, object] = {}
        self._writes_tokens = job.tokenizer is not None and job.write_tokens

    def __enter__(self):
        if len(self.names) > 1:
            self._open("ngrams", self.folder / "ngrams.u64")
            self._open("phrases", self.folder / "phrases.u64")
        for name in self.names:
            if self._writes_tokens:
                (self.folder / name).mkdir()
                self._open(f"tokens {name}", self.folder / name / "tokens.u32")
            if self.job.write_rows:
                self._open(f"rows {name}", self.folder / f"{name}.jsonl")
        return self

    def __exit__(self, *_):
        with self._writing():
            for file in self.files.values():
                file.close()

    def flush(self) -> None:
        with self._writing():
            for file in self.files.values():
                file.flush()

    def write(self, part: Part) -> None:
        with self._writing():
            self._write(part)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a write that fails, for a full disk above all, into UserError 74."""
        try:
            yield
        except OSError as error:
            what = f"cannot write in {self.folder}: {error.strerror or error}"
            raise UserError(Problem(what, next_step="free some space, then run it again"), ExitCode.IO) from error

    def _write(self, part: Part) -> None:
        for name, kept in self.small.items():
            if (array := getattr(part, name)) is not None:
                kept.append(array)
        if part.ngrams is not None:
            part.ngrams.tofile(self.files["ngrams"])
            part.phrases.tofile(self.files["phrases"])
        split_of_kept = part.splits[part.kept]
        for index, name in enumerate(self.names):
            if self._writes_tokens and part.tokens is not None:
                part.tokens[np.repeat(split_of_kept == index, part.lengths)].tofile(self.files[f"tokens {name}"])
            if self.job.write_rows:
                chosen = np.flatnonzero((part.splits == index) & part.kept)
                self.files[f"rows {name}"].writelines(part.lines[row] for row in chosen)

    def finish(self, checker: RowChecker, report: LengthReport, notes: list[str], allow_leak: bool) -> Outcome:
        kept, splits, numbers, prints = (self._all(name) for name in ("kept", "splits", "numbers", "fingerprints"))
        sizes = {name: int((splits[kept] == index).sum()) for index, name in enumerate(self.names)}
        one_question = len(prints) > 1 and bool((prints[:, 2] == prints[0, 2]).all())
        notes = notes + check_sizes(sizes, self.job.shares, one_question)

        def source_of(row: int) -> str:
            return f"{self.job.name}:{numbers[row]}"

        duplicates = find_duplicates(prints)
        if not self.job.rules.allow_duplicates:
            check_duplicates(duplicates, self.job.name, source_of)
        leaks = self.check_leaks(source_of, allow_leak)
        outcome = Outcome(sizes, checker, report, duplicates, leaks, notes + duplicates.notes(source_of))
        if self.job.tokenizer is not None:
            outcome.token_lengths = {
                name: self._all("lengths")[splits[kept] == index] for index, name in enumerate(self.names)
            }
        if self._writes_tokens:
            with self._writing():
                self._write_index(outcome, splits[kept], numbers[kept])
        return outcome

    def check_leaks(self, source_of: Callable[[int], str], allow_leak: bool) -> LeakReport | None:
        """Compare the splits, once everything is written. Raises UserError 65 for leaks that are not allowed."""
        if len(self.names) < 2:
            return None
        kept, splits, prints = (self._all(name) for name in ("kept", "splits", "fingerprints"))
        ngrams, phrases = HashFile(self.folder / "ngrams.u64"), HashFile(self.folder / "phrases.u64")
        rows = np.repeat(np.arange(len(splits)), self._all("texts"))
        placed = np.where(kept, splits.astype(np.int64), -1)  # a row that was left out leaks nothing
        contents = Contents(
            prints,
            NgramStore(ngrams, self._all("ngram_lengths"), rows),
            NgramStore(phrases, self._all("phrase_lengths"), rows),
        )
        report = find_leaks(placed, self.names, contents)
        for hashes in (ngrams, phrases):
            hashes.path.unlink()
        raise_leaks(report, source_of, allow_leak)
        return report

    def _write_index(self, outcome: Outcome, splits: np.ndarray, numbers: np.ndarray) -> None:
        for index, name in enumerate(self.names):
            offsets = np.concatenate(([0], np.cumsum(outcome.token_lengths[name])))
            np.save(self.folder / name / "offsets.npy", offsets)
            np.save(self.folder / name / "rows.npy", numbers[splits == index])
            about = {"report": outcome.report.summary(), "sources": []}
            (self.folder / name / "about.json").write_text(json.dumps(about), encoding="utf-8")

    def _all(self, name: str) -> np.ndarray:
        arrays = self.small[name]
        if not arrays:
            return np.empty((0, 3) if name == "fingerprints" else 0, np.uint64 if name == "fingerprints" else np.int64)
        return np.concatenate(arrays)

    def _open(self, name: str, path: Path) -> None:
        self.files[name] = path.open("wb")
