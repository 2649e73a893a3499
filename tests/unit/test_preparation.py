"""What is settled from the free memory before a training. Run: pytest tests/unit/test_preparation.py"""

import pytest

from common import hardware, preparation
from common.errors import UserError
from common.jobs import Job, requested_job
from common.options import recipe_parser
from common.recipes import load_recipe
from common.runs import ROOT


@pytest.fixture(scope="module")
def checked():
    job = Job(load_recipe("demo"), "fit-memory")
    preparation.check_job(job)
    return job


def fit(job, monkeypatch, needed_gib, mode="auto", every=None):
    """Settle with just enough memory for ``needed_gib``; return (packs' tokens, every n-th layer, what is said)."""
    training = job.recipe.training
    training.activation_checkpointing, training.checkpoint_every_n_layers, training.pack_tokens = mode, every, 2048
    monkeypatch.setattr(hardware, "memory_gib", lambda device: (needed_gib / 0.9 + 1e-6, 64.0))
    said = preparation._fit_memory(job)
    return training.pack_tokens, training.checkpoint_every_n_layers, said


def test_no_more_is_recomputed_than_memory_asks_for(checked, monkeypatch):
    for tokens, every, words in (
        (2048, None, "checkpointing off"),
        (2048, 3, "of one layer in 3"),
        (2048, 1, "of all layers"),
        (1024, 1, "packs of up to 1,024 tokens"),
    ):
        needed = preparation._estimate(checked, tokens, every).total
        found = fit(checked, monkeypatch, needed)
        assert found[:2] == (tokens, every) and words in found[2]
        assert checked.recipe.training.activation_checkpointing == ("on" if every else "off")


def test_what_was_asked_for_or_recorded_stays(checked, monkeypatch):
    assert fit(checked, monkeypatch, 60, "on", None)[:2] == (2048, 1)
    assert fit(checked, monkeypatch, 60, "on", 3)[:2] == (2048, 3)
    assert fit(checked, monkeypatch, 60, "off", None)[:2] == (2048, None)


def test_too_little_memory_is_refused(checked, monkeypatch):
    with pytest.raises(UserError, match="needed, 0.2 of"):
        fit(checked, monkeypatch, 0.2)


def test_validation_data_of_the_recipe_is_named_beside_training_data_of_the_users_own():
    options = {"--train": "data.train", "--val": "data.validation"}
    splits = {part: str(ROOT / "recipes" / "demo" / "data" / f"{part}.jsonl") for part in ("train", "validation")}

    def found(*words):
        job = requested_job(recipe_parser("test", options, "demo").parse_args(words), options)
        return preparation._load_part(job, "validation")

    assert "these are the recipe's own" in found("--train", splits["train"])
    assert "these are the recipe's own" in found("--set", f"data.train={splits['train']}")
    assert "the recipe's own" not in found() + found("--train", splits["train"], "--val", splits["validation"])
