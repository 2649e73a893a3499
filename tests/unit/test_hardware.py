"""The choices of device, precision and threads, each with its reason. Run: pytest tests/unit/test_hardware.py"""

import os
import platform
import subprocess
import sys
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


_FREE_BELOW_A_PIN = """
import sys
import numpy, psutil
from common.hardware import return_freed_memory
if sys.argv[1] == "with":
    assert return_freed_memory()
del (first := {0: numpy.ones(3 * 2**20)})[0]  # 24 MiB; from here on glibc takes such blocks from its own heap
block = {0: numpy.ones(3 * 2**20)}
pin = numpy.ones(2**12)
before = psutil.Process().memory_info().rss
del block[0]
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_freed_tensors_go_back_to_the_system():
    def freed(how):
        command = [sys.executable, "-c", _FREE_BELOW_A_PIN, how]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return int(done.stdout)

    assert freed("without") < 2**20 and freed("with") > 20 * 2**20
