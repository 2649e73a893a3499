"""python/bench.py runs from end to end, on the demo model. Run: pytest tests/smoke/test_bench.py"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import hardware

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.smoke


def test_ours_and_the_stock_trainer_are_compared_on_the_same_examples(tmp_path):
    words = ["--model", "recipes/demo/model", "--steps", "1", "--repeats", "1", "--workloads", "shared"]
    environment = os.environ | {"RECETARIO_RUNS": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "python" / "bench.py"), *words, "--arms", "trainer", "ours"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    report = json.loads((tmp_path / "bench" / "cpu.json").read_text())
    shared = report["workloads"]["shared"]
    assert report["gradient_rel_diff"] <= 1e-5
    assert report["gemm_tflops"] > 0 and report["machine"]["cores"] >= 1
    assert shared["examples"] == 8 and shared["computed_tokens"] < shared["tokens"]
    assert all(arm["seconds"] > 0 and arm["peak_rss_gib"] > 0 for arm in shared["arms"].values())
    assert shared["ratio_vs_trainer"] == shared["arms"]["trainer"]["seconds"] / shared["arms"]["ours"]["seconds"]
    assert f"{shared['prompt_share']:.0%} prompt" in answer.stdout


@pytest.mark.skipif(not hardware.int8_flag(), reason="this CPU has no int8 instructions")
def test_products_in_int8_are_an_arm_of_their_own(tmp_path):
    command = [sys.executable, ROOT / "python" / "bench.py", "--model", "recipes/demo/model", "--steps", "1"]
    command += ["--repeats", "1", "--workloads", "plain", "--arms", "ours", "ours_int8"]
    environment = os.environ | {"RECETARIO_RUNS": str(tmp_path)}
    answer = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    plain = json.loads((tmp_path / "bench" / "cpu.json").read_text())["workloads"]["plain"]
    seconds = {arm: figures["seconds"] for arm, figures in plain["arms"].items()}
    assert plain["ratio_vs_ours_int8"] == seconds["ours_int8"] / seconds["ours"]


def test_gradients_are_compared_with_a_beginning_packs_of_several_and_lean_layers(monkeypatch):
    from common import lean_layers, packed_model
    from common.benchmarks.probes import gradient_difference

    packs, lean = [], []
    begin, use_lean_layers = packed_model.begin, lean_layers.use_lean_layers
    monkeypatch.setattr(packed_model, "begin", lambda model, given: packs.extend(given) or begin(model, given))
    monkeypatch.setattr(lean_layers, "use_lean_layers", lambda model: lean.append(model) or use_lean_layers(model))
    assert 0 < gradient_difference() <= 1e-5
    assert lean and len(packs) >= 8 and all(pack.layout.begun == 40 for pack in packs)
    assert any(len(pack.layout.segments) > 1 for pack in packs)
