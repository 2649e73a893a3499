"""frida-h100 with real DeepSpeed ranks on the CPU: artefacts, the same curve as one process, deaths of every kind.

Run: pytest tests/smoke/test_main.py
"""

import json
import os

import psutil
import pytest
from cluster import write_hostfile, write_stand_ins
from rank_trainings import ROOT, RankTrainings, ranks_of, wait_until_gone

from common.launching import free_port

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed here: it needs Linux")
pytestmark = pytest.mark.smoke
OFTEN = ("--set", "training.save_every_minutes=0.0001")  # at every step
FINISHED = "adapter_config.json adapter_model.safetensors tokenizer.json tokenizer_config.json chat_template.jinja"
RECORDS = "run.json run.lock status.json train.log metrics.jsonl logs epoch_info.json training_info.json DONE.json"
ARTEFACTS = {
    *FINISHED.split(),
    *RECORDS.split(),
    "README.md",
    "report.html",
    "loss.png",
    "checkpoint-4",
    "checkpoint-epoch-1",
}
EPOCH_KEYS = {"epoch", "train_loss", "eval_loss", "learning_rate", "global_step", "timestamp", "path"}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory) -> RankTrainings:
    return RankTrainings(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def together(trainings) -> str:
    """The name of a run that two ranks trained to its end, undisturbed."""
    process = trainings.launch("together")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert "micro-batch 2 × accumulation 2 × 2 ranks = 8 examples a step" in output
    return "together"


def test_make_train_h100_smoke_leaves_every_artefact(trainings):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    code, output = trainings.run("make", "train-h100", SMOKE=1)
    assert code == 0, output
    assert "5: 98 training examples are fewer than 1,000" in output
    folder = trainings.folder / "frida-h100-smoke"
    names = {path.name for path in folder.iterdir()}
    assert names == ARTEFACTS
    (epoch,) = trainings.read(folder.name, "epoch_info.json")
    assert set(epoch) >= EPOCH_KEYS
    assert (epoch["path"], epoch["global_step"]) == ("checkpoint-epoch-1", 4)
    assert any((folder / "logs").rglob("events.out.tfevents.*"))
    shards = sorted(path.name for path in (folder / "checkpoint-4" / "global_step4").glob("*zero_pp_rank*"))
    assert len(shards) == 2, "ZeRO splits the optimizer's state over the ranks"
    assert trainings.read(folder.name, "training_info.json")["ranks"] == 2

    base = AutoModelForCausalLM.from_pretrained(ROOT / "recipes" / "demo" / "model")
    model = PeftModel.from_pretrained(base, folder / "checkpoint-epoch-1")
    weights = {name: weight for name, weight in model.named_parameters() if "lora_B" in name}
    assert weights and all(torch.any(weight) for weight in weights.values())


def test_the_saved_adapter_is_what_the_ranks_hold_in_memory(trainings, together):
    """Under ZeRO each rank holds half of the fp32 weights that are trained; put together they are the saved ones."""
    import torch
    from safetensors.torch import load_file

    folder = trainings.folder / together
    last = folder / "checkpoint-40"
    finished, kept = (load_file(place / "adapter_model.safetensors") for place in (folder, last))
    assert finished.keys() == kept.keys() and all(torch.equal(finished[name], kept[name]) for name in kept)
    shards = sorted((last / "global_step40").glob("*zero_pp_rank_*_optim_states.pt"))
    states = [torch.load(shard, weights_only=False)["optimizer_state_dict"] for shard in shards]
    assert len(states) == 2
    halves = [state["single_partition_of_fp32_groups"] for state in states]
    held = torch.cat([torch.cat(group) for group in zip(*halves, strict=True)])
    saved = torch.cat([weight.flatten() for weight in finished.values()])
    assert torch.count_nonzero(saved) > 0.99 * saved.numel()
    assert torch.equal(held[held != 0].sort().values, saved[saved != 0].sort().values)


def test_two_ranks_follow_the_curve_of_one_process(trainings, together):
    words = ("--smoke", "--run", "alone", "--grad-accum", "4", *trainings.inputs, *trainings.numbers)
    code, output = trainings.command("main", *words)
    assert code == 0, output
    assert len(trainings.losses(together)) == 40
    assert trainings.losses(together) == pytest.approx(trainings.losses("alone"), rel=1e-3)
    assert trainings.losses(together)[-1] < trainings.losses(together)[0]
    judged = [[epoch["eval_loss"] for epoch in trainings.read(run, "epoch_info.json")] for run in (together, "alone")]
    assert judged[0] == pytest.approx(judged[1], rel=1e-3)


def test_a_crashed_rank_a_dead_launcher_and_a_stop_leave_nobody_and_resume(trainings, together):
    name, folder = "disturbed", trainings.folder / "disturbed"
    code = trainings.launch(name, *OFTEN, BACKGROUND=1).wait(timeout=600)
    assert code == 0
    trainings.wait_for_checkpoint(name, 2)
    ranks_of(folder)["1"].kill()
    wait_until_gone(folder)
    assert trainings.status(name)["state"] in ("failed", "crashed")

    assert trainings.command("resume_run", "--run", name)[0] == 0
    trainings.wait_for_checkpoint(name, 4)
    for launcher in ("runner", "launch"):
        ranks_of(folder)[launcher].kill()
    wait_until_gone(folder)
    assert trainings.status(name)["state"] == "stopped", "ranks without a launcher save and end"

    assert trainings.command("resume_run", "--run", name)[0] == 0
    trainings.wait_for_checkpoint(name, 6)
    code, output = trainings.command("stop_run", "--run", name)
    assert code == 0 and "stopped at step" in output, output
    wait_until_gone(folder, timeout_s=30)

    assert trainings.command("resume_run", "--run", name)[0] == 0
    code, output = trainings.command("watch_run", "--run", name)
    assert code == 0, output
    assert trainings.losses(name) == pytest.approx(trainings.losses(together), rel=1e-6)
    assert len(trainings.read(name, "run.json")["attempts"]) == 4


def test_it_is_reproduced_with_as_many_ranks(trainings, together):
    code, output = trainings.command("reproduce_run", "--run", together)
    assert code == 0 and "2 ranks = 8 examples a step" in output, output
    again = trainings.read(f"{together}-again", "reproduction.json")
    assert again["identical"] and again["curves_part_at"] is None and all(again["other_files"].values())
    assert trainings.read(f"{together}-again", "training_info.json")["ranks"] == 2


def test_two_launchers_train_as_two_nodes_and_carry_on_after_one_lost_its_rank(trainings, together, tmp_path):
    where = {"HOSTFILE": write_hostfile(tmp_path), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [trainings.launch("nodes", *OFTEN, NODE_RANK=rank, **where) for rank in (0, 1)]
    trainings.wait_for_checkpoint("nodes", 2)
    family = [process for node in nodes for process in psutil.Process(node.pid).children(recursive=True)]
    next(process for process in family if process.environ().get("RANK") == "1").kill()
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert nodes[0].returncode == 70 and nodes[1].returncode != 0, outputs
    assert "2 ranks on 2 nodes" in outputs[0] and "another rank is gone" in outputs[0]
    assert not psutil.wait_procs(family, timeout=60)[1]

    where |= {"RESUME": 1, "RUN": "nodes"}
    nodes = [trainings.start("scripts/launch_training.sh", NODE_RANK=rank, **where) for rank in (0, 1)]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "resuming at step" in outputs[0]
    # sums may be ordered otherwise, hence the tolerance
    assert trainings.losses("nodes") == pytest.approx(trainings.losses(together), rel=1e-3)


def test_ranks_do_not_outlive_who_waits_for_them_in_the_foreground(trainings):
    process = trainings.launch("orphans", "--set", "training.max_steps=4000")
    trainings.wait_for_step("orphans", 3)
    family = psutil.Process(process.pid).children(recursive=True)
    assert {"0", "1"} <= {member.environ().get("RANK") for member in family}
    process.kill()
    assert not psutil.wait_procs(family, timeout=120)[1]
    assert trainings.status("orphans")["state"] == "stopped"


def test_one_launcher_starts_all_nodes_of_a_hostfile_over_ssh(trainings, together, tmp_path):
    """With pdsh and ssh that reach this machine only; what arrives over ssh is the command line, no environment."""
    stand_ins = write_stand_ins(tmp_path / "bin")
    process = trainings.launch("spread", BACKGROUND=1, HOSTFILE=write_hostfile(tmp_path), **stand_ins)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "2 ranks on 2 nodes" in output
    code, output = trainings.command("watch_run", "--run", "spread")
    assert code == 0, output
    assert trainings.losses("spread") == pytest.approx(trainings.losses(together), rel=1e-3)
    assert trainings.read("spread", "run.json")["settings"]["training"]["nodes"] == 2


def test_the_batch_script_stops_before_the_time_is_up_and_carries_on(trainings, together, tmp_path):
    """With an srun that starts both nodes' launchers here."""
    slurm = {"SLURM_SUBMIT_DIR": ROOT, "SLURM_JOB_ID": os.getpid(), "SLURM_JOB_NODELIST": "two", "RUN": "batch"}
    slurm |= {"SLURM_GPUS_ON_NODE": 1, "SMOKE": 1} | write_stand_ins(tmp_path / "bin")
    script = ("bash", "scripts/train_h100.slurm")
    job = trainings.start(*script, *trainings.inputs, *trainings.numbers, *OFTEN, **slurm)
    try:
        trainings.wait_for_step("batch", 3)
        job.terminate()  # what #SBATCH --signal=B:TERM does
        output, _ = job.communicate(timeout=300)
        assert job.returncode == 75, output
        assert "stopped at step" in output

        code, output = trainings.run(*script, **slurm | {"RESUME": 1, "SLURM_JOB_ID": os.getpid() + 1})
    finally:
        for number in (0, 1):
            (ROOT / "runs" / f"hostfile-{os.getpid() + number}").unlink(missing_ok=True)
    assert code == 0, output
    assert trainings.losses("batch") == pytest.approx(trainings.losses(together), rel=1e-3)


def test_a_config_that_contradicts_the_recipe_is_refused_before_anything_is_loaded(trainings, tmp_path):
    config = json.loads((ROOT / "ds_config.json").read_text())
    config |= {"train_micro_batch_size_per_gpu": 4, "optimizer": {"type": "AdamW"}, "train_batch_size": 128}
    (tmp_path / "ds.json").write_text(json.dumps(config))
    process = trainings.launch("refused", "--deepspeed", str(tmp_path / "ds.json"))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 78
    assert "ds.json: train_micro_batch_size_per_gpu is 4 — training.micro_batch 2" in output
    assert "ds.json: train_batch_size is 128" in output and "ds.json: 'optimizer'" in output
    assert not (trainings.folder / "refused").exists()


def test_what_only_one_rank_finds_wrong_is_said(trainings, tmp_path):
    """Each of two nodes reads its own file, and the second has none."""
    where = {"HOSTFILE": write_hostfile(tmp_path), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    absent = tmp_path / "absent.jsonl"
    own = {0: (), 1: ("--data", str(absent))}
    nodes = [trainings.launch("unlike", *own[rank], NODE_RANK=rank, **where) for rank in (0, 1)]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [70, 66], outputs
    assert f"rank 1:\nerror: {absent}: no such file" in outputs[1]
    assert "rank 0: the connection to the other ranks is lost" in outputs[0]


def test_a_configuration_without_a_stage_is_saved_without_a_look_at_the_base(trainings, tmp_path):
    """accelerate, which copies all weights of the model for a save, would ask for the stage first."""
    config = json.loads((ROOT / "ds_config.json").read_text())
    del config["zero_optimization"]["stage"]
    (tmp_path / "ds.json").write_text(json.dumps(config))
    process = trainings.launch("no-stage", "--deepspeed", str(tmp_path / "ds.json"), "--set", "training.max_steps=2")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert (trainings.folder / "no-stage" / "checkpoint-2" / "COMMIT.json").is_file()


def test_one_process_trains_in_nf4_from_the_largest_singular_values(trainings):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this system")
    changes = ("--set", "model.precision=nf4", "--set", "method.init=svd", "--set", "training.max_steps=2")
    code, output = trainings.command("main", "--smoke", "--run", "quantised", *changes)
    assert code == 0, output


def test_without_enough_gpus_it_says_what_is_there_and_what_to_do(trainings):
    import torch

    if torch.cuda.device_count() >= 8:
        pytest.skip("this machine has the GPUs")
    given = dict(zip(("MODEL", "TRAIN", "VAL"), trainings.inputs[1::2], strict=True))
    code, output = trainings.run("scripts/train.sh", RECIPE="frida-h100", RUN="no-gpus", NUM_GPUS=8, **given)
    assert code == 69
    assert "8 CUDA GPUs are asked for on this node" in output and "SMOKE=1" in output
    assert not (trainings.folder / "no-gpus").exists()


def test_the_launcher_makes_the_data_that_is_missing(trainings, tmp_path):
    """In a folder of runs that is empty; the run itself then lacks its GPUs."""
    import torch

    if torch.cuda.device_count() >= 8:
        pytest.skip("this machine has the GPUs")
    code, output = trainings.run("scripts/launch_training.sh", *trainings.inputs[:2], RECETARIO_RUNS=tmp_path / "runs")
    assert code == 69, output
    assert "train       385 examples" in output and "validation  42 examples" in output
    assert (tmp_path / "runs" / "data" / "frida-h100" / "formatted_data.jsonl").is_file()
