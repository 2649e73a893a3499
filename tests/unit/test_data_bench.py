"""The data benchmark measures real work on rows that are the same each time.

pytest tests/unit/test_data_bench.py
"""

import importlib
import json
import sys

import pytest
from chat_tokenizers import demo_tokenizer

import bench_data
from common.benchmarks.apart import run_apart
from common.benchmarks.data import write_rows
from common.data import load_examples
from common.errors import ExitCode, UserError, run_command


def test_rows_are_the_same_each_time_and_usable(tmp_path):
    write_rows(tmp_path / "a.jsonl", 1500)
    write_rows(tmp_path / "b.jsonl", 1500)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    loaded = load_examples(tmp_path / "a.jsonl")
    assert (len(loaded), loaded.shape, loaded.notes) == (1500, "question/answer", [])
    assert 900 < (tmp_path / "a.jsonl").stat().st_size / 1500 < 1200, "about 1 kB a row"


@pytest.mark.skipif(not importlib.util.find_spec("datasets"), reason="the package datasets, compared with, is absent")
def test_the_result_has_its_figures(tmp_path, monkeypatch, capfd):
    demo_tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["bench_data.py", "--rows", "1200", "--model", "model"])
    with pytest.raises(SystemExit) as end:
        run_command(bench_data.main)
    assert end.value.code == 0, capfd.readouterr().err
    (path,) = (tmp_path / "runs" / "bench").iterdir()
    result = json.loads(path.read_text())
    assert path.name == "data.json"
    assert result["rows"] == 1200
    assert result["rows_per_s"] == round(1200 / result["pipeline"]["wall_s"])
    assert result["ratio_vs_datasets_map"] == pytest.approx(
        result["datasets_map"]["wall_s"] / result["pipeline"]["wall_s"], abs=0.01
    )
    assert 0.05 < result["peak_rss_gib"] < 2
    assert result["tokens"] > 100 * 1200
    assert result["machine"]["cores"] >= 1
    assert len(result["date"]) == 10


def test_a_part_gives_its_figures_or_says_why_not(tmp_path):
    command = tmp_path / "part.py"
    command.write_text(
        "import json, sys\nprint('noise')\nprint('RESULT ' + json.dumps({'words': sys.argv[1:]}))\n"
        "print('more noise')\nif 'fail' in sys.argv: sys.exit('out of luck')\n"
    )
    watched = []
    figures = run_apart(command, ["--steps", 3], watch=lambda process: watched.append(process.wait()))
    assert (figures, watched) == ({"words": ["--steps", "3"]}, [0])
    with pytest.raises(UserError, match="part.py fail failed: out of luck") as caught:
        run_apart(command, ["fail"])
    assert caught.value.exit_code == ExitCode.INTERNAL
    command.write_text("print('nothing measured')")
    with pytest.raises(UserError, match="exit code 0"):
        run_apart(command, [])
