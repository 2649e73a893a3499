"""python/finetune_ba.py really trains, on the demo model: artefacts, figures, interruption, mistakes.

Run: pytest tests/smoke/test_finetune_ba.py
"""

import json
import signal
import time

import pytest
from trainings import ROOT, SHORT

from common.hashing import sha256_of

pytestmark = pytest.mark.smoke
MODEL = ROOT / "recipes" / "demo" / "model"


def test_a_finished_run_leaves_exactly_what_it_should(trainings, finished):
    names = {path.name for path in (trainings.folder / finished).iterdir()}
    assert names == {
        "run.json",
        "run.lock",
        "status.json",
        "train.log",
        "metrics.jsonl",
        "logs",
        "checkpoint-7",
        "checkpoint-8",
        "epoch_info.json",
        "loss.png",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
        "training_info.json",
        "report.html",
        "DONE.json",
    }
    assert {path.name for path in (trainings.folder / finished / "checkpoint-8").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "COMMIT.json",
    }
    done = trainings.read(finished, "DONE.json")
    for name, digest in done["files"].items():
        assert sha256_of(trainings.folder / finished / name) == digest
    assert done["data_changed"] == []
    assert "data_changed" not in trainings.read(finished, "run.json")


def test_the_files_say_what_happened(trainings, finished):
    status = trainings.read(finished, "status.json")
    assert (status["state"], status["step"], status["total_steps"]) == ("completed", 8, 8)
    info = trainings.read(finished, "training_info.json")
    assert (info["train_examples"], info["val_examples"], info["steps"]) == (98, 22, 8)
    assert info["trainable_percentage"] == pytest.approx(
        100 * info["trainable_params"] / info["total_params"], abs=1e-3
    )
    assert info["plan"]["peak_gib"] == info["peak_rss_gib"] > 0.3 and info["plan"]["train_s"] > 0
    page = (trainings.folder / finished / "report.html").read_text(encoding="utf-8")
    assert "checkpoint-8" in page and "make reproduce RUN=finished" in page and "PeftModel.from_pretrained" in page
    manifest = trainings.read(finished, "run.json")
    assert info["plan"]["planned_gib"] == round(manifest["plan"]["memory"]["total"], 3)
    assert manifest["command"] == "python/finetune_ba.py"
    assert manifest["data"]["train"]["sha256"] == sha256_of(ROOT / "recipes" / "demo" / "data" / "train.jsonl")
    assert manifest["model"]["files"]["model.safetensors"] == sha256_of(MODEL / "model.safetensors")
    lines = (trainings.folder / finished / "metrics.jsonl").read_text().splitlines()
    losses = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3])
    (epoch,) = trainings.read(finished, "epoch_info.json")
    assert epoch["global_step"] == 8
    assert epoch["train_loss"] == pytest.approx(sum(losses) / 8)
    assert epoch["checkpoint"] == "checkpoint-8"


def test_the_adapter_read_back_gives_the_loss_it_had_in_memory(trainings, finished):
    import torch
    from safetensors.torch import load_file

    from common import packed_model
    from common.chat import encode_examples
    from common.data import load_examples
    from common.methods import load_adapter
    from common.models import load_model, load_tokenizer
    from common.packing import plan_packs

    folder = trainings.folder / finished
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(torch.any(weight) for name, weight in weights.items() if "lora_B" in name)
    model = load_adapter(load_model(MODEL), folder)
    packed_model.enable_packs(model)
    examples = load_examples(ROOT / "recipes" / "demo" / "data" / "validation.jsonl").examples
    data = encode_examples(load_tokenizer(folder), examples, max_length_tokens=2048)
    with torch.no_grad():
        total = sum(packed_model.sum_loss(model, pack).item() for pack in plan_packs(data[:], 2048))
    trained = sum(sum(example.completion_mask[1:]) for example in data)
    (epoch,) = trainings.read(finished, "epoch_info.json")
    assert total / trained == pytest.approx(epoch["eval_loss"], rel=1e-5)


def test_data_that_changed_during_the_run_is_told_and_fails_nothing(trainings, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes((ROOT / "recipes" / "demo" / "data" / "train.jsonl").read_bytes())
    process = trainings.start(*SHORT, "--set", "training.max_steps=2", "--train", str(path), "--run", "changed-data")
    deadline = time.monotonic() + 240
    while not (trainings.folder / "changed-data" / "run.json").exists():  # written when the data has been read
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    path.write_text("{}")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "warning: " + str(path) + " changed after it was read; the run trained on what it read" in output
    assert trainings.read("changed-data", "DONE.json")["data_changed"] == ["train"]
    assert trainings.read("changed-data", "run.json")["data_changed"] == ["train"]
    assert trainings.read("changed-data", "status.json")["state"] == "completed"


def test_the_same_recipe_gives_the_same_bytes(trainings, finished):
    before = {path.name: sha256_of(path) for path in MODEL.iterdir()}
    code, shown = trainings.run_on_terminal(*SHORT, "--run", "again")
    assert code == 0, shown
    log = (trainings.folder / "again" / "train.log").read_text(encoding="utf-8")
    assert "━ 100%  step 8/8  loss" in shown and "step 8/8  loss" in log  # a bar for people, lines for the log
    assert "\nstep 8/8" not in shown and "━" not in log and "\x1b" not in log
    assert sha256_of(trainings.folder / "again" / "adapter_model.safetensors") == sha256_of(
        trainings.folder / finished / "adapter_model.safetensors"
    )
    assert {path.name: sha256_of(path) for path in MODEL.iterdir()} == before  # the base is as it was


def test_killed_stopped_and_resumed_it_ends_with_the_same_bytes(trainings, finished):
    process = trainings.start(*SHORT, "--run", "disturbed")
    trainings.signal_at(process, "disturbed", 3, signal.SIGKILL)
    process = trainings.start("--resume", "--run", "disturbed")
    trainings.signal_at(process, "disturbed", 6, signal.SIGTERM)
    assert process.returncode == 75
    assert trainings.read("disturbed", "status.json")["state"] == "stopped"
    code, output = trainings.run("--resume", "--run", "disturbed")
    assert code == 0, output
    assert sha256_of(trainings.folder / "disturbed" / "adapter_model.safetensors") == sha256_of(
        trainings.folder / finished / "adapter_model.safetensors"
    )
    assert len(trainings.read("disturbed", "run.json")["attempts"]) == 3


def test_a_resume_that_would_train_something_else_is_refused(trainings, tmp_path):
    rows = (ROOT / "recipes" / "demo" / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(rows[:90]), encoding="utf-8")
    process = trainings.start(*SHORT, "--train", str(data), "--run", "changed")
    trainings.signal_at(process, "changed", 1, signal.SIGTERM)
    data.write_text("\n".join(rows[:89]), encoding="utf-8")
    code, output = trainings.run("--resume", "--run", "changed")
    assert code == 78, output
    assert "data.train.sha256: was" in output
    assert "FORCE=1" in output
    code, output = trainings.run("--resume", "--run", "changed", "--force")
    assert code == 0, output
    assert "data.train.sha256" in trainings.read("changed", "run.json")["breaks"][0]


def test_packed_and_one_by_one_training_follow_the_same_curve(trainings):
    curves, ends = {}, {}
    for packing in ("on", "off"):
        words = (*SHORT, "--lora-dropout", "0", "--packing", packing, "--run", f"packing-{packing}")
        code, output = trainings.run(*words)
        assert code == 0, output
        lines = (trainings.folder / f"packing-{packing}" / "metrics.jsonl").read_text().splitlines()
        curves[packing] = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
        ends[packing] = trainings.read(f"packing-{packing}", "epoch_info.json")[-1]["eval_loss"]
    assert curves["on"] == pytest.approx(curves["off"], rel=1e-3)
    assert ends["on"] == pytest.approx(ends["off"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--train", "nowhere.jsonl"], 66, "nowhere.jsonl: no such file"),
        (["--train", "{tmp}/broken.jsonl"], 65, "broken.jsonl:2"),
        (["--lrr", "1"], 64, "unknown option '--lrr' — did you mean --lr"),
        (["--recipe", "{tmp}/typo.yaml"], 78, "did you mean learning_rate?"),
        (["--base-model", "{tmp}/no-model"], 66, "no model folder"),
        (["--output", "/proc/recetario"], 73, "/proc"),
        (["--lora-r", "0"], 78, "--lora-r is 0"),
        (["--run", "../x"], 64, "run name '../x' cannot be used"),
        (["--set", "training.packing=on", "--set", "data.max_length_tokens=16"], 65, "max_length"),
    ],
    ids=["missing file", "broken line", "option", "key", "model", "output", "rank", "name", "too long"],
)
def test_bad_input_gets_a_line_and_leaves_nothing_behind(trainings, tmp_path, words, code, expected):
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n{"prompt": 1}\n')
    (tmp_path / "typo.yaml").write_text("command: finetune_ba\ntraining: {learning_rte: 1}\n")
    before = sorted(trainings.folder.iterdir())
    name = [] if "--run" in words else ["--run", "never"]
    found, output = trainings.run("--recipe", "demo", *name, *(word.format(tmp=tmp_path) for word in words))
    assert (found, expected in output) == (code, True), output
    assert "Traceback" not in output
    assert sorted(trainings.folder.iterdir()) == before
