"""The model card of a run: README.md in the hub's format, made from what the run wrote down about itself.

No path is in it: data files and local models go by their names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.hashing import sha256_of
from common.methods.kinds import WEIGHTS_FILE
from common.model_files import hub_id
from common.runs import ROOT, read_json

REPORT = Path("compare") / "report.json"
_SETTINGS = (
    *("epochs", "steps", "micro_batch", "gradient_accumulation", "learning_rate", "scheduler", "warmup_steps"),
    *("weight_decay", "max_grad_norm", "seed", "data_max_length_tokens"),
)
_RESULTS = ("trainable_params", "trainable_percentage", "train_loss", "eval_loss", "peak_rss_gib", "peak_gpu_gib")
_PRECISIONS = {"nf4": "NF4 with double quantisation", "bf16": "bfloat16", "fp32": "float32"}
_DTYPES = {"nf4": "bfloat16", "bf16": "bfloat16", "fp32": "float32"}


def model_card(
    name: str,
    manifest: Mapping[str, Any],
    info: Mapping[str, Any],
    *,
    comparison: Mapping[str, Any] | None = None,
    base: str | None = None,
    licence: str | None = None,
) -> str:
    """Return the card of run ``name``.

    ``info`` is training_info.json's content, ``comparison`` a report of `make compare`. ``base`` is the base's name on
    the hub where the run knows it by another; ``licence`` an id of the hub's list, "other" unless given.
    """
    from common.report.page import open_templates

    method = manifest["settings"]["method"]["kind"]
    base = base or info["base_model"]
    precision = info["precision"]
    return (
        open_templates(autoescape=False)
        .get_template("card.md")
        .render(
            name=name,
            recipe=manifest["recipe"],
            base=Path(base).name if Path(base).is_absolute() else base,
            base_on_hub=name_on_hub(base),
            revision=manifest["settings"]["model"].get("revision"),
            licence=licence or "other",
            licence_known=licence is not None,
            method=_METHODS[method],
            kind=method,
            precision=_PRECISIONS.get(precision, precision) + _describe_products(manifest["settings"]["model"]),
            dtype=_DTYPES.get(precision, "float32"),
            data=[_describe_data(part, entry) for part, entry in manifest.get("data", {}).items()],
            numbers=_pick(info, [key for key in info if key.startswith("method_")], "method_")
            | _pick(info, _SETTINGS, "data_"),
            results=_pick(info, _RESULTS),
            comparison=comparison,
            versions={k: v for k, v in manifest.get("versions", {}).items() if k != "lock_sha256"},
            commit=manifest.get("git", {}).get("commit"),
            hardware=manifest.get("hardware", {}).get("cpu"),
        )
    )


def name_on_hub(base: str) -> str | None:
    """Return ``base`` if that is a model's name on the hub, None if it is a folder of this machine."""
    return None if any((place / base).is_dir() for place in (Path(), ROOT)) else hub_id(base)


def card_of_run(name: str, folder: Path, *, base: str | None = None, licence: str | None = None) -> str:
    """Return the card of the finished run in ``folder``, with its comparison if that was made of these weights."""
    return model_card(
        name,
        read_json(folder / "run.json"),
        read_json(folder / "training_info.json"),
        comparison=read_comparison(folder),
        base=base,
        licence=licence,
    )


def read_comparison(folder: Path) -> dict[str, Any] | None:
    """Return the report of `make compare` on the adapter in ``folder``, or None: none is there, or it is of another."""
    if not (folder / REPORT).is_file():
        return None
    report = read_json(folder / REPORT)
    identity = report["metadata"]["arms"]["finetuned"]["identity"]
    same = identity.get("adapter_sha256", {}).get(WEIGHTS_FILE) == sha256_of(folder / WEIGHTS_FILE)
    return report if same else None


def find_licence(folder: Path) -> str | None:
    """Return the licence of the base of the run in ``folder``, if the base is here and its card names one."""
    from common.generation.arms import find_local

    try:
        return licence_of(find_local(str(folder))[0])
    except UserError:
        return None


def licence_of(base: Path) -> str | None:
    """Return the licence that the base's own card names, if the card lies in its folder."""
    import yaml

    card = base / "README.md"
    parts = card.read_text(encoding="utf-8").split("---\n") if card.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    return licence if isinstance(licence, str) else None


def _describe_products(model: Mapping[str, Any]) -> str:
    return ", trained with weights and products in int8" if model.get("compute") == "int8" else ""


def _describe_data(part: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"part": part, "file": Path(entry["path"]).name, "examples": entry["examples"], "sha256": entry["sha256"]}


def _pick(info: Mapping[str, Any], names, prefix: str = "") -> dict[str, Any]:
    """Return what ``info`` holds of ``names``, as a card shows it; what is not set is left out."""
    found = {name: info.get(name) for name in names}
    return {name.removeprefix(prefix): _show(value) for name, value in found.items() if value is not None}


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else str(value)


_METHODS = {
    "lora": {"title": "A LoRA adapter", "tag": "lora", "library_name": "peft"},
    "adapter": {"title": "Bottleneck adapters", "tag": "bottleneck-adapter", "library_name": "transformers"},
    "ptuning": {"title": "Virtual tokens from p-tuning", "tag": "p-tuning", "library_name": "peft"},
}
