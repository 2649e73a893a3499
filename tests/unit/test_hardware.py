"""The choices of device, precision and threads, each with its reason. Run: pytest tests/unit/test_hardware.py"""

import os

import pytest

from common import hardware
from common.errors import ExitCode, UserError


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


def test_space_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert hardware.free_disk_gib(tmp_path / "a" / "b") == pytest.approx(hardware.free_disk_gib(tmp_path), rel=0.01)
