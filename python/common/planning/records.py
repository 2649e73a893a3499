"""Plans that were made, found again by the training they are of; and a finished training held against its plan."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import pack_memory
from common.engine import count_ranks
from common.errors import UserError
from common.jobs import Job
from common.manifest import fingerprint
from common.runs import read_json, runs_dir, utc_now, write_json


def plan_file(job: Job) -> Path:
    """Return where the plan of exactly this job is kept: same settings, data, model name, versions and threads."""
    parts = fingerprint(job.recipe, job.data, {"files": {}}, count_ranks(job.recipe.training))
    if job.asked_pack_tokens:  # then packs and layers that recompute are an answer, not part of the question
        parts |= {"training.pack_tokens": job.asked_pack_tokens}
        parts |= {f"training.{key}": None for key in ("activation_checkpointing", "checkpoint_every_n_layers")}
    text = json.dumps(parts | {"model": job.recipe.model.name}, sort_keys=True, default=str)
    return runs_dir() / "cache" / "plans" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def keep_plan(job: Job, plan: Mapping[str, Any]) -> Path:
    """Write a plan where the training that it is of will find it; return the file."""
    path = plan_file(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    way = pack_memory.describe(job.recipe.training)
    write_json(path, {**plan, "way": way, "recipe": job.recipe.name, "made_at": utc_now()})
    return path


def find_plan(job: Job) -> dict[str, Any]:
    """Return the plan that was made of this job, or, without one, what its preparation estimated of memory."""
    with suppress(UserError, OSError):
        return {"from": "make plan", **read_json(plan_file(job))}
    return {"from": "the model's shape", "memory": job.memory.to_dict() if job.memory else None}


def compare(plan: Mapping[str, Any] | None, peak_gib: float, train_s: float | None, share: float) -> dict[str, Any]:
    """Return a finished training's figures beside its plan's, as kept in training_info.json.

    ``train_s`` is of this attempt, which did ``share`` of all steps; None when it did none.
    """
    plan = plan or {}
    planned_gib = (plan.get("memory") or {}).get("total")
    planned_s = plan.get("train_s")
    return {
        "plan_from": plan.get("from"),
        "peak_gib": round(peak_gib, 3),
        "planned_gib": planned_gib and round(planned_gib, 3),
        "peak_off": _off(peak_gib, planned_gib),
        "train_s": train_s and round(train_s, 1),
        "planned_s": planned_s and round(planned_s * share, 1),
        "time_off": _off(train_s, planned_s and planned_s * share),
    }


def describe(figures: Mapping[str, Any]) -> str:
    """Return the comparison as a line, as in "peak 1.02 GiB (planned 1.10, −7 %), 62 s (planned 58, +7 %)"."""
    parts = [_beside(f"peak {figures['peak_gib']:.2f} GiB", figures["planned_gib"], "{:.2f}", figures["peak_off"])]
    if figures["train_s"] is not None:
        parts.append(_beside(f"{figures['train_s']:.0f} s", figures["planned_s"], "{:.0f}", figures["time_off"]))
    return ", ".join(parts)


def _off(found: float | None, planned: float | None) -> float | None:
    return round(found / planned - 1, 4) if found and planned else None


def _beside(found: str, planned: float | None, form: str, off: float | None) -> str:
    if planned is None:
        return f"{found} (not planned)"
    return f"{found} (planned {form.format(planned)}, {100 * off:+.0f} %)".replace("-", "−")
