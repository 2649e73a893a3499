"""What is settled from the free memory before a training. Run: pytest tests/unit/test_preparation.py"""

import gc
import json

import numpy as np
import pytest
import torch

from common import engine, hardware, memory_probe, model_files, pack_memory, packing, preparation, ranks
from common.chat import EncodedDataset
from common.errors import UserError
from common.hardware import GIB
from common.jobs import Job, requested_job
from common.methods import add_method
from common.models import load_model
from common.options import recipe_parser
from common.recipes import load_recipe
from common.runs import ROOT
from common.training import new_trainer


@pytest.fixture(scope="module")
def checked():
    job = Job(load_recipe("demo"), "fit-memory")
    preparation.check_job(job)
    return job


def fit(job, monkeypatch, needed_gib, mode="auto", every=None, total_gib=64.0):
    """Settle with just enough memory for ``needed_gib``; return (packs' tokens, every n-th layer, what is said)."""
    training = job.recipe.training
    training.activation_checkpointing, training.checkpoint_every_n_layers, training.pack_tokens = mode, every, 2048
    monkeypatch.setattr(hardware, "memory_gib", lambda device: (needed_gib / 0.9 + 1e-6, total_gib))
    said = preparation._fit_memory(job)
    return training.pack_tokens, training.checkpoint_every_n_layers, said


def examples(shared: int, own: int, kinds: int = 1) -> EncodedDataset:
    """48 examples; those of a kind begin with the same ``shared`` tokens; of ``own`` tokens after them the last is
    trained."""
    rows = [[*range(k % kinds, k % kinds + shared), *[5000 + k] * own] for k in range(48)]
    rows = np.array(rows, dtype=np.uint32)
    rows[:, -1] |= 1 << 31
    return EncodedDataset(rows.ravel(), np.arange(49) * (shared + own), {})


# The demo's step has 8 examples. Shorter packs cost nothing for what all of them begin with; but of two kinds, with 60
# tokens after 1,400, some four are one pack of 1,640 tokens, or two with 3,040 together.
@pytest.mark.parametrize(
    "data, fits, expected, words",
    [
        (examples(0, 200), (2048, None), (2048, None), "checkpointing off"),
        (examples(0, 200), (1024, None), (1024, None), "checkpointing off; packs of up to 1,024 tokens"),
        (examples(900, 120), (2048, 3), (1536, None), "checkpointing off; packs of up to 1,536 tokens"),
        (examples(1400, 60, 2), (2048, 3), (2048, 3), "of one layer in 3; packs of up to 2,048 tokens"),
        (examples(0, 200), (512, 1), (512, 1), "of all layers"),
    ],
    ids=["all fits", "nothing shared", "shared by all", "two kinds", "least memory"],
)
def test_of_what_fits_the_way_that_computes_least_is_taken(checked, monkeypatch, data, fits, expected, words):
    with monkeypatch.context() as patch:
        patch.setattr(checked, "train_set", data)
        needed = pack_memory.estimate(checked, *fits).total
        found = fit(checked, patch, needed)
    assert found[:2] == expected and words in found[2]
    assert checked.recipe.training.activation_checkpointing == ("on" if expected[1] else "off")


def test_what_was_asked_for_or_recorded_stays(checked, monkeypatch):
    assert fit(checked, monkeypatch, 60, "on", None)[:2] == (2048, 1)
    assert fit(checked, monkeypatch, 60, "on", 3)[:2] == (2048, 3)
    assert fit(checked, monkeypatch, 60, "off", None)[:2] == (2048, None)


def test_all_ranks_take_the_way_of_the_one_with_the_least_free_memory(checked, monkeypatch, capsys):
    training = checked.recipe.training
    assert fit(checked, monkeypatch, 60)[:2] == (2048, None)
    monkeypatch.setattr(ranks, "gather", lambda mine: [mine, (80.0, 2048, 0), (2.5, 512, 1)])
    pack_memory.settle_for_all(checked)
    found = training.pack_tokens, training.checkpoint_every_n_layers, training.activation_checkpointing
    assert found == (512, 1, "on")
    assert checked.memory.total == pack_memory.estimate(checked, 512, 1).total
    assert "one of the ranks has only 2.5 GiB free" in capsys.readouterr().out


def test_ranks_on_a_card_without_bf16_train_in_fp32(monkeypatch):
    recipe = load_recipe("frida-h100")
    recipe.model.precision = "auto"
    monkeypatch.setattr(engine, "check_devices", lambda *_, **__: None)
    monkeypatch.setattr(hardware, "pick_device", lambda wanted: hardware.Choice("cuda", "asked for"))
    monkeypatch.setattr(hardware, "pick_half", lambda device: hardware.Choice("fp16", "an old card"))
    assert "precision fp32 (an old card, and " in preparation._choose_machine(recipe, resume=False)
    assert engine.check_config(recipe)["bf16"]["enabled"] is False


class Manifest:
    """A run of which nothing but the manifest counts."""

    def __init__(self, asked_pack_tokens):
        self.content = {"settings": {"training": {}}, "plan": {"from": "the model's shape"}}
        self.content |= {"memory_probe": {"asked_pack_tokens": asked_pack_tokens}} if asked_pack_tokens else {}

    def manifest(self):
        return json.loads(json.dumps(self.content))

    def write_manifest(self, content):
        self.content = content


@pytest.fixture(scope="module")
def trainer(checked, tmp_path_factory):
    recipe = checked.recipe
    model = add_method(load_model(checked.model_folder, recipe.model.precision), recipe.method, recipe.model.name)
    return new_trainer(checked, model, tmp_path_factory.mktemp("out"))


def test_packs_are_chosen_by_what_a_layer_was_measured_to_keep(checked, trainer, monkeypatch):
    training, run = checked.recipe.training, Manifest(3072)
    fit(checked, monkeypatch, pack_memory.estimate(checked, 512, 1).total)  # from the shape alone: memory is short
    assert (training.pack_tokens, training.checkpoint_every_n_layers) == (512, 1)
    monkeypatch.setattr(checked, "train_set", examples(1400, 60, 2))
    kept_bytes, tried = memory_probe.measure_layer_bytes(trainer, trainer.longest_examples(4))
    monkeypatch.setattr(checked, "kept_bytes", kept_bytes)
    needed = pack_memory.estimate(checked, 2048, 3)
    checked.available_gib = needed.total / 0.9 + 1e-6  # room for that, measured
    memory_probe.fit_packs(run, checked, trainer)

    assert (training.pack_tokens, training.checkpoint_every_n_layers) == (2048, 3)
    assert trainer.args.activation_checkpointing
    assert trainer.args.activation_checkpointing_kwargs["every_n_layers"] == 3
    found = run.content["memory_probe"]
    assert found["kept_bytes"] == pytest.approx(kept_bytes, abs=1) and found["tried_tokens"] == tried
    settled = {"pack_tokens": 2048, "activation_checkpointing": "on", "checkpoint_every_n_layers": 3}
    assert settled.items() <= found.items()
    assert settled.items() <= run.content["settings"]["training"].items()
    assert run.content["plan"]["memory"]["total"] == pytest.approx(needed.total, abs=1e-3)

    torch.manual_seed(training.seed)
    expected = torch.rand(1)
    torch.manual_seed(training.seed)
    training.checkpoint_every_n_layers = 2
    memory_probe.fit_packs(run, checked, trainer)  # as a resumed run does: nothing is measured, nothing changes
    assert training.checkpoint_every_n_layers == 2 and torch.equal(torch.rand(1), expected)
    memory_probe.fit_packs(Manifest(None), checked, trainer)  # the user's own choice
    assert training.checkpoint_every_n_layers == 2


def test_a_resumed_run_needs_what_its_probe_measured(checked, tmp_path, monkeypatch):
    """By the shape alone its way may need more than there is: the run would end with its first interruption."""
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    recipe, probe = checked.recipe, {"asked_pack_tokens": 2048, "kept_bytes": 1000, "pack_tokens": 2048}
    recipe.training.activation_checkpointing, recipe.training.pack_tokens = "off", 2048
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text(json.dumps({"settings": recipe.to_dict(), "memory_probe": probe}))
    job = requested_job(recipe_parser("", {}, "demo").parse_args(["--resume", "--run", "mine"]), {})
    job.model_folder, job.train_set = checked.model_folder, checked.train_set
    needed = pack_memory.estimate(job, 2048, None).total
    monkeypatch.setattr(hardware, "memory_gib", lambda device: (needed + 0.01, 64.0))
    assert "packs of up to 2,048 tokens" in preparation._fit_memory(job)
    assert job.memory.total == pytest.approx(needed)
    job.kept_bytes = None
    with pytest.raises(UserError, match="needed"):
        preparation._fit_memory(job)


def test_a_resumed_run_needs_room_for_two_checkpoints_where_it_lies(checked, tmp_path, monkeypatch):
    folder, size_gib = tmp_path.resolve() / "disk", preparation._checkpoint_gib(checked)
    folder.mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(folder)
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(checked, "run_name", "mine")
    monkeypatch.setattr(checked, "resume", True)
    free = {folder: 2.1 * size_gib}
    monkeypatch.setattr(hardware, "free_disk_gib", lambda folder: free.get(folder, 0.0))
    assert "GiB needed of" in preparation._check_disk(checked)
    free[folder] = 1.9 * size_gib
    with pytest.raises(UserError, match="needed for checkpoints — free some space$"):
        preparation._check_disk(checked)


def test_what_is_recorded_of_the_projects_own_files_holds_where_it_is_moved(checked):
    assert checked.data["train"]["path"] == "recipes/demo/data/train.jsonl"
    assert checked.model["path"] == "recipes/demo/model"


def test_what_all_packs_of_a_step_begin_with_is_computed_once(trainer, monkeypatch):
    monkeypatch.setattr(packing, "WORTH_A_PASS", 1)
    step = trainer.longest_examples(6)
    monkeypatch.setattr(trainer.numbers, "pack_tokens", 1)
    packs, seen = trainer.split_step(step), []
    assert len(packs) == 6 and packs[0].layout.begun
    hook = trainer.model.get_base_model().model.embed_tokens.register_forward_hook(
        lambda module, given, result: seen.append(given[0].numel())
    )
    trainer.training_step(trainer.model, {"examples": step})
    trainer.model.zero_grad()
    assert sum(seen) == packing.count_computed(packs) < sum(map(len, packs))
    seen.clear()
    trainer.evaluate(step)
    hook.remove()
    assert sum(seen) == packing.count_computed(packs)


def test_the_probe_keeps_nothing_alive(trainer):
    def alive() -> int:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
        return sum({tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors}.values())

    longest = trainer.longest_examples(4)
    memory_probe.measure_layer_bytes(trainer, longest)
    before = alive()
    memory_probe.measure_layer_bytes(trainer, longest)
    assert alive() == before


@pytest.mark.parametrize("every", [None, 2])
def test_what_a_trainer_is_told_before_its_start_it_recomputes(checked, tmp_path, every):
    """The choice comes after the trainer was made, whatever it was made with."""
    recipe, runs = checked.recipe, []
    recipe.training.pack_tokens = 100_000  # a step is one pack
    recipe.training.activation_checkpointing = "off" if every else "on"
    model = add_method(load_model(checked.model_folder, recipe.model.precision), recipe.method, recipe.model.name)
    trainer = new_trainer(checked, model, tmp_path)
    recipe.training.activation_checkpointing = "on" if every else "off"
    recipe.training.checkpoint_every_n_layers = every
    trainer.set_recomputation(recipe.training)
    for layer in model.get_base_model().model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    trainer.args.max_steps = 1
    trainer.train()
    assert len(runs) == (4 + 2 if every else 4)  # each layer forward, and half of them once more


def test_a_layer_is_measured_on_a_few_and_is_one_of_all(trainer):
    """What the whole model keeps is what its layers keep, but for the last one's MLP, and what comes once."""
    config = trainer.model.get_base_model().config
    examples = trainer.longest_examples(4)
    kept_bytes, tokens = memory_probe.measure_layer_bytes(trainer, examples)
    assert config.num_hidden_layers == 4 and tokens == len(trainer.split_step(examples)[0])
    whole = memory_probe.measure_kept_gib(trainer, examples) * GIB
    assert 3 < whole / (kept_bytes * tokens) < 5
    seen = []
    for layer in trainer.model.get_base_model().model.layers:
        layer.mlp.register_forward_hook(lambda *_: seen.append(1))
    memory_probe.measure_layer_bytes(trainer, examples)
    assert len(seen) == 1 + 3  # never all of a deep model


def test_what_is_kept_is_what_the_backward_pass_needs(trainer):
    """It grows with the tokens, and a little more for the masks; no weight is counted."""
    examples = trainer.longest_examples(4)
    one, four = (memory_probe.measure_kept_gib(trainer, examples[:count]) for count in (1, 4))
    tokens = len(trainer.split_step(examples)[0]) / len(examples[0])
    assert tokens < four / one < 1.5 * tokens


def test_too_little_memory_is_refused(checked, monkeypatch):
    with pytest.raises(UserError, match="needed, 0.2 of 64.0 GiB free — close other programs"):
        fit(checked, monkeypatch, 0.2)
    with pytest.raises(UserError, match="make plan RECIPE=… lists what would help"):
        fit(checked, monkeypatch, 0.2, total_gib=0.3)


def test_validation_data_of_the_recipe_is_named_beside_training_data_of_the_users_own():
    options = {"--train": "data.train", "--val": "data.validation"}
    splits = {part: str(ROOT / "recipes" / "demo" / "data" / f"{part}.jsonl") for part in ("train", "validation")}

    def found(*words):
        job = requested_job(recipe_parser("test", options, "demo").parse_args(words), options)
        return preparation._load_part(job, "validation")

    assert "these are the recipe's own" in found("--train", splits["train"])
    assert "these are the recipe's own" in found("--set", f"data.train={splits['train']}")
    assert "the recipe's own" not in found() + found("--train", splits["train"], "--val", splits["validation"])


LONG_ROPE = {"rope_type": "longrope", "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    "config, longest, reason",
    [
        ({}, 8192, None),
        ({"attention_dropout": 0.1}, 100, "has dropout"),
        ({"rope_parameters": LONG_ROPE}, 4096, None),
        ({"rope_parameters": LONG_ROPE}, 4097, "is another for examples of more than 4,096 tokens"),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 5000, "more than 4,096"),
        ({"rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 2048}, 2049, "more than 2,048"),
        ({"rope_parameters": {"rope_type": "yarn"}, "max_position_embeddings": 2048}, 4096, None),
        ({"model_type": "gpt2"}, 10, "its attention (gpt2)"),
    ],
)
def test_packs_are_for_models_on_which_they_are_exact(config, longest, reason):
    found = model_files.why_no_packs({"model_type": "phi3"} | config, longest)
    assert found is None if reason is None else reason in found
