"""The search of a learning rate: which trainings it plans, and what it says of their losses.

Run: pytest tests/unit/test_search_rate.py
"""

import sys

import pytest

import search_rate
from common.errors import UserError
from common.pipeline.stages import Pipeline
from common.recipes import load_recipe


def plans(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["search_rate.py", "--recipe", "medical-adapter", "--smoke", *words])
    options, passed_on = search_rate.read_options()
    recipe = load_recipe("medical-adapter", smoke=True)
    return [
        search_rate.plan(rate, seed, recipe, options, passed_on) for rate in options.rates for seed in options.seeds
    ]


def test_every_rate_is_trained_from_every_seed_and_other_options_are_handed_on(monkeypatch):
    found = plans(monkeypatch, "--rates", "1e-2 5e-3", "--seeds", "7 8", "--adapter_size", "16")
    assert [stage.run for stage in found] == [
        f"medical-adapter-smoke-rate-{rate}-seed-{seed}" for rate in ("0.005", "0.01") for seed in (7, 8)
    ]
    assert all(stage.command[1].endswith("train_adapter.py") for stage in found)
    assert found[0].command[-6:] == [
        "--adapter_size", "16", "--set", "training.learning_rate=0.005", "--set", "training.seed=7"
    ]  # fmt: skip
    (alone,) = plans(monkeypatch, "--rates", "0.01")
    assert alone.run == "medical-adapter-smoke-rate-0.01" and not any("seed" in word for word in alone.command)


def test_a_rate_is_trained_again_when_options_or_data_are_others(monkeypatch, tmp_path):
    (tmp_path / "train.jsonl").write_text("one")

    def key():
        (stage,) = plans(monkeypatch, "--rates", "0.01", "--data_path", str(tmp_path))
        return Pipeline([], tmp_path)._key(stage, stage.command)

    first = key()
    assert key() == first
    (tmp_path / "train.jsonl").write_text("two")
    assert key() != first
    (other,) = plans(monkeypatch, "--rates", "0.01", "--adapter_size", "16")
    assert Pipeline([], tmp_path)._key(other, other.command) not in (first, key())


def row(rate, *losses):
    return {"learning_rate": rate, "eval_losses": losses, "eval_loss": None if None in losses else sum(losses)}


def test_the_best_rate_is_marked_and_one_at_the_end_of_the_range_is_no_answer(capsys):
    search_rate.show([row(0.001, 3.0), row(0.01, 2.0), row(0.1, None)], "it")
    inside = capsys.readouterr().out
    assert inside.splitlines()[1:] == ["0.01       2.0000  <- best", "0.1        failed"]
    search_rate.show([row(0.001, 3.0, 4.0), row(0.01, 1.0, 2.0)], "it")
    edge = capsys.readouterr().out
    assert "(1.0000  2.0000)  <- best" in edge and "at the end of the range: try further" in edge
    search_rate.show([row(0.001, None)], "it")
    assert "best" not in capsys.readouterr().out


def test_what_is_no_rate_is_refused(monkeypatch):
    for words in (["--rates", "fast"], ["--rates", "0.1", "--seeds", "0.5"]):
        with pytest.raises(UserError, match="numbers, as in 1e-4 3e-4"):
            plans(monkeypatch, *words)
