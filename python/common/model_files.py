"""The files of base models: found on this machine, checked one by one, hashed.

Only safetensors are accepted, no code of a model is run, and nothing is fetched: fetching is `make download`.
"""

import json
import re
from pathlib import Path
from typing import Any

from common import weights
from common.errors import ExitCode, Problem, UserError
from common.hashing import sha256_of
from common.runs import ROOT, read_json, runs_dir
from common.settings import ModelSettings

MARKER = "MODEL.json"  # written last by a download: file → size and sha256
PACKABLE = ("mistral", "llama", "phi3", "qwen2", "qwen3")  # each held against one-by-one training by a test
_CHANGING_ROPE = (
    "longrope",
    "dynamic",
)  # their frequencies depend on the longest position of what is computed at a time
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def hub_id(name: str) -> str | None:
    """Return ``name`` if it looks like a model's id on the hub (org/name), else None."""
    return name if _HUB_ID.fullmatch(name) and not name.startswith((".", "/")) else None


def model_folder(name: str) -> Path:
    """Return the folder in runs/models/ that `make download` gives to hub model ``name``."""
    return runs_dir() / "models" / name.replace("/", "--")


def find_model(settings: ModelSettings) -> Path:
    """Return the folder that holds the model: a folder as named, runs/models/, or the hub's own cache.

    Raises UserError (66) with the command that fetches it, or (78) when another revision lies there.
    """
    name, revision = settings.name, settings.revision
    for folder in (Path(name), ROOT / name):
        if folder.is_dir():
            return folder
    if not hub_id(name):
        problem = Problem(f"no model folder '{name}'", "a folder, or a hub id as in org/name", "check the path")
        raise UserError(problem, ExitCode.NO_INPUT)
    folder = model_folder(name)
    if (folder / MARKER).is_file():
        _require_revision(folder, revision)
    if folder.is_dir() and not check_model_folder(folder):
        return folder  # without a marker it was copied here by hand: complete, of a revision nobody can tell
    cached = _find_in_hub_cache(name, revision)
    if cached:
        return cached
    fetch = f"make download MODEL={name}" + (f" REVISION={revision}" if revision else "")
    state = "is only half here" if folder.is_dir() else "is not on this machine"
    raise UserError(Problem(f"model {name} {state}", f"it belongs in {folder}", f"run: {fetch}"), ExitCode.NO_INPUT)


def read_marker(folder: Path) -> dict[str, Any]:
    """Return what `make download` recorded of a model: its hub id, revision, and each file's size and sha256."""
    return read_json(folder / MARKER)


def holds_revision(marker: dict[str, Any], revision: str | None) -> bool:
    """True when ``revision`` is the commit of :func:`read_marker`, or the branch or tag that it was asked for by."""
    return revision in (None, marker["revision"], marker.get("asked"))


def check_model_folder(folder: Path) -> list[Problem]:
    """Return what is wrong with the files in ``folder``; an empty list when it can be loaded.

    Looks at names, sizes and safetensors headers only, so it is quick for any size.
    """
    if not (folder / "config.json").is_file():
        what, allowed = f"{folder} holds no config.json", "a model folder in the hub's layout is needed"
        return [Problem(what, allowed, "copy all its files")]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return [Problem(f"{folder} holds no tokenizer", "tokenizer.json is needed", "copy it from the model's page")]
    kind = read_config(folder).get("model_type")
    if not _is_known(kind):
        what = f"{folder} is a model of type '{kind}', which transformers does not know"
        return [Problem(what, "code that comes with a model is never run", "choose a model of a known type")]
    shards, problems = weights.list_weight_files(folder)
    return problems + [problem for shard in shards if (problem := weights.check_safetensors(shard))]


def _is_known(model_type: str | None) -> bool:
    if model_type in PACKABLE:
        return True
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def hash_model_files(folder: Path) -> dict[str, str]:
    """Return file name → sha256 of everything in ``folder`` that decides what the model computes."""
    names = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors", ".jinja", ".model")]
    return {path.name: sha256_of(path) for path in names if path.name != MARKER}


def verify_hashes(folder: Path, hashes: dict[str, str]) -> None:
    """Raise UserError (66) when a file's hash differs from the one that the download recorded."""
    marker = folder / MARKER
    if not marker.is_file():
        return
    recorded = read_marker(folder)["files"]
    remedy = f"delete {folder} and run make download again"
    problems = [
        Problem(f"{folder / name} is not the file that was downloaded", "its sha256 differs", remedy)
        for name, digest in hashes.items()
        if name in recorded and recorded[name]["sha256"] != digest
    ]
    if problems:
        raise UserError(problems, ExitCode.NO_INPUT)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the model's config.json."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(f"cannot read {folder / 'config.json'}: {error}", next_step="copy or download it again")
        raise UserError(problem, ExitCode.NO_INPUT) from None


def why_no_packs(config: dict[str, Any], longest_tokens: int) -> str | None:
    """Return why a model of this config cannot run packs of examples of up to so many tokens, None when it can."""
    kind = config.get("model_type")
    if kind not in PACKABLE:
        return f"its attention ({kind}) is none of {', '.join(PACKABLE)}"
    if config.get("attention_dropout"):
        return f"its attention has dropout ({config['attention_dropout']}), which packs leave out"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = rope.get("rope_type") or rope.get("type")
    first = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    first = first or config.get("max_position_embeddings", 0)
    if scaling in _CHANGING_ROPE and longest_tokens > first:
        return f"its rotary embedding ({scaling}) is another for examples of more than {first:,} tokens"
    return None


def is_plain(config: dict[str, Any]) -> bool:
    """True for a model whose tensors lie in its files under the names, and in the shapes, that the model has."""
    return config.get("model_type") in PACKABLE and "quantization_config" not in config


def _require_revision(folder: Path, revision: str | None) -> None:
    marker = read_marker(folder)
    have = marker["revision"]
    if not holds_revision(marker, revision):
        what = f"{folder} holds revision {have}, the recipe asks for {revision}"
        remedy = f"delete the folder and run make download again, or set model.revision={have}"
        raise UserError(Problem(what, next_step=remedy), ExitCode.CONFIG)


def _find_in_hub_cache(name: str, revision: str | None) -> Path | None:
    """Return the snapshot of ``name`` in the hub's cache if it is complete enough to have a config and weights."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return None if check_model_folder(folder) else folder
