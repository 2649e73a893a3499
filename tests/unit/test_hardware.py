"""The choices of device, precision and threads, each with its reason. Run: pytest tests/unit/test_hardware.py"""

import os
from pathlib import Path

import pytest

from common import hardware
from common.errors import ExitCode, UserError

ROOT = Path(__file__).parents[2]


def test_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx2", "amx_bf16", "avx512_bf16"})
    assert hardware.pick_precision("auto", "cpu") == ("bf16", "this CPU has amx_bf16")
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx2"})
    assert hardware.pick_precision("auto", "cpu").value == "fp32"
    wish = hardware.pick_precision("bf16", "cpu")
    assert wish.value == "bf16"
    assert "fp32 would be faster" in wish.reason


def test_nf4_is_refused_on_a_mac(monkeypatch):
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    with pytest.raises(UserError, match="nf4 is not available on macOS") as caught:
        hardware.pick_precision("nf4", "cpu")
    assert caught.value.exit_code == ExitCode.UNAVAILABLE


@pytest.fixture
def apple(monkeypatch):
    """An Apple GPU, as far as PyTorch's public interface tells; call it with the version of macOS."""
    import torch

    def with_macos(version: int, recommended_gib: float = 12.0, allocated_gib: float = 1.0):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.backends.mps, "is_macos_or_newer", lambda major, minor: (version, 0) >= (major, minor)
        )
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: recommended_gib * hardware.GIB)
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: allocated_gib * hardware.GIB)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return with_macos


@pytest.fixture
def card(monkeypatch):
    """A CUDA card, as far as PyTorch's public interface tells; call it with whether it has bf16."""
    import torch

    def with_bf16(has_bf16: bool):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)

    return with_bf16


def test_a_mac_computes_on_its_gpu_in_the_half_precision_it_has(apple):
    apple(14)
    assert hardware.pick_device("auto") == ("mps", "an Apple GPU is here")
    assert hardware.pick_precision("auto", "mps").value == "bf16"
    apple(13)
    assert hardware.pick_precision("auto", "mps") == ("fp16", "bf16 needs macOS 14")
    with pytest.raises(UserError, match="bf16 is not available: bf16 needs macOS 14 — allowed: auto, fp16, fp32"):
        hardware.pick_precision("bf16", "mps")
    assert hardware.pick_precision("fp32", "mps").value == "fp32"


def test_nothing_is_quantised_on_an_apple_gpu(apple):
    apple(14)
    with pytest.raises(UserError, match="precision nf4 on an Apple GPU") as caught:
        hardware.pick_precision("nf4", "mps")
    assert caught.value.exit_code == ExitCode.CONFIG


def test_memory_of_an_apple_gpu_is_what_metal_recommends_less_what_is_taken(apple, monkeypatch):
    apple(14)
    free = type("Memory", (), {"available": 64 * hardware.GIB, "total": 64 * hardware.GIB})
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: free)
    assert hardware.memory_gib("mps") == (11.0, 12.0)


def test_dropout_on_an_apple_gpu_depends_on_seed_and_step(monkeypatch):
    """It must not depend on what was drawn before: a checkpoint does not hold Metal's random state."""
    import torch

    drawn = []
    monkeypatch.setattr(torch.mps, "manual_seed", drawn.append)
    for seed, step in ((42, 0), (42, 1), (43, 0), (42, 1)):
        hardware.reseed_apple_gpu("mps", seed, step)
    assert drawn[1] == drawn[3] and len(set(drawn)) == 3
    hardware.reseed_apple_gpu("cuda", 42, 0)
    assert len(drawn) == 4


def test_a_card_without_bf16_multiplies_in_fp16(card):
    card(True)
    assert hardware.pick_device("auto").value == "cuda"
    assert hardware.pick_compute("auto", "nf4", "cuda") == ("bf16", "Card computes in it")
    card(False)
    assert hardware.pick_compute("auto", "nf4", "cuda") == ("fp16", "Card has no bf16, cards before Ampere do not")
    assert hardware.pick_precision("auto", "cuda").value == "fp16"
    with pytest.raises(UserError, match="bf16 is not available: Card has no bf16"):
        hardware.pick_compute("bf16", "nf4", "cuda")


def test_where_fp16_is_not_to_be_had_a_card_without_bf16_has_fp32(card):
    card(False)
    choice = hardware.pick_precision("auto", "cuda", fp16=False)
    assert choice.value == "fp32" and choice.reason.startswith("Card has no bf16")
    with pytest.raises(UserError, match="Card has no bf16.* — allowed: auto, fp32 — --set model.precision=fp32"):
        hardware.pick_precision("bf16", "cuda", fp16=False)


def test_a_cpu_multiplies_nf4_as_it_multiplies_anything(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx512_bf16"})
    assert hardware.pick_compute("auto", "nf4", "cpu").value == "bf16"
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx2"})
    assert hardware.pick_compute("auto", "nf4", "cpu").value == "fp32"
    assert hardware.pick_compute("auto", "bf16", "cpu") == ("bf16", "as the weights")


@pytest.mark.parametrize("flag", ["amx_int8", "avx512_vnni", "avx_vnni"])
def test_a_cpu_with_int8_instructions_multiplies_in_them_when_asked_to(monkeypatch, flag):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx2", flag})
    assert hardware.pick_compute("int8", "fp32", "cpu") == ("int8", f"asked for; this CPU has {flag}")
    assert hardware.pick_compute("auto", "fp32", "cpu").value == "fp32"


@pytest.mark.parametrize(
    ("precision", "device", "flags", "code", "words"),
    [
        ("bf16", "cuda", {"avx_vnni"}, 78, "compute int8 on the device cuda — it is made for CPUs"),
        ("nf4", "cpu", {"avx_vnni"}, 78, "compute int8 of weights in nf4 — auto, bf16, fp16, fp32"),
        ("fp32", "cpu", {"avx2"}, 69, "no int8 instructions — it needs one of amx_int8, avx512_vnni, avx_vnni"),
    ],
)
def test_where_products_in_int8_are_not_to_be_had_that_is_said(monkeypatch, precision, device, flags, code, words):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    with pytest.raises(UserError, match=f"{words} — --set model.compute=auto") as error:
        hardware.pick_compute("int8", precision, device)
    assert error.value.exit_code == code


def test_moments_in_eight_bits_are_for_cuda():
    assert hardware.pick_optimizer("paged_adamw_8bit", "cuda").value == "paged_adamw_8bit"
    for device in ("cpu", "mps"):
        choice = hardware.pick_optimizer("paged_adamw_8bit", device)
        assert choice.value == "adamw_torch" and "need CUDA" in choice.reason
    assert hardware.pick_optimizer("adamw_torch", "cpu") == ("adamw_torch", "asked for")


def test_an_absent_device_is_an_error_not_a_slow_surprise(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device cuda is not available — here: ") as caught:
        hardware.pick_device("cuda")
    assert caught.value.exit_code == ExitCode.UNAVAILABLE


def test_a_containers_cpu_limit_is_respected(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("this machine has one core, no limit is smaller")
    assert hardware.pick_threads() == (1, "the container's limit of 0.5 CPUs")


def test_no_limit_means_all_cores(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert hardware.pick_threads().value >= 1
    assert hardware.pick_threads(3).value == 3


def test_a_containers_memory_limit_is_respected(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text(str(2 * hardware.GIB))
    (tmp_path / "memory.current").write_text(str(hardware.GIB // 2))
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    available, total = hardware.memory_gib()
    assert total == 2.0
    assert available <= 1.5


@pytest.mark.parametrize(
    "names, kinds",
    [
        (("memory.max", "memory.current", "memory.stat"), ("inactive_file", "active_file")),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            ("total_inactive_file", "total_active_file"),
        ),
    ],
    ids=["v2", "v1"],
)
def test_pages_of_files_in_a_container_are_free(monkeypatch, tmp_path, names, kinds):
    """A model that was just downloaded, or trained on, fills the page cache; it gives way."""
    free = type("Memory", (), {"available": 64 * hardware.GIB, "total": 64 * hardware.GIB})
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    stat = f"anon 7\n{kinds[0]} {9 * hardware.GIB}\n{kinds[1]} {4 * hardware.GIB}\n"
    for name, content in zip(names, (24 * hardware.GIB, 15 * hardware.GIB, stat), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(str(content))
    assert hardware.memory_gib() == (22.0, 24.0)


def test_the_limits_of_version_1_count_too(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert hardware._cgroup_cpu_quota() is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert hardware._cgroup_cpu_quota() == 1.5


def test_space_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert hardware.free_disk_gib(tmp_path / "a" / "b") == pytest.approx(hardware.free_disk_gib(tmp_path), rel=0.01)
