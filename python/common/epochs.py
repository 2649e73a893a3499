"""epoch_info.json: the epochs of a run, each written down as it ends, with its losses and its checkpoint."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ranks
from common.checkpoints import written_or_removed
from common.methods import save_adapter
from common.runs import utc_now, write_json
from common.runs.folders import sync_files

EPOCH_INFO = "epoch_info.json"


class Epochs:
    """The epochs of the run in ``folder`` that have ended, the oldest first; every rank has them, the leader writes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.entries: list[dict[str, Any]] = []

    def read(self, last_step: int) -> None:
        """Take up those that were written down until ``last_step``: later ones a resumed run trains again."""
        written = ranks.from_leader(lambda: read_epochs(self.folder))
        self.entries = [entry for entry in written if entry["global_step"] <= last_step]

    def add(self, epoch: float, step: int, log_history: Sequence[Mapping[str, float]]) -> None:
        """Add the epoch that ended with ``step``, its losses those of the trainer's log; its evaluation follows."""
        start = self.entries[-1]["global_step"] if self.entries else 0
        logged = [entry for entry in log_history if "loss" in entry and entry["step"] > start]
        self.entries.append(
            {
                "epoch": round(epoch, 6),
                "train_loss": sum(entry["loss"] for entry in logged) / len(logged) if logged else None,
                "eval_loss": None,
                "learning_rate": logged[-1]["learning_rate"] if logged else None,
                "global_step": step,
                "timestamp": utc_now(),
                "checkpoint": f"checkpoint-{step}",
                "path": f"checkpoint-{step}",
            }
        )

    def keep_adapter(self, model, tokenizer) -> None:
        """Write the adapter as the last epoch leaves it to a folder of its own, which rotation leaves alone."""
        entry = self.entries[-1]
        entry["path"] = f"checkpoint-epoch-{math.ceil(entry['epoch'])}"
        if not ranks.is_leader():
            return
        draft, folder = self.folder / ".epoch", self.folder / entry["path"]
        for left in (draft, folder):  # of an attempt that was killed here
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir()
        with written_or_removed(draft):
            save_adapter(model, draft)
            tokenizer.save_pretrained(draft)
            sync_files(draft)
        draft.rename(folder)

    def write(self) -> None:
        """Write epoch_info.json, on the leader."""
        if ranks.is_leader():
            write_json(self.folder / EPOCH_INFO, self.entries)


def read_epochs(run_folder: Path) -> list[dict[str, Any]]:
    """Return epoch_info.json of a run, [] when no epoch has ended yet."""
    path = run_folder / EPOCH_INFO
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
