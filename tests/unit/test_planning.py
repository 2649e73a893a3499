"""Plans: their arithmetic, what they assume, memory beside a real model's. Run: pytest tests/unit/test_planning.py

How near plans come to real trainings, `make bench-plan` measures; docs/planning.md has the table.
"""

import importlib
import json
import sys
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pytest
import torch

from common import artifacts, hardware, memory_probe, pack_memory, recycled_memory
from common.chat import Encoded
from common.errors import UserError, run_command
from common.jobs import Job
from common.planning import measuring, planning, records
from common.planning.options import list_options
from common.planning.planning import estimate_memory, make_plan
from common.planning.probe import Slice
from common.planning.wording import print_plan
from common.recipes import load_recipe
from common.runs.results import read_result

TINY = {
    "model_type": "mistral",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROWS = [Encoded([5 + k] * (30 + 7 * k), [index > 12 for index in range(30 + 7 * k)]) for k in range(3)]
MEASURED = Slice(
    layer_step_s=2e-5,
    single_step_s=5e-5,
    layer_forward_s=1e-5,
    single_forward_s=2e-5,
    optimizer_s=1e-4,
    first_s=0.5,
    spread=0.05,
    layer_activations=1e-6,
    single_activations=2e-6,
    longest_tokens=1000,
    transient=0.05,
    runtime=0.5,
    loading_share=0.0,
    load_s_per_gib=1.0,
    start_s=3.0,
)


@pytest.fixture(scope="module")
def demo_plan():
    job = Job(load_recipe("demo"), "planned")
    return job, make_plan(job, probe=False)


def settled(packing: str):
    recipe = load_recipe("demo")
    recipe.training.device, recipe.training.packing, recipe.training.threads = "cpu", packing, 1
    recipe.training.micro_batch = 3
    return recipe


@pytest.mark.parametrize("packing", ["on", "off"])
def test_two_layers_tell_what_six_keep_for_the_backward_pass(tmp_path, packing, monkeypatch):
    from common import random_model

    trainers = {}
    for layers in (measuring.LAYERS, TINY["num_hidden_layers"]):
        folder = tmp_path / str(layers)
        random_model.write_model(TINY | {"num_hidden_layers": layers}, folder / "model", tiled=True)
        (folder / "model" / "tokenizer.json").write_text("{}")
        trainers[layers], _, _ = measuring._load_trainer(settled(packing), folder, 1.0)
    stack = measuring._Stack(trainers[2], 6)
    kept = {layers: measuring._kept_gib(trainers[2], stack, layers, ROWS) for layers in (1, 2)}
    kept |= {6: memory_probe.measure_kept_gib(trainers[6], ROWS)}
    layer = kept[2] - kept[1]
    assert layer > 0 and kept[6] == pytest.approx(kept[1] + 5 * layer, rel=1e-6)
    assert kept[2] < kept[6] < 6 * kept[2]


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_time_counts_until_the_device_is_done(monkeypatch, device):
    waited = []
    for kind in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda kind=kind: waited.append(kind))
    trainer = SimpleNamespace(args=SimpleNamespace(device=torch.device(device)))
    measuring._timed(trainer, lambda: waited.append("work"))
    assert waited == (["work"] if device == "cpu" else [device, "work", device])


def test_the_plan_of_the_demo(demo_plan):
    job, plan = demo_plan
    assert (plan.steps, plan.steps_per_epoch, plan.epochs) == (78, 13, 6)
    assert plan.tokens["longest"] == 608 and plan.tokens["epoch"] == 50_106
    assert 0 < plan.tokens["computed_a_step"] < 50_106 / 13  # common beginnings are computed once
    assert plan.fits and plan.train_s is None and 0 < plan.disk_gib < 0.1
    parts = plan.to_dict()["memory"]
    assert parts["total"] == pytest.approx(sum(gib for part, gib in parts.items() if part != "total"), abs=1e-3)


def planned(monkeypatch, **training):
    """The demo with other numbers, and its plan, with times by a slice that costs nothing."""
    monkeypatch.setattr(planning, "measure_slice", lambda *_: MEASURED)
    job = Job(load_recipe("demo", {f"training.{key}": (value, "test") for key, value in training.items()}), "planned")
    return job, make_plan(job)


def test_the_longest_part_is_planned_though_no_step_that_was_looked_at_has_it(monkeypatch):
    monkeypatch.setattr(planning, "SAMPLED_STEPS", 1)
    job, plan = planned(monkeypatch, pack_tokens=64)
    assert planning.sample_batches(job).longest_tokens() < plan.tokens["longest_part"] == plan.tokens["longest"] == 608
    assert plan.memory.activations == pytest.approx(608 * MEASURED.activations(4))


def test_evaluations_between_the_ends_of_epochs_take_their_time(monkeypatch):
    (_, plain), (_, more) = planned(monkeypatch), planned(monkeypatch, eval_every_steps=5)
    assert more.evaluation_s == plain.evaluation_s > 0
    assert more.train_s - plain.train_s == pytest.approx((15 - 1) * plain.evaluation_s)  # after step 65 an epoch ends
    assert more.first_checkpoint_s - plain.first_checkpoint_s == pytest.approx(2 * plain.evaluation_s)


def test_examples_are_laid_out_as_the_training_groups_them(monkeypatch):
    padded = {"packing": "off", "micro_batch": 8, "gradient_accumulation": 1}
    plain, grouped = (planned(monkeypatch, **padded, group_by_length=group)[1] for group in (False, True))
    mean = plain.tokens["epoch"] / plain.steps_per_epoch
    assert mean <= grouped.tokens["computed_a_step"] < 1.05 * mean < plain.tokens["computed_a_step"]


def test_memory_that_is_used_again_is_counted_with_the_step_alone(tmp_path, monkeypatch):
    spare = []

    def note() -> float:
        spare.append(sum(map(len, recycled_memory._spare.values())))
        return 1.0

    monkeypatch.setattr(recycled_memory, "_LARGE", 1)  # what this small model computes is large enough
    monkeypatch.setattr(measuring, "_rss_gib", note)
    measuring._measure(settled("on"), TINY, {"longest": ROWS, "usual": ROWS}, tmp_path, 0.0)
    assert spare[-1] == 0  # before the step whose peak is measured
    note()
    assert spare[-1] > 0


def test_a_plan_made_beside_other_programs_says_so(demo_plan, capsys):
    job, plan = demo_plan
    timed = replace(plan, step_s=0.5, train_s=40.0, low_s=30.0, high_s=50.0, first_checkpoint_s=8.0)
    for spread, said in ((0.1, False), (0.8, True)):
        print_plan(job, replace(timed, slice={"spread": spread}), [])
        assert ("differed by 80%: other programs ran" in capsys.readouterr().out) == said


def test_where_memory_is_short_the_plan_says_what_would_help(demo_plan, monkeypatch):
    monkeypatch.setattr(hardware, "memory_gib", lambda device: (0.3, 64.0))
    job = Job(load_recipe("demo", {"training.activation_checkpointing": ("off", "--set")}), "short")
    plan = make_plan(job, probe=False)
    options = list_options(job, plan)
    assert not plan.fits and {"nf4", "every layer recomputed", "packs of 1,024"} <= {o.change for o in options}
    assert all(option.memory_gib < plan.memory.total for option in options)
    assert [o.memory_gib for o in options] == sorted(o.memory_gib for o in options)
    monkeypatch.setattr(job.recipe.training, "deepspeed", "ds_config.json")  # whose packs each begin anew
    once, anew = ({o.change: o.effect for o in these}["packs of 1,024"] for these in (options, list_options(job, plan)))
    assert once.endswith("its own copy of what only some examples begin with") and anew.endswith("the common beginning")


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("measured", [False, True])
def test_on_a_gpu_too_the_plan_says_what_would_help(demo_plan, monkeypatch, device, measured):
    """Its memory follows from the shape, measured or not; an Apple GPU is not offered nf4, which is refused there."""
    job, plan = demo_plan
    monkeypatch.setattr(hardware, "pick_half", lambda device: hardware.Choice("bf16", "as a test wants it"))
    monkeypatch.setattr(job.recipe.training, "device", device)
    settled = pack_memory.estimate_part(job, plan.tokens["longest_part"], None)
    anything = Slice(*[0.01] * len(fields(Slice)))
    if measured:
        assert estimate_memory(job, {}, anything, plan.tokens["longest_part"]) == settled
    found = list_options(job, replace(plan, memory=settled, slice=asdict(anything) if measured else None))
    memory = {option.change: option.memory_gib for option in found}
    assert {"packs of 1,024", "every layer recomputed"} <= memory.keys()
    assert ("nf4" in memory) == (device == "cuda")
    assert memory["packs of 1,024"] == pack_memory.estimate(job, 1024, None).total


@pytest.mark.parametrize(
    ("flags", "setting", "offered"),
    [
        ({"avx512_vnni"}, {}, True),
        ({"avx2"}, {}, False),
        ({"avx512_vnni"}, {"compute": "int8"}, False),
        ({"avx512_vnni"}, {"precision": "nf4"}, False),
    ],
)
def test_products_in_int8_are_offered_where_they_can_be_had(demo_plan, monkeypatch, flags, setting, offered):
    job, plan = demo_plan
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    for name, value in setting.items():
        monkeypatch.setattr(job.recipe.model, name, value)
    found = {
        option.change: option for option in list_options(job, replace(plan, memory=replace(plan.memory, weights=9)))
    }
    assert ("int8" in found) == offered
    assert "nf4" not in found or not setting  # the one excludes the other
    if offered:
        assert found["int8"].setting == "--set model.compute=int8" and found["int8"].memory_gib < plan.memory.total + 9


def plan_command(monkeypatch, capfd, *words):
    monkeypatch.setattr(sys, "argv", ["plan.py", *words])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module("plan").main)
    return end.value.code, capfd.readouterr()


def test_a_model_that_is_not_here_is_planned_by_its_known_shape(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    words = ("--model", "mistralai/Mistral-7B-Instruct-v0.1", "--set", "model.precision=bf16", "--no-probe", "--json")
    code, said = plan_command(monkeypatch, capfd, *words)
    plan = json.loads(said.out)
    assert code == 0, said.err
    assert plan["memory"]["weights"] == pytest.approx(13.49, abs=0.01)
    assert "the known shape of mistral-7b" in plan["assumed"][0] and "demo model's" in plan["assumed"][1]
    assert not list(tmp_path.iterdir())  # nothing is written without times


def test_a_model_that_nobody_knows_is_refused_with_how_to_get_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    code, said = plan_command(monkeypatch, capfd, "--model", "org/unheard-of", "--no-probe")
    assert code == 66 and "make download MODEL=org/unheard-of" in said.err and "Traceback" not in said.err


def test_data_that_is_not_right_cannot_be_planned():
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        make_plan(Job(load_recipe("demo", {"data.train": ("nowhere.jsonl", "--train")}), "x"), probe=False)


def test_a_plan_is_found_again_by_the_training_it_is_of(tmp_path, monkeypatch, demo_plan):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    job, plan = demo_plan
    assert records.find_plan(job)["from"] == "the model's shape"
    records.keep_plan(job, plan.to_dict() | {"train_s": 50.0})
    found = records.find_plan(job)
    assert (found["from"], found["train_s"]) == ("make plan", 50.0)
    job.recipe.training.learning_rate *= 2
    assert "train_s" not in records.find_plan(job)
    job.recipe.training.learning_rate /= 2
    assert job.asked_pack_tokens  # so what was chosen for it does not count
    with monkeypatch.context() as patch:
        patch.setattr(job.recipe.training, "pack_tokens", 512)
        patch.setattr(job.recipe.training, "activation_checkpointing", "on")
        assert records.find_plan(job)["way"] != pack_memory.describe(job.recipe.training)


@pytest.mark.parametrize(("device", "peak", "on_gpu"), [("cpu", 3.0, None), ("cuda", 1.8, 1.8)])
def test_the_memory_of_a_gpu_is_held_against_what_was_planned_of_it(tmp_path, monkeypatch, device, peak, on_gpu):
    for name, answer in (("peak_rss_gib", 3.0), ("peak_gpu_gib", 1.8)):
        monkeypatch.setattr(artifacts, name, lambda answer=answer: answer)
    monkeypatch.setattr(artifacts, "count_parameters", lambda model: (1, 10))
    run = SimpleNamespace(folder=tmp_path, manifest=lambda: {"plan": {"memory": {"total": 2.0}}})
    trainer = SimpleNamespace(model=None, train_dataset=[], eval_dataset=[], train_s=9.0, share=1.0)
    trainer.state = SimpleNamespace(global_step=3)
    info = artifacts.describe_training(run, load_recipe("demo", {"training.device": (device, "--set")}), trainer)
    assert (info["plan"]["peak_gib"], info["peak_gpu_gib"], info["peak_rss_gib"]) == (peak, on_gpu, 3.0)
    (tmp_path / "training_info.json").write_text(json.dumps(info))
    assert read_result(tmp_path)["peak_gib"] == peak


def test_a_training_is_held_against_its_plan():
    plan = {"from": "make plan", "memory": {"total": 2.0}, "train_s": 100.0}
    figures = records.compare(plan, peak_gib=1.8, train_s=55.0, share=0.5)
    assert (figures["planned_s"], figures["time_off"], figures["peak_off"]) == (50.0, 0.1, -0.1)
    assert records.describe(figures) == "peak 1.80 GiB (planned 2.00, −10 %), 55 s (planned 50, +10 %)"
    assert "not planned" in records.describe(records.compare(None, 1.8, None, 0.0))
