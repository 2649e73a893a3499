"""report.html of a run, and runs side by side, from files alone. Run: pytest tests/unit/test_run_page.py"""

import importlib
import json
import re
import sys

import pytest

from common.errors import run_command
from common.report import curves
from common.report.run_page import is_of_run, render_run_page, write_run_page
from common.runs.results import read_result

SETTINGS = {
    "model": {"name": "org/base", "precision": "bf16", "revision": None},
    "data": {"train": "t.jsonl"},
    "method": {"kind": "lora", "targets": ["q_proj", "v_proj"]},
    "training": {"epochs": 2, "learning_rate": 2e-4},
    "evaluation": {},
    "output": {"folder": None},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a run of a name; keywords replace what its manifest says."""
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))

    def write(name, *, done=True, **manifest):
        folder = tmp_path / name
        folder.mkdir()
        leaks = {"exact": 0, "normalised": 0, "prompt": 3, "13-gram": 0, "allowed": True}
        data = {"path": "t.jsonl", "examples": 5, "sha256": "ab" * 32, "shape": "messages", "notes": ["<b>odd</b>"]}
        files = {
            "run.json": {"recipe": "demo", "argv": ["python/finetune_ba.py", "--run", name], "settings": SETTINGS,
                         "data": {"train": data, "validation": data | {"leaks": leaks}},
                         "plan": {"from": "make plan", "memory": {"weights": 1.0, "total": 2.0}, "train_s": 9.0,
                                  "low_s": 8.0, "high_s": 10.0, "tokens_per_s": 90.0}} | manifest,
            "status.json": {"state": "completed", "step": 2, "total_steps": 2, "tokens_per_s": 100.0},
            "epoch_info.json": [{"epoch": 1.0, "train_loss": 2.0, "eval_loss": 1.5, "learning_rate": 1e-4,
                                 "global_step": 2, "path": "checkpoint-2", "timestamp": "2026-11-25T10:00:00"}],
            "training_info.json": {"plan": {"peak_gib": 1.9, "planned_gib": 2.0, "peak_off": -0.05, "train_s": 9.9,
                                            "planned_s": 9.0, "time_off": 0.1}},
        }  # fmt: skip
        if done:
            files["DONE.json"] = {"finished_at": "2026-11-25T10:00:00", "data_changed": ["train"]}
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content))
        metrics = [{"step": n, "loss": 3.0 - n, "tokens_per_s": 100.0, "peak_rss_gib": 1.9} for n in (1, 2)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))
        (folder / "train.log").write_text("warning: <script>alert(1)</script>\n")
        (folder / "README.md").write_text('```python\nload("path/to/this/folder")\n```\n')
        return folder

    return write


def test_the_page_tells_all_and_needs_nothing_else(write):
    page = write_run_page(write("mine")).read_text()
    for words in (
        "mine <span",
        "completed",
        "q_proj, v_proj",
        "−5 %",
        "+10 %",
        "1.5000",
        "python/finetune_ba.py --run mine",
        "load(&#34;runs/mine&#34;)",
        "make reproduce RUN=mine",
        "The file of the train data changed",
        "3 prompt",
    ):
        assert words in page, words  # fmt: skip
    assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|url\(""", page)
    assert page.count("<polyline") == 4 and 'class="level"' in page


def test_only_what_the_run_can_do_is_offered(write):
    """Adapters that are no LoRA cannot be merged, and the name in the run's own command is taken."""
    page = render_run_page(write("mine"))
    assert "make export RUN=mine" in page and ".venv/bin/python python/finetune_ba.py" not in page
    for kind in ("adapter", "ptuning"):
        page = render_run_page(write(kind, settings=SETTINGS | {"method": {"kind": kind}}))
        assert f"make chat RUN={kind}" in page and "make export" not in page


def test_the_processs_memory_is_drawn_beside_a_plan_of_it_only(write):
    trainings = [{"training": {"device": device}} for device in ("cpu", "cuda")]
    pages = [render_run_page(write(f"mine-{n}", settings=SETTINGS | own)) for n, own in enumerate(trainings)]
    assert [page.count('class="level"') for page in pages] == [2, 1]  # that of the speed stays


def test_nothing_that_data_or_logs_hold_becomes_markup(write):
    page = render_run_page(write("mine"))
    assert "<script" not in page and "<b>odd" not in page and "&lt;b&gt;odd&lt;/b&gt;" in page


def test_a_run_that_died_early_shows_what_it_has(write):
    folder = write("early", done=False)
    for file in folder.iterdir():
        if file.name not in ("run.json", "status.json"):
            file.unlink()
    (folder / "run.json").write_text('{"settings": {}}')
    (folder / "status.json").write_text('{"state": "failed", "exit_code": 70, "error": "the loss is <nan>"}')
    page = render_run_page(folder)
    assert "the loss is &lt;nan&gt;" in page and "make resume RUN=early" in page
    (folder / "run.json").unlink()
    assert "make resume" in render_run_page(folder)


def test_the_verdict_is_on_the_page_once_there_is_one(write):
    folder = write("judged")
    assert "make compare RUN=judged" in render_run_page(folder) and "compare/report.html" not in render_run_page(folder)
    (folder / "compare").mkdir()
    scores = {"mean": 0.9, "mean_interval": {"low": 0.8, "high": 0.95}, "n": 22, "pass_at_0.9": {"count": 20}}
    model = {"scores": scores, "answers": {"truncated": 0, "empty": 1}}
    report = {"models": {"finetuned": model}, "comparison": {"decision": {"verdict": "ADOPT", "reasons": ["a gain"]}}}
    path = folder / "compare" / "report.json"
    path.write_text(json.dumps(report))
    page = render_run_page(folder)
    assert is_of_run(path) and "Adopt the fine-tuned model" in page and "20/22" in page and "80.0 to 95.0 %" in page


def test_curves_stay_within_their_frame_whatever_they_show():
    drawing = curves.draw_curves([("x", "baseline", [(k, 1e6 if k % 2 else 0.0) for k in range(5000)])], "t", str)
    (points,) = re.findall(r'points="([^"]*)"', drawing)
    places = [tuple(map(float, pair.split(","))) for pair in points.split()]
    assert len(places) == curves.MOST_POINTS and all(0 <= value <= 100 for place in places for value in place)
    assert curves.draw_curves([("x", "baseline", [])], "t", str) == ""
    assert curves.draw_curves([("x", "baseline", [(1, 0.0)])], "t", str)
    assert curves.round_ticks(0, 78) == [0, 20, 40, 60] and curves.round_ticks(0, 3.1) == [0, 1, 2, 3]
    assert curves.round_ticks(0, 0.02)[-1] <= 0.02 and len(curves.round_ticks(0, 7000)) <= 6


def list_runs(monkeypatch, capfd, *words):
    monkeypatch.setattr(sys, "argv", ["list_runs.py", *words])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module("list_runs").main)
    return end.value.code, capfd.readouterr()


def test_runs_side_by_side_show_what_differs(write, monkeypatch, capfd):
    write("one")
    write("two", settings=SETTINGS | {"training": {"epochs": 5, "learning_rate": 2e-4}})
    code, said = list_runs(monkeypatch, capfd, "one two")
    assert code == 0 and re.search(r"training\.epochs +2 +5", said.out) and "learning_rate" not in said.out
    assert re.search(r"eval_loss +1\.5000 +1\.5000", said.out)
    code, said = list_runs(monkeypatch, capfd, "--json", "one", "two")
    record = json.loads(said.out)
    assert record["settings"] == {"training.epochs": [2, 5]} and record["runs"][0]["peak_gib"] is None
    code, said = list_runs(monkeypatch, capfd)
    assert code == 0 and said.out.count("completed") == 2
    assert list_runs(monkeypatch, capfd, "on")[0] == 66


def test_the_time_of_a_resumed_run_is_that_of_all_its_attempts(write):
    """The first was stopped after 60 s, the second killed 30 s after it began, at the last step that it logged."""
    at = "2026-11-25T10:{}+00:00".format
    attempts = [
        {"started_at": at("00:00"), "ended_at": at("01:00")},
        {"started_at": at("10:00")},
        {"started_at": at("20:00")},
    ]
    folder = write("mine", attempts=attempts)
    steps = [{"step": n, "loss": 1.0, "time": at(time)} for n, time in enumerate(("00:50", "10:10", "10:30", "20:10"))]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    assert read_result(folder)["took"] is None  # the last attempt has not said yet
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"elapsed_s": 12.5}))
    assert read_result(folder)["took"] == 60 + 30 + 12.5


def test_no_runs_is_no_error(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "none"))
    assert list_runs(monkeypatch, capfd)[0] == 0 and not list(tmp_path.iterdir())
