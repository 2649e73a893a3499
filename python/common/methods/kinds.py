"""What every method can do, and which module does it for which kind.

A kind's module has ``add``, ``save``, ``save_state``, ``load_state``, ``tensors``, ``load`` and ``find_untrained``. The
adapter is what a user loads; the state is what a training resumes from, and may hold more.
"""

import importlib
from pathlib import Path

from common import footprint
from common.errors import ExitCode, Problem, UserError, first_line
from common.runs import read_json
from common.settings import MethodSettings
from common.weights import build_skeleton

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_MODULES = {"lora": "lora", "adapter": "bottleneck", "ptuning": "soft_prompt"}


def add_method(model, settings: MethodSettings, base_name: str, base_folder: Path | None = None):
    """Return ``model`` with the adapter of ``settings`` added and everything else frozen.

    Adapter weights are fp32 whatever the base's precision is. ``base_name`` is recorded in the adapter's config;
    ``base_folder`` holds the weights in full precision, which ``init: svd`` needs when the model is in NF4.
    """
    keep_nf4_layout(model)
    adapted = _module(settings.kind).add(freeze(model), settings, base_name, base_folder)
    adapted.method_kind = settings.kind
    return adapted


def keep_nf4_layout(model) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first evaluation.

    On CPUs with avx512_bf16 it turns them, for good, into a layout for a kernel that has no backward pass: a training
    that goes on after an evaluation would get no gradient through them, with a warning at most.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def freeze(model):
    """Return ``model`` with no parameter to train."""
    return model.requires_grad_(False)


def count_parameters(model) -> tuple[int, int]:
    """Return (trainable, total) numbers of parameters; a 4-bit weight counts as the parameters it packs."""
    from peft import PeftModel

    return PeftModel.get_nb_trainable_parameters(model)


def count_by_formula(base, settings: MethodSettings) -> int:
    """Return how many parameters a method trains on ``base``, a model or its skeleton, to which nothing is added yet.

    LoRA Σ r·(inputs + outputs) over the linear layers that its targets name, whatever the model calls them; the others
    as in :func:`footprint.count_trainable`.
    """
    if settings.kind != "lora":
        return footprint.count_trainable(base.config.to_dict(), settings)
    from common.methods.lora import linear_layers

    layers = [base.get_submodule(name) for name in linear_layers(base) if name.rsplit(".", 1)[-1] in settings.targets]
    return sum(settings.rank * (layer.in_features + layer.out_features) for layer in layers)


def describe_trainable(model, settings: MethodSettings, base_folder: Path) -> str:
    """Return the line that peft prints of what is trained, once it agrees with the closed formula.

    Raises UserError (70) when it does not: then something is trained that should not be, or the other way round.
    """
    trainable, total = count_parameters(model)
    expected = count_by_formula(build_skeleton(base_folder), settings)
    if trainable != expected:
        what = f"{trainable:,} parameters are to be trained, by the formula of {settings.kind} it is {expected:,}"
        raise UserError(Problem(what, "both the same"), ExitCode.INTERNAL)
    return f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}"


def save_adapter(model, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json into ``folder``."""
    _module(model.method_kind).save(model, folder)


def saved_tensors(model) -> dict:
    """Return name → tensor of what :func:`save_adapter` writes."""
    return _module(model.method_kind).tensors(model)


def save_state(model, folder: Path) -> None:
    """Write everything that is trained into ``folder``: with :func:`load_state` a training goes on as it was."""
    _module(model.method_kind).save_state(model, folder)


def load_state(model, folder: Path) -> None:
    """Put what :func:`save_state` wrote into the trained parameters of ``model``, made by the same settings."""
    _module(model.method_kind).load_state(model, folder)


def require_trained(model) -> None:
    """Raise UserError (70) when the adapter has learned nothing: some part of it is as it began."""
    untouched = _module(model.method_kind).find_untrained(model)
    if untouched:
        what = f"{len(untouched)} parts of the adapter are after training as they began, {untouched[0]} for one"
        raise UserError(Problem(what, "a trained adapter", "did the learning rate stay 0?"), ExitCode.INTERNAL)


def load_adapter(model, folder: Path):
    """Return ``model`` with the adapter saved in ``folder``, in evaluation mode.

    Raises UserError: 66 when ``folder`` holds no adapter, 78 when the adapter does not fit the model.
    """
    kind = kind_of(folder)
    try:
        adapted = _module(kind).load(freeze(model), folder)
    except (RuntimeError, ValueError) as error:
        what = f"the adapter in {folder} does not fit this model: {first_line(error)}"
        raise UserError(
            Problem(what, "the base it was trained on", f"see {CONFIG_FILE} there"), ExitCode.CONFIG
        ) from error
    adapted.method_kind = kind
    return adapted.requires_grad_(False).eval()


def kind_of(folder: Path) -> str:
    """Return the kind of the adapter saved in ``folder``: lora, adapter or ptuning. Raises UserError (66, 78)."""
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            Problem(f"{folder} holds no adapter", f"{CONFIG_FILE} is missing", "name the folder of a finished run"),
            ExitCode.NO_INPUT,
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(
            Problem(
                f"{folder} holds no {WEIGHTS_FILE}",
                "safetensors only: a .bin file can run code",
                "save it as safetensors",
            ),
            ExitCode.NO_INPUT,
        )
    config = read_json(folder / CONFIG_FILE)
    names = {"LORA": "lora", "P_TUNING": "ptuning", "BOTTLENECK": "adapter"}
    kind = names.get(config.get("peft_type"))
    if kind is None:
        what = f"{folder / CONFIG_FILE}: peft_type {config.get('peft_type')}"
        raise UserError(Problem(what, f"known: {', '.join(names)}"), ExitCode.CONFIG)
    return kind


def _module(kind: str):
    return importlib.import_module(f"common.methods.{_MODULES[kind]}")
