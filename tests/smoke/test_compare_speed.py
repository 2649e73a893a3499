"""The speed measurement itself: all ways answer the same, and the figures follow from the times."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "unit"))
from answering_models import make_model  # noqa: E402

pytestmark = pytest.mark.smoke


def test_bench_measures_all_ways_on_equal_answers(tmp_path):
    model = make_model(tmp_path / "model", ["Concept: library loans"], max_positions=2048)
    options = ["--model", model, "--items", "6", "--max-new-tokens", "16", "--repeats", "2", "--batch-sizes", "3", "6"]
    environment = os.environ | {"RECETARIO_RUNS": str(tmp_path / "runs"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "python" / "bench_generate.py"), *map(str, options)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs" / "bench" / "generate.json").read_text())
    assert set(result["seconds"]) == {"one_by_one", "batches_of_3", "batches_of_6", "ours"}
    assert result["answers_equal"] == dict.fromkeys(result["seconds"], 6)
    best = min(result["seconds"]["ours"])
    assert result["items_per_s"]["ours"] == pytest.approx(6 / best, rel=0.02)
    assert result["times_one_by_one"] == pytest.approx(result["seconds"]["one_by_one"][0] / best, rel=0.02)
    assert 0 < result["answer_tokens"] <= 6 * 16
    assert "times one by one" in done.stdout
