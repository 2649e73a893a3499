"""What goes wrong with trainings on several GPUs, looked for one by one, each with its remedy.

Checks of the machine and the settings load nothing; those of a model look at its parameters once they are there.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib import metadata

from common import engine, footprint, hardware, models
from common.checks import Check, check_memory, run_check
from common.errors import ExitCode, Problem, UserError
from common.launching import free_port
from common.settings import Recipe

Look = Callable[[], str]
_DIAGNOSES = ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")
_MESSAGE_TIMEOUT_S = 120


def look_at_machine() -> dict[str, Look]:
    """Return the checks that need neither recipe nor model."""
    return {
        "python": describe_python,
        "devices": describe_devices,
        "nccl": check_nccl,
        "switches": check_switches,
        "memory": describe_memory,
    }


def look_at_settings(recipe: Recipe, num_gpus: int | None = None) -> dict[str, Look]:
    """Return the checks of a recipe's batch, ranks and DeepSpeed configuration."""
    if num_gpus:
        recipe.training.ranks = num_gpus
    return {
        "ranks": lambda: _check_ranks(recipe),
        "batch": lambda: _check_batch(recipe),
        "launcher": check_surroundings,
    }


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


def describe_python() -> str:
    names = ("torch", "transformers", "peft", "accelerate", "deepspeed")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return f"Python {sys.version.split()[0]}, {', '.join(found)}"


def describe_devices() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cores, reason = hardware.usable_cores()
    counted = ", ".join(f"{count} × {name}" for name, count in Counter(gpus).items()) or "no CUDA GPU"
    return f"{counted}; {cores} CPU cores ({reason})"


def describe_memory() -> str:
    import torch

    available, total = hardware.memory_gib()
    text = f"{available:.1f} of {total:.1f} GiB free"
    tight = []
    for index in range(torch.cuda.device_count()):
        free, size = (amount / hardware.GIB for amount in torch.cuda.mem_get_info(index))
        text += f"; GPU {index}: {free:.1f} of {size:.1f} GiB free"
        if free < 0.5 * size:
            what = f"GPU {index} has {free:.1f} of {size:.1f} GiB free"
            tight.append(Problem(what, "nothing else should run there", "nvidia-smi names who holds the rest"))
    if tight:
        raise UserError(tight, ExitCode.UNAVAILABLE)
    return text


def check_nccl() -> str:
    """Say whether GPUs can talk directly. Raises UserError (69) when this PyTorch lets them not talk at all."""
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        return "no GPU, so none is needed: ranks on the CPU talk through gloo"
    if not torch.distributed.is_nccl_available():
        problem = Problem("this PyTorch has no NCCL", "a CUDA build on Linux", "make setup with TORCH_INDEX_URL=")
        raise UserError(problem, ExitCode.UNAVAILABLE)
    deaf = [(a, b) for a in range(count) for b in range(a + 1, count) if not torch.cuda.can_device_access_peer(a, b)]
    version = ".".join(map(str, torch.cuda.nccl.version()))
    reach = f"no direct way between GPUs {deaf[:4]}" if deaf else "every GPU reaches every other"
    notes = "".join(f"\nwarning: {name} is set: GPUs talk the slow way" for name in _switched_off())
    return f"NCCL {version}, {reach}{notes}"


def check_switches() -> str:
    """Object to the variables that turn direct ways between GPUs off: they are for finding a cause."""
    problems = [
        Problem(f"{name}={os.environ[name]}", "a diagnosis, not a setting: it makes GPUs talk the slow way",
                f"unset {name} once the cause is found")
        for name in _switched_off()
    ]  # fmt: skip
    if problems:
        raise UserError(problems, ExitCode.CONFIG)
    return f"neither {' nor '.join(_DIAGNOSES)} is set"


def _switched_off() -> list[str]:
    return [name for name in _DIAGNOSES if os.environ.get(name, "0") not in ("", "0")]


def check_messages(count: int | None = None) -> str:
    """Let ``count`` GPUs (all unless given; without any: two processes on the CPU) add up a number, each in a process.

    Raises UserError (69) with the last word of the process that failed.
    """
    import torch

    count = count or torch.cuda.device_count()
    backend, size = ("nccl", count) if count else ("gloo", 2)
    code = (
        "import os, torch, torch.distributed as dist\n"
        f"rank = int(os.environ['RANK']); backend = '{backend}'\n"
        "device = torch.device('cuda', rank) if backend == 'nccl' else torch.device('cpu')\n"
        "dist.init_process_group(backend); total = torch.ones(1, device=device); dist.all_reduce(total)\n"
        f"assert total.item() == {size}, total; dist.destroy_process_group()"
    )
    port = free_port()
    ranks = [_start_rank(code, rank, size, port) for rank in range(size)]
    try:
        errors = [rank.communicate(timeout=_MESSAGE_TIMEOUT_S)[1] for rank in ranks]
    except subprocess.TimeoutExpired:
        errors = [f"no answer within {_MESSAGE_TIMEOUT_S} s"]
    finally:
        for rank in ranks:
            rank.kill()
    if any(rank.wait() for rank in ranks):
        last = next((error.strip().splitlines()[-1] for error in errors if error.strip()), "no word")
        remedy = "NCCL_DEBUG=INFO shows where; on trial, NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1"
        raise UserError(Problem(f"{size} ranks do not reach each other: {last}", "", remedy), ExitCode.UNAVAILABLE)
    return f"{size} ranks added up a number through {backend}"


def check_surroundings() -> str:
    """Object to variables of another launcher: ranks would take them for their own."""
    found = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ]
    if found:
        raise UserError(
            Problem(f"{', '.join(found)} is set here", "a launcher sets it for its ranks", f"unset {' '.join(found)}"),
            ExitCode.CONFIG,
        )
    return "no other launcher's variables"


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


def _check_ranks(recipe: Recipe) -> str:
    if not recipe.training.deepspeed:
        return "one process"
    engine.check_devices(recipe.training)
    world = engine.count_ranks(recipe.training)
    return f"{world} on {'the CPU' if recipe.training.device == 'cpu' else 'GPUs'}"


def _check_batch(recipe: Recipe) -> str:
    if recipe.training.deepspeed:
        engine.check_config(recipe)
    return engine.describe_plan(recipe)


def check_fit(recipe: Recipe, spec: str | None = None) -> str:
    """Raise UserError (69) when an example of the longest kind cannot be trained on, all layers recomputed."""
    import torch

    from common.generation.arms import find_local

    folder, _ = find_local(spec or recipe.model.name)
    device, tokens = recipe.training.device, recipe.data.max_length_tokens
    if device == "cuda" and not torch.cuda.is_available():
        return "not known without a GPU"
    device = hardware.pick_device(device).value
    precision = hardware.pick_precision(recipe.model.precision, device).value
    config = models.read_config(folder)
    need = footprint.estimate_training(config, recipe.method, precision, tokens, checkpoint_every=1)
    return f"{tokens:,} tokens: {check_memory(need, device)}"


def _load(recipe: Recipe, spec: str | None, device_map: str | dict | None, loaded: list) -> str:
    from common.generation.arms import find_local
    from common.methods import add_method
    from common.models import load_model

    base, adapter = find_local(spec or recipe.model.name)
    precision = "fp32" if recipe.model.precision == "auto" else recipe.model.precision
    model = load_model(base, precision, device_map=device_map)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=True, local_files_only=True)
    else:
        model = add_method(model, recipe.method, base_name=recipe.model.name)
    loaded.append(model)
    return f"{base}" + (f" with the adapter in {adapter}" if adapter else " with a fresh adapter")


def _start_rank(code: str, rank: int, size: int, port: int) -> subprocess.Popen:
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in place.items()}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
