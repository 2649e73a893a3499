"""Do data files share rows or passages? Answered for files of any size, in the memory that their hashes take."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.chat.pipeline import Sink, parts_of
from common.chat.worker import FileJob
from common.data.checking import RowChecker, Rules
from common.data.files import open_data_file
from common.data.leaks import LeakReport
from common.data.loading import finish_check
from common.data.meter import meter
from common.data.overlaps import sampling_stride
from common.errors import UserError


def compare_files(
    paths: Mapping[str, str | Path], rules: Rules, *, workers: int | None = None, allow_leak: bool = False
) -> LeakReport:
    """Compare the files of the splits in ``paths`` (train first), row by row as they are read.

    Finds what :func:`common.data.leaks.check_leaks` finds among examples in memory, with about 60 bytes a row in
    memory and 8 bytes a word in the folder for temporary files. Raises UserError as reading does, and 65 for leaks
    unless ``allow_leak``.
    """
    files = {split: open_data_file(path) for split, path in paths.items()}
    shares = dict.fromkeys(files, 1 / len(files))
    sources: list[tuple[str, np.ndarray]] = []  # name of the file, and the numbers of some rows of it
    with (
        tempfile.TemporaryDirectory(prefix="leaks-") as folder,
        Sink(FileJob("", rules, shares=shares), Path(folder)) as sink,
    ):
        for split, file in files.items():
            checker = RowChecker(file.name, rules)
            stride = sampling_stride(file.size_bytes)
            job = FileJob(file.name, rules, shares=shares, placed_in=split, phrase_stride=stride)
            with meter(f"reading {file.name}", file.size_bytes) as advance:
                for part, size_bytes in parts_of(file, job, workers):
                    checker.merge(part.checker)
                    if part.error:
                        raise UserError(*part.error)
                    sink.write(part)
                    sources.append((file.name, part.numbers))
                    advance(size_bytes)
            finish_check(checker, file)
        sink.flush()
        ends = np.cumsum([len(numbers) for _, numbers in sources])

        def source_of(row: int) -> str:
            at = int(np.searchsorted(ends, row, "right"))
            name, numbers = sources[at]
            return f"{name}:{numbers[row - (ends[at] - len(numbers))]}"

        return sink.check_leaks(source_of, allow_leak)
