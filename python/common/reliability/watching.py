"""Looking at a run from outside while it works: how far it is, and whether it is inside a save at this instant.

Only what the run writes anyway is read, so that being watched changes nothing in what it does.
"""

import json
from pathlib import Path

from common.checkpoints import is_committed, list_checkpoints, step_of
from common.runs.lock import is_held
from common.runs.run import METRICS_FILE


class Watch:
    """One attempt of a run, watched from now on. What earlier attempts have left behind is known and not counted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._metrics = folder / METRICS_FILE
        self._read_to = self._metrics.stat().st_size if self._metrics.exists() else 0
        self._step = 0
        self._left_before = {path.stat().st_ino for path in list_checkpoints(folder) if not is_committed(path)}

    def last_step(self) -> int:
        """Return the last step that this attempt has logged, 0 before its first."""
        if self._metrics.exists() and self._metrics.stat().st_size > self._read_to:
            with self._metrics.open("rb") as file:
                file.seek(self._read_to)
                complete, newline, _ = file.read().rpartition(b"\n")
            self._read_to += len(complete) + len(newline)
            steps = [json.loads(line)["step"] for line in complete.splitlines() if line.startswith(b"{")]
            self._step = max([self._step, *steps])
        return self._step

    def open_save(self) -> Path | None:
        """Return the checkpoint that this attempt has begun and not committed, or None.

        One that is older than a committed checkpoint does not count: that one is being deleted.
        """
        newest = None
        for path in reversed(list_checkpoints(self.folder)):
            if is_committed(path):
                break
            try:
                known = path.stat().st_ino in self._left_before
            except FileNotFoundError:  # moved away between two looks
                continue
            newest = newest or (None if known else path)
        return newest

    def is_finishing(self) -> bool:
        """True once the finished adapter is being written, the last thing a run does."""
        return (self.folder / ".final").is_dir()

    def has_ended(self) -> bool:
        return not is_held(self.folder)


def save_duration_s(run_folder: Path) -> float:
    """Return how long the newest committed checkpoint took from its first complete file to its commit."""
    newest = [path for path in list_checkpoints(run_folder) if is_committed(path)][-1]
    times = sorted(path.stat().st_mtime for path in newest.iterdir())
    return times[-1] - times[0]


def committed_step(run_folder: Path) -> int:
    """Return the step of the newest committed checkpoint, 0 without one."""
    return max((step_of(path) for path in list_checkpoints(run_folder) if is_committed(path)), default=0)
