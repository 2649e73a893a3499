"""What a run writes down about itself before it begins, and what the bytes of its result depend on."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from common import hardware
from common.hashing import sha256_of
from common.runs import ROOT, utc_now
from common.settings import Recipe

LOCK_FILE = ROOT / "requirements.lock"
_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "safetensors", "tokenizers")
_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LD_PRELOAD", "LANG", "TZ", "SLURM_JOB_ID")  # never a token


def describe_run(recipe: Recipe, data: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what run.json records: what was asked, with which code, versions, machine, data and model."""
    return {
        "recipe": recipe.name,
        "command": f"python/{recipe.command}.py",
        "argv": sys.argv,
        "settings": recipe.to_dict(),
        "seed": recipe.training.seed,
        "git": describe_git(),
        "versions": {"python": platform.python_version(), **package_versions(), "lock_sha256": _lock_hash()},
        "hardware": hardware.describe(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "data": dict(data),
        "model": dict(model),
        "created_at": utc_now(),
    }


def describe_git() -> dict[str, Any]:
    """Return the commit of the working tree and whether it has uncommitted changes; None's without git."""

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that compute."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def locked_versions() -> dict[str, str]:
    """Return package → version of requirements.lock."""
    pins = (line.split(";")[0].split("#")[0].strip() for line in LOCK_FILE.read_text(encoding="utf-8").splitlines())
    return dict(pin.split("==") for pin in pins if "==" in pin)


def fingerprint(
    recipe: Recipe, data: Mapping[str, Any], model: Mapping[str, Any], world_size: int = 1
) -> dict[str, Any]:
    """Return what a run's result depends on, flat, to be compared key by key before a run is resumed.

    Paths, names and the rhythm of logging and saving are left out: they may change without changing the result.
    """
    settings = recipe.to_dict()
    parts: dict[str, Any] = {}
    for group, leave_out in _IRRELEVANT.items():
        parts |= {f"{group}.{key}": value for key, value in settings[group].items() if key not in leave_out}
    parts |= {f"data.{part}.sha256": entry["sha256"] for part, entry in data.items()}
    parts |= {f"model.{name}": digest for name, digest in model["files"].items()}
    return parts | {"requirements.lock": _lock_hash(), "world_size": world_size}


_IRRELEVANT = {
    "model": ("name", "revision"),
    "data": ("train", "validation"),
    "method": (),
    "training": (
        *("log_every_steps", "eval_every_steps", "save_every_minutes", "keep_checkpoints", "keep_epochs"),
        *("ranks", "nodes"),
    ),
}


def _lock_hash() -> str | None:
    return sha256_of(LOCK_FILE) if LOCK_FILE.is_file() else None
