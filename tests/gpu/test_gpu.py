"""What only a CUDA GPU can show; skipped with the reason where there is none. Run: pytest tests/gpu"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none"),
]


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "RECETARIO_RUNS": str(folder),
        "RECETARIO_PYTHON": sys.executable,
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, check=False)


def test_a_rank_on_the_gpu_trains_in_bf16(tmp_path):
    words = ("--smoke", "--set", "training.device=cuda", "--set", "model.precision=bf16", "--run", "gpu")
    data = ("--data", "recipes/demo/data/train.jsonl", "--validation", "recipes/demo/data/validation.jsonl")
    answer = run(tmp_path, "deepspeed", "--num_gpus=1", "python/main.py", *words, *data)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    losses = [json.loads(line) for line in (tmp_path / "gpu" / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in record for record in losses) == 4
    assert (tmp_path / "gpu" / "DONE.json").is_file()


def test_the_diagnosis_finds_nothing_wrong(tmp_path):
    words = ("--recipe", "frida-h100", "--model", "recipes/demo/model", "--num-gpus", "1", "--nccl")
    answer = run(tmp_path, sys.executable, "python/debug_model.py", *words)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_benchmark_beats_trl(tmp_path):
    words = ("--shape", "mistral-7b", "--lengths", "2048", "--steps", "5")
    answer = run(tmp_path, sys.executable, "python/bench_gpu.py", *words)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    arms = json.loads((tmp_path / "bench" / "gpu.json").read_text())["lengths"]["2048"]
    assert arms["ours"]["tokens_per_s"] > arms["trl_default"]["tokens_per_s"]
