"""Two finished runs side by side: which of their files are equal to the byte, and where their loss curves part."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.checkpoints import COMMIT, is_committed, list_checkpoints
from common.errors import ExitCode, Problem, UserError
from common.hashing import sha256_of
from common.methods.kinds import WEIGHTS_FILE
from common.runs import read_json
from common.runs.folders import DONE_FILE
from common.runs.run import METRICS_FILE

# The trainer's log in a checkpoint lacks an evaluation that was made between that save and a kill; read_losses has it.
_MAY_DIFFER = (COMMIT, "trainer_state.json")
_NAMES_ITS_RUN = ("README.md", "training_info.json")  # they hold the run's name, its memory and its times


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Return the adapters' hashes, whether they are ``identical``, which ``other_files`` are, and ``curves_part_at``.

    ``other_files`` maps what else must be equal, the last checkpoint's files among them, to True or False. The step in
    ``curves_part_at`` is None when every logged loss, in every attempt of either run, is the same number.
    """
    hashes = [sha256_of(_require(folder / WEIGHTS_FILE)) for folder in (first, second)]
    left, right = _hash_results(first), _hash_results(second)
    return {
        "sha256": hashes,
        "identical": hashes[0] == hashes[1],
        "other_files": {name: left.get(name) == right.get(name) for name in sorted(left.keys() | right.keys())},
        "curves_part_at": find_parting(read_losses(first), read_losses(second)),
    }


def differing_files(comparison: Mapping[str, Any]) -> list[str]:
    """Return the names of the files that :func:`compare_runs` found to differ, the adapter aside."""
    return [name for name, equal in comparison["other_files"].items() if not equal]


def read_losses(run_folder: Path) -> dict[int, set[tuple[str, float]]]:
    """Return step → every ("loss" or "eval_loss", value) that was logged for it; a replayed step has one as well."""
    losses: dict[int, set[tuple[str, float]]] = {}
    for line in (run_folder / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        for name in ("loss", "eval_loss"):
            if name in record:
                losses.setdefault(record["step"], set()).add((name, record[name]))
    return losses


def find_parting(first: Mapping[int, set], second: Mapping[int, set]) -> int | None:
    """Return the first step whose logged losses are not the same in both, None when there is none."""
    return next((step for step in sorted(first.keys() | second.keys()) if first.get(step) != second.get(step)), None)


def _hash_results(folder: Path) -> dict[str, str]:
    """Return name → sha256 of everything that must be equal in two runs of one training, the adapter aside."""
    finished = read_json(_require(folder / DONE_FILE))["files"]
    hashes = {name: sha256_of(folder / name) for name in finished if name not in (*_NAMES_ITS_RUN, WEIGHTS_FILE)}
    last = [checkpoint for checkpoint in list_checkpoints(folder) if is_committed(checkpoint)][-1]
    files = (path for path in last.rglob("*") if path.is_file() and path.name not in _MAY_DIFFER)
    return hashes | {str(path.relative_to(folder)): sha256_of(path) for path in files}


def _require(path: Path) -> Path:
    if not path.is_file():
        what = f"{path} is missing"
        raise UserError(Problem(what, "two finished runs are compared", "make status"), ExitCode.NO_INPUT)
    return path
