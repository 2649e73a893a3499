"""What is wrong with a model that several GPUs are to train: whether it fits, and its parameters once they are there.

Each check answers with what it found, or raises with the remedy.
"""

from collections import Counter

from common import footprint, hardware, model_files
from common.checks import Check, check_memory, run_check
from common.diagnosis import Look
from common.errors import ExitCode, Problem, UserError
from common.settings import Recipe


def look_at_model(recipe: Recipe, spec: str | None, device_map: str | dict | None = None) -> list[Check]:
    """Load the model that ``spec`` names (else the recipe's, with a fresh adapter) and check its parameters.

    With ``device_map`` it is loaded as a script does that gives one to transformers.
    """
    found: list = []
    fit = run_check("fit", lambda: check_fit(recipe, spec))
    loaded = run_check("model", lambda: _load(recipe, spec, device_map, found)) if fit.ok else fit
    if not loaded.ok:
        return [loaded]
    (model,) = found
    looks: dict[str, Look] = {
        "placement": lambda: check_placement(model),
        "device map": lambda: check_device_map(model, under_deepspeed=bool(recipe.training.deepspeed)),
        "dtypes": lambda: check_dtypes(model),
        "gradients": lambda: check_gradients(model),
    }
    return [fit, loaded, *(run_check(title, look) for title, look in looks.items())]


def check_fit(recipe: Recipe, spec: str | None = None) -> str:
    """Raise UserError (69) when an example of the longest kind cannot be trained on, all layers recomputed."""
    import torch

    from common.generation.arms import find_local

    folder, _ = find_local(spec or recipe.model.name)
    device, tokens = recipe.training.device, recipe.data.max_length_tokens
    if device == "cuda" and not torch.cuda.is_available():
        return "not known without a GPU"
    device = hardware.pick_device(device).value
    precision = hardware.pick_precision(recipe.model.precision, device, fp16=not recipe.training.deepspeed).value
    config = model_files.read_config(folder)
    compute = hardware.pick_compute(recipe.model.compute, precision, device).value
    need = footprint.estimate_training(
        config, recipe.method, precision, tokens, checkpoint_every=1, compute=compute, gpu=device == "cuda"
    )
    return f"{tokens:,} tokens: {check_memory(need, device)}"


def check_placement(model) -> str:
    """Raise UserError (78) when parameters are on the meta device or on several devices."""
    devices = Counter(str(parameter.device) for parameter in model.parameters())
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        what = f"{len(empty)} parameters are on meta, {empty[0]} for one: they have a shape and no values"
        raise UserError(Problem(what, "weights that are loaded", "load without a device_map"), ExitCode.CONFIG)
    if len(devices) > 1:
        what = "parameters are on several devices: " + ", ".join(f"{n} on {name}" for name, n in devices.items())
        raise UserError(Problem(what, "one device for each rank", "load without a device_map"), ExitCode.CONFIG)
    return f"all parameters on {next(iter(devices))}"


def check_device_map(model, *, under_deepspeed: bool) -> str:
    """Raise UserError (78) when a model that several ranks train was split over devices by a device_map."""
    places = getattr(model, "hf_device_map", None)
    if places and under_deepspeed:
        what = f"the model was loaded with a device_map of {len(places)} parts"
        allowed = "under DeepSpeed each rank holds a whole model"
        raise UserError(Problem(what, allowed, "load it with device_map=None"), ExitCode.CONFIG)
    return "none" if not places else f"{len(places)} parts, which one process may have"


def check_dtypes(model) -> str:
    """Raise UserError (78) when frozen weights are of several float types, or an adapter is in fp16."""
    frozen = Counter(str(p.dtype) for p in model.parameters() if not p.requires_grad and p.is_floating_point())
    trained = Counter(str(p.dtype) for p in model.parameters() if p.requires_grad)
    if len(frozen) > 1:
        what = "frozen weights mix " + ", ".join(f"{name.removeprefix('torch.')} ({n})" for name, n in frozen.items())
        raise UserError(Problem(what, "one type", "set model.precision to bf16 or fp32"), ExitCode.CONFIG)
    if "torch.float16" in trained:
        problem = Problem("trained weights are in fp16", "bf16 or fp32: small updates vanish in fp16")
        raise UserError(problem, ExitCode.CONFIG)
    names = [", ".join(name.removeprefix("torch.") for name in kinds) or "none" for kinds in (frozen, trained)]
    return f"frozen: {names[0]}; trained: {names[1]}"


def check_gradients(model) -> str:
    """Raise UserError (78) when nothing would be trained, or everything."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    if trained in (0, total):
        what = f"{trained:,} of {total:,} parameters would be trained"
        raise UserError(Problem(what, "those of an adapter", "add one: method.targets"), ExitCode.CONFIG)
    return f"{trained:,} of {total:,} parameters are trained ({100 * trained / total:.2f} %)"


def _load(recipe: Recipe, spec: str | None, device_map: str | dict | None, loaded: list) -> str:
    from common.generation.arms import find_local
    from common.methods import add_method
    from common.models import load_model

    base, adapter = find_local(spec or recipe.model.name)
    precision = hardware.pick_precision(recipe.model.precision, "cpu").value
    model = load_model(base, precision, device_map=device_map)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=True, local_files_only=True)
    else:
        model = add_method(model, recipe.method, base_name=recipe.model.name)
    loaded.append(model)
    return f"{base}" + (f" with the adapter in {adapter}" if adapter else " with a fresh adapter")
