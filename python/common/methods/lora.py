"""LoRA, through peft.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds ``alpha / r · B A`` to a frozen linear layer; B starts at zero, so that the
model computes what the base computes until the first step. With the base in NF4 it is QLoRA (Dettmers et al. 2023,
arXiv 2305.14314).
"""

import json
from pathlib import Path

from common.errors import ExitCode, Problem, UserError, did_you_mean
from common.methods import svd
from common.settings import MethodSettings


def check_targets(module_names: list[str], targets: list[str]) -> None:
    """Raise UserError (78) for each target that names no linear layer, with the names that do.

    ``module_names`` are the full names of the model's linear layers, as in ``model.layers.0.self_attn.q_proj``.
    """
    leaves = sorted({name.rsplit(".", 1)[-1] for name in module_names} - {"lm_head"})
    problems = [
        Problem(
            f"method.targets: no layer is called '{target}'",
            "layers: " + ", ".join(leaves),
            did_you_mean(target, leaves),
        )
        for target in targets
        if target not in leaves
    ]
    if problems:
        raise UserError(problems, ExitCode.CONFIG)


def linear_layers(model) -> list[str]:
    """Return the full names of the model's linear layers, quantised ones included."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def add(model, settings: MethodSettings, base_name: str, base_folder: Path | None):
    from peft import LoraConfig, get_peft_model

    check_targets(linear_layers(model), settings.targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        bias="none",
    )
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    if settings.init == "svd":
        svd.begin(adapted, base_folder)
    return adapted


def save(model, folder: Path) -> None:
    if svd.is_used(model):
        svd.save_as_plain_lora(model, folder)
    else:
        save_state(model, folder)


def save_state(model, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own model card says nothing about this run
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("target_modules"):
        config["target_modules"] = sorted(config["target_modules"])  # a set: in another order in every process
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_state(model, folder: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    if saved.keys() != _own_tensors(model).keys():
        problem = Problem(f"{folder} is the checkpoint of another adapter", "one of these settings", "start a new run")
        raise UserError(problem, ExitCode.CONFIG)
    set_peft_model_state_dict(model, saved)


def tensors(model) -> dict:
    return svd.as_plain_lora(model) if svd.is_used(model) else _own_tensors(model)


def load(model, folder: Path):
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder, is_trainable=False, local_files_only=True)


def find_untrained(model) -> list[str]:
    import torch

    if svd.is_used(model):
        return svd.find_untrained(model)
    return [name for name, weight in model.named_parameters() if "lora_B" in name and not torch.any(weight)]


def _own_tensors(model) -> dict:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)
