"""DeepSpeed's configuration against the recipe, epochs by data size, teams and hostfiles.

Run: pytest tests/unit/test_engine.py
"""

import argparse
import json
import os

import pytest

from common import checkpoints, engine, launching, opening
from common.errors import UserError
from common.jobs import Job
from common.recipes import load_recipe


@pytest.fixture
def recipe():
    return load_recipe("frida-h100")


def options(**given):
    names = ("num_gpus", "hostfile", "node_rank", "master_addr", "master_port")
    return argparse.Namespace(**(dict.fromkeys(names) | given))


def test_the_recipe_has_the_numbers_it_is_known_by(recipe):
    assert (recipe.method.rank, recipe.method.alpha, recipe.method.dropout) == (64, 128, 0.05)
    assert (recipe.training.learning_rate, recipe.training.warmup_ratio, recipe.training.max_grad_norm) == (
        1e-4,
        0.03,
        1,
    )
    pytest.importorskip("deepspeed")
    assert engine.describe_plan(recipe).startswith("micro-batch 8 × accumulation 2 × 8 ranks = 128 examples a step")


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [(1, 5), (999, 5), (1_000, 4), (9_999, 4), (10_000, 3), (49_999, 3), (50_000, 2), (100_000, 2), (100_001, 1)],
)
def test_epochs_follow_from_the_number_of_examples(examples, epochs):
    assert engine.choose_epochs(examples)[0] == epochs


def test_the_shipped_configuration_agrees_with_the_recipe(recipe):
    config = engine.check_config(recipe)
    assert (config["train_micro_batch_size_per_gpu"], config["train_batch_size"]) == (16, 128)
    assert config["bf16"]["enabled"] is True and config["zero_optimization"]["stage"] == 2
    assert "optimizer" not in config and "scheduler" not in config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, "training.micro_batch 8"),
        ({"gradient_accumulation_steps": 8}, "training.gradient_accumulation 2"),
        ({"train_batch_size": 64}, "micro-batch × accumulation × ranks 128"),
        ({"gradient_clipping": 0.5}, "training.max_grad_norm 1.0"),
        ({"bf16": {"enabled": False}}, "model.precision is bf16"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true"),
        ({"optimizer": {}}, "'optimizer'"),
        ({"scheduler": {}}, "'scheduler'"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3"),
        ({"bf16": True}, "bf16 is true"),
        ({"fp16": None}, "fp16 is null"),
        ({"zero_optimization": 2}, "zero_optimization is 2"),
        ({"zero_optimization": ...}, "no 'zero_optimization'"),
    ],
)
def test_each_contradiction_is_refused(recipe, tmp_path, change, expected):
    path = tmp_path / "ds.json"
    config = engine.read_config("ds_config.json") | change
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    recipe.training.deepspeed = str(path)
    with pytest.raises(UserError, match="ds.json") as caught:
        engine.check_config(recipe)
    assert caught.value.exit_code == 78
    assert len(caught.value.problems) == 1 and expected in str(caught.value)


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("model", "precision", "nf4"),
        ("model", "precision", "fp16"),
        ("model", "compute", "int8"),
        ("training", "probe_memory", True),
    ],
)
def test_what_one_process_can_and_ranks_cannot_is_refused(recipe, group, key, value):
    setattr(getattr(recipe, group), key, value)
    with pytest.raises(UserError, match=f"{group}.{key} is {str(value).lower()}"):
        engine.check_config(recipe)


def test_values_that_repeat_the_recipe_are_welcome(recipe, tmp_path):
    same = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2, "train_batch_size": 128}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(engine.read_config("ds_config.json") | same | {"gradient_clipping": 1}))
    recipe.training.deepspeed = str(path)
    assert engine.check_config(recipe)["train_batch_size"] == 128


def test_without_a_launcher_one_process_trains_alone(recipe, monkeypatch):
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "")  # as some clusters leave it
    engine.settle_ranks(recipe.training, planned=False)
    assert (recipe.training.deepspeed, engine.count_ranks(recipe.training)) == (None, 1)


def test_the_launcher_says_how_many_ranks_there_are(recipe, monkeypatch):
    monkeypatch.setenv("LOCAL_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "12")
    engine.settle_ranks(recipe.training, planned=False)
    assert (recipe.training.ranks, recipe.training.nodes, engine.count_ranks(recipe.training)) == (4, 3, 12)


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(
    "deepspeed, launcher, expected",
    [
        (True, {}, "WORLD_SIZE=8 of another launcher"),
        (False, {}, "WORLD_SIZE=8 of another launcher"),
        (False, {"LOCAL_SIZE": "8"}, "WORLD_SIZE=8 without training.deepspeed"),
    ],
)
def test_processes_that_would_each_train_alone_are_refused(recipe, monkeypatch, deepspeed, launcher, expected, planned):
    for name, value in ({"WORLD_SIZE": "8"} | launcher).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(engine, "has_devices", lambda training: True)
    if deepspeed and planned:  # DeepSpeed's launcher will set what its ranks need
        engine.settle_ranks(recipe.training, planned=True)
        engine.check_devices(recipe.training)
        return
    recipe.training.deepspeed = recipe.training.deepspeed if deepspeed else None
    engine.settle_ranks(recipe.training, planned=planned)
    with pytest.raises(UserError, match=f"{expected}.*unset RANK") as caught:
        engine.check_devices(recipe.training)
    assert caught.value.exit_code == 78


def test_a_team_uses_the_gpus_that_are_visible(recipe, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    words = launching.choose_team(recipe.training, options(num_gpus=2)).command_line("python/main.py", "--run", "x")
    assert words[words.index("--include") + 1] == "localhost:4,5"
    assert words[-3].endswith("python/main.py") and words[-2:] == ["--run", "x"]


def hosts(folder, count, slots=8):
    """The options of the launcher of node 0 among so many nodes."""
    path = folder / "hosts"
    path.write_text("".join(f"node-{number} slots={slots}\n" for number in range(count)))
    return {"hostfile": path, "node_rank": 0, "master_addr": "node-0", "master_port": 29500}


@pytest.mark.parametrize(
    "visible, nodes, expected",
    [
        ("4,5,6,7", 2, "the ranks take GPUs 0,1 of each node"),
        ("GPU-8f2a,GPU-91bc", 0, "knows GPUs by number"),
        ("MIG-11", 0, "knows GPUs by number"),
        ("0,1,2", 2, None),
        ("", 2, None),
    ],
)
def test_gpus_that_the_launcher_would_not_take_are_refused(recipe, tmp_path, monkeypatch, visible, nodes, expected):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = options(num_gpus=2, **hosts(tmp_path, nodes) if nodes else {})
    if expected is None:
        assert launching.choose_team(recipe.training, given).ranks == 2
        return
    with pytest.raises(UserError, match=f"CUDA_VISIBLE_DEVICES={visible} — .*{expected}") as caught:
        launching.choose_team(recipe.training, given)
    assert caught.value.exit_code == 78


def test_a_run_goes_on_with_as_many_ranks_as_before_and_no_others(recipe, tmp_path):
    pytest.importorskip("deepspeed")
    assert launching.recorded_team({"settings": recipe.to_dict()}, options()).ranks == 8
    with pytest.raises(UserError, match="4 ranks on 1 node .* as many as before: 8 ranks on 1 node") as caught:
        launching.recorded_team({"settings": recipe.to_dict()}, options(num_gpus=4))
    assert caught.value.exit_code == 64
    recipe.training.ranks, recipe.training.nodes = 4, 2
    team = launching.recorded_team({"settings": recipe.to_dict()}, options(**hosts(tmp_path, 2)))
    assert (team.ranks, team.nodes) == (4, 2)
    with pytest.raises(UserError, match="4 ranks on 3 nodes .* as many as before: 4 ranks on 2 nodes"):
        launching.recorded_team({"settings": recipe.to_dict()}, options(**hosts(tmp_path, 3)))


def test_a_resume_is_not_advised_to_do_with_fewer_ranks(recipe, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="as many ranks as before: 8 on a node — a machine that has them"):
        engine.check_devices(recipe.training, resume=True)
    job = Job(recipe, "fewer", model={"files": {}})
    monkeypatch.setattr(opening, "read_json", lambda path: {"data": {}, "model": job.model})
    monkeypatch.setattr(checkpoints, "list_checkpoints", lambda folder: [folder])
    begun = {"fingerprint": job.fingerprint() | {"world_size": 16}}
    monkeypatch.setattr(checkpoints, "read_commit", lambda folder: begun)
    with pytest.raises(UserError, match="^world_size: was 16, is 8 — .* — start as many ranks as before$"):
        opening._check_unchanged(job)


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("", 78, "names no host"),
        ("node-a 8\n", 78, ":1: node-a 8"),
        ("node-a slots=8\nnode-a slots=8\n", 78, ":2:"),
        ("node-a slots=8\nnode-b slots=4\n", 64, "node-b has 4 slots"),
    ],
)
def test_a_bad_hostfile_is_refused(recipe, tmp_path, text, code, expected):
    pytest.importorskip("deepspeed")
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        launching.choose_team(recipe.training, options(hostfile=tmp_path / "hosts", num_gpus=8))
    assert caught.value.exit_code == code


@pytest.mark.parametrize("ranks", [0, -1])
def test_a_node_has_at_least_one_rank(recipe, ranks):
    pytest.importorskip("deepspeed")
    with pytest.raises(UserError, match=f"NUM_GPUS={ranks}") as caught:
        launching.choose_team(recipe.training, options(num_gpus=ranks))
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("echo 'Permission denied (publickey).' >&2; exit 255", "ssh does not reach node-b: Permission denied"),
        ("exit 1", "with this Python on node-b"),
    ],
)
def test_a_node_that_cannot_train_is_named_before_anything_starts(recipe, tmp_path, monkeypatch, answer, expected):
    pytest.importorskip("deepspeed")
    (tmp_path / "hosts").write_text("node-a slots=8\nnode-b slots=8\n")
    for name, text in {"pdsh": "exit 0", "ssh": f'case "$*" in *node-b*) {answer};; esac'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UserError, match=expected) as caught:
        launching.choose_team(recipe.training, options(hostfile=tmp_path / "hosts"))
    assert caught.value.exit_code == 69 and len(caught.value.problems) == 1


def test_what_ranks_need_goes_over_ssh_and_tokens_do_not(tmp_path):
    team = launching.Team(True, hostfile=tmp_path / "hosts", nodes=2)
    environment = {"RECETARIO_RUNS": "/shared/my runs", "HF_HUB_OFFLINE": "1", "HF_TOKEN": "a secret", "HOME": "/root"}
    gloo = {"GLOO_SOCKET_IFNAME": "eth1"}
    words = team.carry(team.command_line("python/main.py", "--run", "mine"), environment | gloo)
    place = words.index("env")
    carried = ["GLOO_SOCKET_IFNAME=eth1", "HF_HUB_OFFLINE=1", "RECETARIO_RUNS=/shared/my runs"]
    assert words[place + 1 : place + 4] == carried
    assert words[place + 5] == "-u" and words[-2:] == ["--run", "mine"]
    alone = launching.Team(True)
    assert alone.carry(alone.command_line("python/main.py"), environment)[-1].endswith("main.py")


def test_the_launcher_of_another_node_does_not_go_to_the_background():
    launching.refuse_lone_background(launching.Team(True, node_rank=0))
    with pytest.raises(UserError, match="NODE_RANK=1 in the background"):
        launching.refuse_lone_background(launching.Team(True, node_rank=1))


def test_several_nodes_over_ssh_need_pdsh_and_each_on_its_own_does_not(recipe, tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    (tmp_path / "hosts").write_text("# two nodes\nnode-a slots=8\nnode-b slots=8\n")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UserError, match="pdsh is not installed") as caught:
        launching.choose_team(recipe.training, options(hostfile=tmp_path / "hosts"))
    assert caught.value.exit_code == 69
    here = {"hostfile": tmp_path / "hosts", "node_rank": 1, "master_addr": "node-a", "master_port": 29500}
    words = launching.choose_team(recipe.training, options(**here)).command_line("python/main.py")
    assert words[words.index("--node_rank") + 1] == "1" and "--no_ssh" in words
    with pytest.raises(UserError, match="0 to 1") as caught:
        launching.choose_team(recipe.training, options(**here | {"node_rank": 2}))
    assert caught.value.exit_code == 64


def test_options_of_a_team_are_refused_where_one_process_trains():
    with pytest.raises(UserError, match="one process trains"):
        launching.choose_team(load_recipe("demo").training, options(num_gpus=2))


@pytest.mark.parametrize(
    "numbers, said",
    [
        ({}, "39 in all, 13 an epoch; warm-up 10"),
        ({"max_steps": 2}, "2 in all, 13 an epoch; warm-up 10\nwarning: all steps are warm-up"),
        ({"epochs": 1, "warmup_ratio": 0.1}, "13 in all, 13 an epoch; warm-up 2"),
        ({"max_steps": 1, "warmup_steps": 0}, "1 in all, 13 an epoch; warm-up 0"),
        ({"max_steps": 1, "warmup_ratio": 0.0}, "1 in all, 13 an epoch; warm-up 0"),
    ],
)
def test_the_number_of_steps_is_said_before_the_first(numbers, said):
    given = {f"training.{key}": (value, "test") for key, value in numbers.items()}
    assert engine.describe_steps(load_recipe("ba-cpu", given).training, 98).startswith(said)


@pytest.mark.parametrize("steps", [1, 13, 20, 78])
@pytest.mark.parametrize("every", [None, 1, 5, 13, 26, 100])
def test_evaluations_are_at_the_ends_of_epochs_and_every_so_many_steps_between(recipe, steps, every):
    recipe.training.eval_every_steps = every
    at = [n for n in range(1, steps + 1) if n % 13 == 0 or n == steps or (every and n % every == 0)]
    for done in range(steps):
        assert engine.count_evaluations(recipe.training, steps, 13, done) == sum(n > done for n in at)


@pytest.mark.parametrize("setting", ["warmup_steps", "warmup_ratio"])
def test_a_training_whose_learning_rate_stays_0_is_refused(setting):
    numbers = {"training.max_steps": (1, "test"), f"training.{setting}": (0.5 if "ratio" in setting else 3, "test")}
    with pytest.raises(UserError, match=f"one optimizer step.*SET=training.{setting}=0"):
        engine.describe_steps(load_recipe("ba-cpu", numbers).training, 98)
