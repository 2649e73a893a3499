"""What goes wrong with trainings on several GPUs, looked for one by one, each with its remedy.

These checks of the machine and the settings load nothing; :mod:`common.model_diagnosis` has those of a model.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib import metadata

from common import engine, hardware
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
    counted = ", ".join(f"{count} × {name}" for name, count in Counter(gpus).items())
    other = "an Apple GPU" if torch.backends.mps.is_available() else "no CUDA GPU"
    return f"{counted or other}; {cores} CPU cores ({reason})"


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
        return "no CUDA GPU, so none is needed: ranks on the CPU talk through gloo"
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


def _start_rank(code: str, rank: int, size: int, port: int) -> subprocess.Popen:
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in place.items()}
    command = [sys.executable, "-c", code]
    output = None if "NCCL_DEBUG" in os.environ else subprocess.DEVNULL  # that is where NCCL says what it does
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True)
