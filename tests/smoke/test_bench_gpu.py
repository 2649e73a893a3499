"""python/bench_gpu.py runs from end to end; on the CPU, so its figures mean nothing.

Run: pytest tests/smoke/test_bench_gpu.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.smoke


def test_every_arm_trains_the_small_shape(tmp_path):
    words = ["--device", "cpu", "--shape", "small", "--lengths", "64", "--steps", "1", "--micro-batch", "2"]
    environment = os.environ | {"RECETARIO_RUNS": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "python" / "bench_gpu.py"), *words, "--arms", "trl_tuned", "ours"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    arms = json.loads((tmp_path / "bench" / "gpu.json").read_text())["lengths"]["64"]
    assert all(arm["tokens_per_s"] > 0 and arm["matrix_rate_share"] > 0 for arm in arms.values()), answer.stdout
    assert arms["ours"]["loss"] == pytest.approx(arms["trl_tuned"]["loss"], rel=0.02)  # the same work: bf16 apart
