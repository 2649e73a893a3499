"""What this machine offers, and the choices that follow. Every choice comes with its reason, to be printed."""

import os
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from common.errors import ExitCode, Problem, UserError

GIB = 1024**3
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_MEMORY = (  # of version 2, of version 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")  # x86 matrix tiles, x86 vectors, Arm
_INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni")  # of x86; others have not been tried
_DEVICE_REASONS = {  # none has both: Apple's machines have no CUDA
    "mps": "an Apple GPU is here",
    "cuda": "a CUDA device is here",
    "cpu": "no CUDA device or Apple GPU found",
}


class Choice(NamedTuple):
    """A decision and why it was taken."""

    value: Any
    reason: str


def pick_device(wanted: str = "auto") -> Choice:
    """Return "cuda", "mps" or "cpu". Raises UserError (69) when the wanted one is not there."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        best = next(device for device in ("mps", "cuda", "cpu") if present[device])
        return Choice(best, _DEVICE_REASONS[best])
    if not present[wanted]:
        here = ", ".join(device for device, is_there in present.items() if is_there)
        remedy = f"choose one with --set training.device=…; a run that has begun goes on where {wanted} is"
        raise UserError(Problem(f"device {wanted} is not available", f"here: {here}", remedy), ExitCode.UNAVAILABLE)
    return Choice(wanted, "asked for")


def pick_precision(wanted: str, device: str | None = None, *, fp16: bool = True) -> Choice:
    """Return "bf16", "fp16", "fp32" or "nf4" for the frozen weights on ``device``, else on the one picked here.

    On a CPU without bf16 instructions every bf16 product is converted first, which is slower than fp32: there "auto"
    means fp32. On a GPU it means bf16 where that is in hardware, else fp16, or fp32 where ``fp16`` is not to be had, as
    under DeepSpeed. An explicit wish is honoured and commented. Raises UserError: 78 for nf4 on an Apple GPU, 69 for
    nf4 where there is no build of it, and for bf16 on a GPU without it.
    """
    device = device or pick_device().value
    remedy = f"--set model.precision={'auto' if fp16 else 'fp32'}"
    if wanted == "nf4" and device == "mps":
        allowed = "bitsandbytes quantises for CUDA and CPUs: auto, bf16, fp16, fp32"
        raise UserError(Problem("precision nf4 on an Apple GPU", allowed, remedy), ExitCode.CONFIG)
    if wanted == "nf4" and sys.platform == "darwin":
        problem = Problem("precision nf4 is not available on macOS", "allowed: auto, bf16, fp32", remedy)
        raise UserError(problem, ExitCode.UNAVAILABLE)
    flag = bf16_flag() if device == "cpu" else None
    if wanted == "auto" and device == "cpu":
        return Choice("bf16", f"this CPU has {flag}") if flag else Choice("fp32", "this CPU has no bf16 instructions")
    half = pick_half(device) if device != "cpu" else None
    if wanted == "auto" and half.value == "fp16" and not fp16:
        return Choice("fp32", f"{half.reason}, and several processes do not train in fp16")
    if wanted == "auto":
        return half
    if wanted == "bf16" and half and half.value != "bf16":
        allowed = "allowed: auto, fp16, fp32" if fp16 else "allowed: auto, fp32"
        problem = Problem(f"bf16 is not available: {half.reason}", allowed, remedy)
        raise UserError(problem, ExitCode.UNAVAILABLE)
    if wanted == "bf16" and device == "cpu" and not flag:
        return Choice("bf16", "asked for; this CPU has no bf16 instructions, fp32 would be faster")
    if wanted == "fp16" and device == "cpu":
        return Choice("fp16", "asked for; few CPUs multiply in fp16, fp32 would be faster")
    return Choice(wanted, "asked for")


def pick_half(device: str) -> Choice:
    """Return "bf16" where the GPU computes in it, else "fp16".

    CUDA: in hardware from compute capability 8.0 (Ampere) on; what PyTorch emulates before it is slower than fp16.
    Apple: from macOS 14 on.
    """
    import torch

    if device == "mps":
        has_bf16 = torch.backends.mps.is_macos_or_newer(14, 0)
        return Choice("bf16", "macOS 14 and newer compute in it") if has_bf16 else Choice("fp16", "bf16 needs macOS 14")
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice("bf16", f"{name} computes in it")
    return Choice("fp16", f"{name} has no bf16, cards before Ampere do not")


def pick_compute(wanted: str, precision: str, device: str) -> Choice:
    """Return in what frozen weights of ``precision`` are multiplied: NF4 is unpacked to it, others are as they are.

    On a CPU it is bf16 where that is in hardware, else fp32. "int8" rounds weights and what they are multiplied with.
    Raises UserError: 69 for bf16 on a GPU without it and for int8 on a CPU without it, 78 for int8 elsewhere.
    """
    if wanted == "int8":
        return _pick_int8(precision, device)
    if precision != "nf4":
        return Choice(precision, "as the weights")
    return pick_precision(wanted, device)


def _pick_int8(precision: str, device: str) -> Choice:
    remedy = "--set model.compute=auto"
    if device != "cpu":
        what = f"compute int8 on the device {device}"
        problem = Problem(what, "it is made for CPUs", f"{remedy}, or training.device=cpu")
        raise UserError(problem, ExitCode.CONFIG)
    if precision == "nf4":
        allowed = "auto, bf16, fp16, fp32"
        problem = Problem("compute int8 of weights in nf4", allowed, f"{remedy}, or model.precision=auto")
        raise UserError(problem, ExitCode.CONFIG)
    flag = int8_flag()
    if not flag:
        allowed = f"it needs one of {', '.join(_INT8_FLAGS)}"
        remedy += "; a run that has begun goes on where they are"
        raise UserError(Problem("this CPU has no int8 instructions", allowed, remedy), ExitCode.UNAVAILABLE)
    return Choice("int8", f"asked for; this CPU has {flag}")


def pick_optimizer(wanted: str, device: str) -> Choice:
    """Return the optimizer: what is wanted, but without CUDA no moments in 8 bits: there they are kept in fp32."""
    if wanted == "paged_adamw_8bit" and device != "cuda":
        return Choice("adamw_torch", f"in place of {wanted}: moments in 8 bits that page to the host need CUDA")
    return Choice(wanted, "asked for")


def pick_threads(wanted: int | None = None) -> Choice:
    """Return how many CPU threads to compute with: all this process may use, a container's limit respected."""
    usable = usable_cores()
    if wanted is None:
        return Choice(usable.value, usable.reason)
    if wanted > usable.value:
        return Choice(wanted, f"asked for; only {usable.value} cores are usable ({usable.reason})")
    return Choice(wanted, "asked for")


def usable_cores() -> Choice:
    """Return the number of physical cores this process may use, and what limits it."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    cores = Choice(min(logical, physical), "all cores" if logical >= physical else "the cores this process is bound to")
    quota = _cgroup_cpu_quota()
    if quota and quota < cores.value:
        return Choice(max(1, int(quota)), f"the container's limit of {quota:g} CPUs")
    return cores


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags as Linux or macOS names them, lower case; empty where they cannot be read."""
    if sys.platform == "darwin":
        import subprocess

        listing = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, check=False).stdout
        return {"bf16"} if "FEAT_BF16: 1" in listing else set()
    return set(_cpu_info("flags", "features").split())


def bf16_flag() -> str | None:
    """Return the CPU feature that makes bf16 products fast, or None when there is none."""
    return _first_flag(_BF16_FLAGS)


def int8_flag() -> str | None:
    """Return the CPU feature that makes products in int8 exact and fast, or None when there is none."""
    return _first_flag(_INT8_FLAGS)


def _first_flag(wanted: tuple[str, ...]) -> str | None:
    flags = cpu_flags()
    return next((flag for flag in wanted if flag in flags), None)


def memory_gib(device: str = "cpu") -> tuple[float, float]:
    """Return (available, total) memory in GiB that this process may use, a container's limit respected.

    For "cuda" it is the GPU's; for "mps" what Metal recommends as the most, of the memory that CPU and GPU share.
    """
    if device == "cuda":
        import torch

        available, total = torch.cuda.mem_get_info()
        return available / GIB, total / GIB
    memory = psutil.virtual_memory()
    available, total = memory.available, memory.total
    if device == "mps":
        import torch

        total = torch.mps.recommended_max_memory()
        return min(available, total - torch.mps.driver_allocated_memory()) / GIB, total / GIB
    limit, used = _cgroup_memory()
    if limit and limit < total:
        available, total = min(available, limit - used), limit
    return available / GIB, total / GIB


def free_disk_gib(folder: Path) -> float:
    """Return the free space in GiB for ``folder``, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return psutil.disk_usage(str(folder)).free / GIB


def reseed_apple_gpu(device: str, seed: int, step: int) -> None:
    """Seed an Apple GPU's dropout from seed and step, so that a resumed run draws what an undisturbed one does.

    transformers' checkpoints hold the random state of CPUs and CUDA devices, not that of Metal. Elsewhere: nothing.
    """
    if device == "mps":
        import torch

        torch.mps.manual_seed((seed * 1_000_003 + step) % 2**32)


def describe() -> dict[str, Any]:
    """Return what a manifest records of this machine."""
    available, total = memory_gib()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores().value,
        "bf16": bf16_flag(),
        "int8": int8_flag(),
        "memory_total_gib": round(total, 1),
        "memory_available_gib": round(available, 1),
    }


def _cpu_info(*names: str) -> str:
    """Return what Linux says of the first processor under one of ``names``, "" where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(names)), "")


def _cgroup_cpu_quota() -> float | None:
    """Return the CPUs that cgroup v2 grants, as in "150000 100000" → 1.5, or v1; None without a limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        quota, period = (_read_number(_CGROUP / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        return quota / period if quota and period and quota > 0 else None


def _cgroup_memory() -> tuple[int | None, int]:
    """Return (limit, used) in bytes of cgroup v2, else v1. What files take is not used: it gives way."""
    for limit_name, used_name in _CGROUP_MEMORY:
        limit, used = _read_number(_CGROUP / limit_name), _read_number(_CGROUP / used_name)
        if limit and used is not None:
            try:
                lines = (_CGROUP / used_name).with_name("memory.stat").read_text().splitlines()
            except OSError:
                lines = []
            stat = {name: int(number) for name, number in map(str.split, lines)}
            files = (stat.get(f"total_{kind}", stat.get(kind, 0)) for kind in ("inactive_file", "active_file"))
            return limit, max(0, used - sum(files))
    return None, 0


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # missing, or "max"
        return None
