"""How near plans come: the demo's is measured here, the others' are in docs/planning.md.

Run: pytest tests/smoke/test_bench_plan.py
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMORY_GOAL = 0.15
ROW = re.compile(
    r"\| `(?P<case>[\w-]+)`: [^|]+ \| (?P<gib>[\d.]+), (?P<found_gib>[\d.]+) GiB, (?P<gib_off>[+−]\d+) % "
    r"\| (?P<s>[\d.]+), (?P<found_s>[\d.]+) s, (?P<s_off>[+−]\d+) %"
)
pytestmark = pytest.mark.smoke


def test_the_demo_takes_the_memory_that_was_planned(tmp_path):
    command = [sys.executable, str(ROOT / "python" / "bench_plan.py"), "--cases", "demo"]
    environment = os.environ | {"RECETARIO_RUNS": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (case,) = json.loads((tmp_path / "bench" / "plan.json").read_text())["cases"]
    assert case["plan_from"] == "make plan"
    assert abs(case["peak_off"]) <= MEMORY_GOAL, case
    assert 0 < case["low_s"] < case["planned_s"] < case["high_s"] and case["time_off"] is not None


def test_the_table_has_every_case_and_tells_the_truth_about_it():
    from bench_plan import CASES

    rows = list(map(ROW.match, (ROOT / "docs" / "planning.md").read_text(encoding="utf-8").splitlines()))
    rows = [row for row in rows if row]
    assert [row["case"] for row in rows] == list(CASES)
    for row in rows:
        for planned, found, off in (("gib", "found_gib", "gib_off"), ("s", "found_s", "s_off")):
            told = float(row[off].replace("−", "-")) / 100
            assert float(row[found]) / float(row[planned]) - 1 == pytest.approx(told, abs=0.015), row[0]
        assert abs(float(row["gib_off"].replace("−", "-"))) <= 100 * MEMORY_GOAL
