"""What came out of a run, in a few figures, and in which settings runs differ."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.runs.folders import MANIFEST_FILE
from common.runs.history import read_metrics
from common.runs.status import read_status

RESULTS = ("state", "steps", "epochs", "loss", "eval_loss", "tokens_per_s", "peak_gib", "took", "verdict",
           "tuned", "prompted")  # fmt: skip
_OWN = ("output.folder", "evaluation.")  # these change nothing of what is trained


def read_json_if_there(path: Path) -> Any:
    """Return the JSON in ``path``, None when there is none that can be read."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def read_result(folder: Path) -> dict[str, Any]:
    """Return name, recipe, flat ``settings`` and the figures of :data:`RESULTS` of a run; None for what it has not.

    ``took`` is in seconds over all attempts, ``tuned`` and ``prompted`` are mean scores of its comparison (0 to 1).
    """
    status = read_status(folder, log_lines=0)
    manifest = read_json_if_there(folder / MANIFEST_FILE) or {}
    info = read_json_if_there(folder / "training_info.json") or {}
    epochs = read_json_if_there(folder / "epoch_info.json") or []
    report = read_json_if_there(folder / "compare" / "report.json") or {}
    last = epochs[-1] if epochs else {}
    scores = {name: model["scores"]["mean"] for name, model in report.get("models", {}).items()}
    step, total = status.get("step"), status.get("total_steps")
    return {
        "name": folder.name,
        "recipe": manifest.get("recipe"),
        "state": status["state"],
        "started_at": status.get("started_at"),
        "steps": None if step is None else f"{step}/{total or '?'}",
        "epochs": last.get("epoch"),
        "loss": last.get("train_loss", status.get("loss")),
        "eval_loss": last.get("eval_loss"),
        "tokens_per_s": status.get("tokens_per_s"),
        "peak_gib": info.get("peak_gpu_gib") or info.get("peak_rss_gib", status.get("peak_rss_gib")),
        "took": took_s(folder, status.get("elapsed_s"), manifest.get("attempts") or []),
        "verdict": report.get("comparison", {}).get("decision", {}).get("verdict"),
        "tuned": scores.get("finetuned"),
        "prompted": scores.get("optimized"),
        "settings": flat_settings(manifest),
    }


def took_s(folder: Path, last_s: float | None, attempts: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds of all attempts: ``last_s`` of the last one, and those before it.

    One that was killed wrote no end: it counts up to the last step that it logged.
    """
    if last_s is None or len(attempts) < 2:
        return last_s
    logged = [record["time"] for record in read_metrics(folder) if "time" in record]
    for attempt, following in pairwise(attempts):
        begun = attempt["started_at"]
        within = (time for time in logged if begun <= time <= following["started_at"])  # ISO 8601 in UTC, all of them
        ended = attempt.get("ended_at") or max(within, default=begun)
        last_s += (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
    return last_s


def flat_settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings as "group.key" → value, with what its data, model and code were."""
    flat = {}
    for group, values in (manifest.get("settings") or {}).items():
        if isinstance(values, Mapping):
            flat |= {f"{group}.{key}": value for key, value in values.items()}
    flat |= {f"data.{part}.sha256": data["sha256"][:12] for part, data in (manifest.get("data") or {}).items()}
    flat["commit"] = ((manifest.get("git") or {}).get("commit") or "")[:10] or None
    return {key: value for key, value in flat.items() if not key.startswith(_OWN)}


def differing_settings(records: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Return "group.key" → the value of each run, for the settings that are not the same in all of them."""
    keys = dict.fromkeys(key for record in records for key in record["settings"])
    columns = {key: [record["settings"].get(key) for record in records] for key in keys}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}
