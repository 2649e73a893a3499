"""Options that no command can follow: a line, an exit code, nothing written. Run: pytest tests/unit/test_commands.py"""

import importlib
import itertools
import os
import sys
from types import SimpleNamespace

import pytest

import remove_run
from common import runs
from common.errors import UserError, run_command
from common.options import PREVIEW_OPTIONS, recipe_from_options
from common.random_model import require_model


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("start_run --recipe demo --max-restarts -1", 64, "--max-restarts is -1"),
        ("plan --recipe demo --num-gpus 4", 64, "--num-gpus asks for 4 ranks, and one process trains demo"),
        ("soak --recipe demmo", 66, "did you mean demo?"),
        ("soak --kills 0", 64, "--kills is 0"),
        ("bench_data --rows 0", 64, "--rows is 0"),
        ("download_model ../model", 64, "'../model' is no hub id"),
        ("make_random_model --output /proc/model", 73, "cannot write in /proc"),
        ("bench --repeats 0", 64, "--repeats is 0"),
        ("bench --layers 0", 64, "--layers is 0"),
        ("bench --model /no/model", 66, "no model folder '/no/model'"),
        ("finetune_ba --recipe demo --set model.name=hf_abcdefgh1234", 64, "a token on the command line"),
        ("make_random_model --output /etc/hosts", 73, "/etc/hosts is there already"),
    ],
)
def test_a_line_an_exit_code_and_nothing_written(tmp_path, monkeypatch, capfd, line, code, words):
    command, *options = line.split()
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *options])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module(command).main)
    said = capfd.readouterr()
    assert end.value.code == code, said
    assert words in said.err and "Traceback" not in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_random_model_that_cannot_be_written_is_named_by_the_command_that_needs_it(monkeypatch):
    monkeypatch.setenv("RECETARIO_RUNS", "/proc/runs")
    with pytest.raises(UserError, match="make_random_model.py failed: .*cannot write in /proc/runs/models") as caught:
        require_model("mistral-7b", 1)
    assert caught.value.exit_code == 73


def test_the_doctor_looks_at_the_run_that_a_training_would_make(tmp_path, monkeypatch, capfd):
    done = tmp_path / "demo-smoke"
    done.mkdir()
    (done / "run.json").write_text("{}")
    (done / "status.json").write_text('{"state": "completed"}')
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["doctor.py", "demo", "--smoke"])
    with pytest.raises(SystemExit):
        run_command(importlib.import_module("doctor").main)
    said = capfd.readouterr().out
    assert f"✓ run         {tmp_path / 'demo-smoke-2'}" in said


def test_the_doctor_looks_at_data_and_settings_of_ones_own(tmp_path, monkeypatch, capfd):
    train = tmp_path / "my own.jsonl"
    train.write_text('{"prompt": "Hello?", "completion": "Hello."}\n')
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "runs"))
    line = ["demo", "--smoke", "--run", "mine", "--train", str(train), "--set", "training.seed=7 data.validation=null"]
    monkeypatch.setattr(sys, "argv", ["doctor.py", *line])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module("doctor").main)
    said = capfd.readouterr().out
    assert end.value.code == 0 and "✓ train       1 examples" in said and "✓ validation" not in said
    again = f"make train RECIPE=demo SMOKE=1 RUN=mine 'TRAIN={train}' 'SET=training.seed=7 data.validation=null'"
    assert f"ready: {again}\n" in said


def test_the_doctor_counts_the_ranks_that_a_training_would_have(monkeypatch):
    doctor = importlib.import_module("doctor")
    monkeypatch.setattr(sys, "argv", ["doctor.py", "frida-h100", "--num-gpus", "4"])
    options = doctor.read_options()
    assert recipe_from_options(options, PREVIEW_OPTIONS).training.ranks == 4
    assert doctor.training_line(options) == "make train RECIPE=frida-h100 NUM_GPUS=4"


def test_the_doctor_tells_where_sample_data_comes_from(tmp_path, monkeypatch, capfd):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("command: finetune_ba\ndata: {train: runs/data/never-made/train.jsonl}\n")
    monkeypatch.setattr(sys, "argv", ["doctor.py", str(recipe)])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module("doctor").main)
    assert end.value.code == 66
    assert "no such file — the head of the recipe mine says how sample data is made" in capfd.readouterr().out


@pytest.mark.parametrize("removed", range(5))
def test_a_removal_that_was_interrupted_leaves_nothing_that_no_command_can_name(tmp_path, monkeypatch, removed):
    folder, unlink, calls = tmp_path / "mine", os.unlink, itertools.count()
    (folder / "checkpoint-1").mkdir(parents=True)
    for name in ("checkpoint-1/optimizer.pt", "train.log", "run.json", "status.json", "run.lock"):
        (folder / name).write_text("{}")

    def interrupted(*words, **options):
        if next(calls) == removed:
            raise KeyboardInterrupt
        unlink(*words, **options)

    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["remove_run.py", "--run", "mine"])
    monkeypatch.setattr(remove_run.RunLock, "acquire", lambda *_: SimpleNamespace(release=lambda: None))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "unlink", interrupted)
        remove_run.main()
    if runs.list_runs():
        remove_run.main()
        assert not folder.exists()
    assert runs.check_available("mine") == folder
