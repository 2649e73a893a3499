"""dataset_card.json: what a prepared data set is made of, what was left out and why. The same input, the same card."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.chat.cache import code_version
from common.chat.pipeline import Outcome
from common.chat.worker import FileJob
from common.data.files import DataFile
from common.data.splits import SPLITS
from common.hashing import sha256_of

CARD = "dataset_card.json"


def describe_dataset(
    file: DataFile, sha256: str, job: FileJob, model: str | None, outcome: Outcome, folder: Path
) -> dict:
    """Return the card of the splits that ``outcome`` left in ``folder``."""
    checker, report = outcome.checker, outcome.report
    return {
        "source": {
            "file": file.name,
            "format": file.format,
            "bytes": file.size_bytes,
            "sha256": sha256,
            "rows": checker.rows,
            "shape": checker.shape(),
        },
        "splits": {name: _describe_split(folder / f"{name}.jsonl", name, outcome) for name in outcome.sizes},
        "split_by": {"shares": _rounded(job.shares), "seed": job.seed, "key": "hash of the normalised prompt"},
        "tokenizer": model,
        "max_length_tokens": job.max_length_tokens if model else None,
        "dropped": {
            "rows": {reason: len(numbers) for reason, numbers in checker.dropped.items()},
            "row_numbers": {reason: numbers[:1000] for reason, numbers in checker.dropped.items()},
            "overlong": len(report.dropped),
            "overlong_rows": report.dropped[:1000],
        },
        "prompts_truncated": {"rows": len(report.truncated), "row_numbers": report.truncated[:1000]},
        "duplicates": {
            "exact": outcome.duplicates.exact,
            "normalised": outcome.duplicates.normalised,
            "conflicting": outcome.duplicates.conflicting,
        },
        "leaks": outcome.leaks.counts() if outcome.leaks else {},
        "notes": outcome.notes,
        "code_sha256": code_version(),
    }


def find_written(folder: Path) -> list[str]:
    """Return the names of the data files in ``folder`` that its card, if there is one, says were written with it."""
    try:
        splits = json.loads((folder / CARD).read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, LookupError):
        return []
    return [f"{split}.jsonl" for split in SPLITS if split in splits]


def _describe_split(path: Path, name: str, outcome: Outcome) -> dict:
    described = {"file": path.name, "rows": outcome.sizes[name], "sha256": sha256_of(path)}
    lengths = outcome.token_lengths.get(name)
    if lengths is not None and len(lengths):
        p50, p95 = np.percentile(lengths, (50, 95))
        described["tokens"] = {
            "total": int(lengths.sum()),
            "shortest": int(lengths.min()),
            "p50": int(p50),
            "p95": int(p95),
            "longest": int(lengths.max()),
        }
    return described


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, 6) for name, share in shares.items()}
