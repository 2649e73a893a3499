"""Parameter-efficient methods: added to a frozen base model, saved, loaded, and checked. LoRA for now.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds ``alpha / r · B A`` to a frozen linear layer; B starts at zero, so that the
model computes what the base computes until the first step.
"""

import json
from pathlib import Path

from common.errors import ExitCode, Problem, UserError, did_you_mean
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


def add_method(model, settings: MethodSettings, base_name: str):
    """Return ``model`` with the adapter of ``settings`` added and everything else frozen.

    Adapter weights are fp32 whatever the base's precision is. ``base_name`` is recorded in the adapter's config.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    check_targets(linear_layers(model), settings.targets)
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
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
    return adapted


def linear_layers(model) -> list[str]:
    """Return the full names of the model's linear layers, quantised ones included."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def count_parameters(model) -> tuple[int, int]:
    """Return (trainable, total) numbers of parameters; a 4-bit weight counts as the parameters it packs."""
    return model.get_nb_trainable_parameters()


def save_adapter(model, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json into ``folder``."""
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own model card says nothing about this run
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("target_modules"):
        config["target_modules"] = sorted(config["target_modules"])  # a set: in another order in every process
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def require_trained(model) -> None:
    """Raise UserError (70) when the adapter has learned nothing: a B matrix that is still zero was never trained."""
    import torch

    untouched = [name for name, weight in model.named_parameters() if "lora_B" in name and not torch.any(weight)]
    if untouched:
        what = f"{len(untouched)} LoRA B matrices are still zero after training, {untouched[0]} for one"
        raise UserError(Problem(what, "a trained adapter", "did the learning rate stay 0?"), ExitCode.INTERNAL)


def load_adapter(model, folder: Path):
    """Return ``model`` with the adapter saved in ``folder``, in evaluation mode.

    Raises UserError: 66 when ``folder`` holds no adapter, 78 when the adapter does not fit the model.
    """
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise UserError(Problem(f"{folder} holds no adapter", "adapter_config.json is missing"), ExitCode.NO_INPUT)
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            Problem(f"{folder} holds no adapter_model.safetensors", "safetensors only: a .bin file can run code"),
            ExitCode.NO_INPUT,
        )
    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=False, local_files_only=True)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            Problem(f"the adapter in {folder} does not fit this model: {reason}"), ExitCode.CONFIG
        ) from error
    return adapted.eval()
