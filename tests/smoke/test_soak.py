"""Killed and resumed, or trained again from a manifest: the same bytes. Run: pytest tests/smoke/test_soak.py"""

import json
import shutil
import subprocess
import sys
import time

import pytest
from trainings import ROOT

from common.checkpoints import commit_checkpoint
from common.errors import UserError
from common.recipes import load_recipe
from common.reliability.comparing import compare_runs, differing_files
from common.reliability.manifests import find_repetition
from common.reliability.soak import ALONE, SURVIVOR, Soak
from common.runs.lock import RunLock

pytestmark = pytest.mark.smoke
RECIPE = """command: finetune_ba
data: {{train: {data}/train.jsonl, validation: {data}/validation.jsonl}}
training: {{max_steps: 6, gradient_accumulation: 2, warmup_steps: 1, learning_rate: 3.0e-3, threads: 1}}
"""
STEPS = 60  # fewer are over before a busy machine lets anyone kill the training


def call(trainings, command, *words):
    line = [sys.executable, str(ROOT / "python" / command), *words]
    return subprocess.run(line, env=trainings.environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="session")
def recipes(tmp_path_factory):
    """A folder with short.yaml: six steps on four short examples, with dropout."""
    sys.path.append(str(ROOT / "tests" / "bad"))
    from cooking import write_data

    folder = write_data(tmp_path_factory.mktemp("short"))
    (folder / "short.yaml").write_text(RECIPE.format(data=folder), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def first(trainings, recipes):
    """The name of a run of short.yaml."""
    code, output = trainings.run("--recipe", str(recipes / "short.yaml"), "--run", "first")
    assert code == 0, output
    return "first"


def test_killed_twice_it_ends_with_the_same_bytes(trainings, recipes):
    steps = ("--set", f"training.max_steps={STEPS}")
    done = call(trainings, "soak.py", "--recipe", str(recipes / "short.yaml"), "--kills", "2", "--seed", "1", *steps)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((trainings.folder / "soak" / "report.json").read_text())
    assert (report["kills"], report["resumed"], report["attempts"]) == (2, 2, 3)
    assert report["identical"] and report["sha256_uninterrupted"] == report["sha256_survivor"]
    assert report["curves_part_at"] is None and all(report["other_files"].values())
    assert {"tokenizer.json", "loss.png", f"checkpoint-{STEPS}/optimizer.pt"} <= report["other_files"].keys()
    assert report["dropout"] > 0 and report["steps"] == STEPS
    states = [event["state"] for event in report["events"]]
    assert all(state not in ("completed", "stopped", "failed") for state in states)
    hits = [event for event in report["events"] if event["inside_save"]]
    assert len(hits) == report["mid_save_kills"]
    assert all("COMMIT.json" not in event["left_behind"] for event in hits)
    attempts = json.loads((trainings.folder / "soak" / "short-seed1" / "survivor" / "run.json").read_text())["attempts"]
    assert [attempt.get("state") for attempt in attempts] == [None, None, "completed"]


def test_a_difference_is_found_and_named(trainings, first):
    run = trainings.folder / first
    copy = shutil.copytree(run, trainings.folder.parent / "copy-of-first")
    same = compare_runs(run, copy)
    assert same["identical"] and not differing_files(same) and same["curves_part_at"] is None
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[4])
    lines[4] = json.dumps(record | {"loss": record["loss"] + 1e-7})
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("adapter_model.safetensors", "checkpoint-6/optimizer.pt"):
        (copy / name).write_bytes((copy / name).read_bytes()[:-1] + b"\0\1")
    other = compare_runs(run, copy)
    assert not other["identical"] and other["curves_part_at"] == record["step"]
    assert differing_files(other) == ["checkpoint-6/optimizer.pt"]


def test_a_run_is_reproduced_from_its_manifest(trainings, first):
    done = call(trainings, "reproduce_run.py", "--run", first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical: run 'first' is repeated to the byte by run 'first-again'" in done.stdout
    report = trainings.read("first-again", "reproduction.json")
    assert report["identical"] and report["curves_part_at"] is None and all(report["other_files"].values())
    assert trainings.read("first-again", "run.json")["recipe"] == "short"


def test_an_interrupted_reproduction_is_carried_on_by_the_same_command(trainings, first):
    taken = (trainings.folder / f"{first}-again").exists()  # made, and compared, by the test above
    again = trainings.folder / (f"{first}-again-2" if taken else f"{first}-again")
    process = trainings.start("--run", first, command="reproduce_run")
    deadline = time.monotonic() + 240
    while not (again / "run.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.terminate()
    assert f"make reproduce RUN={first} carries" in process.communicate(timeout=120)[0]
    assert process.returncode == 75
    done = call(trainings, "reproduce_run.py", "--run", first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"carrying on run '{again.name}'" in done.stdout
    report = trainings.read(again.name, "reproduction.json")
    assert report["identical"] and all(report["other_files"].values())
    assert len(trainings.read(again.name, "run.json")["attempts"]) == 2

    (again / "reproduction.json").unlink()  # as when it was carried on by `make resume`, and nobody has compared yet
    done = call(trainings, "reproduce_run.py", "--run", first)
    assert done.returncode == 0 and "identical" in done.stdout, done.stdout + done.stderr
    assert len(trainings.read(again.name, "run.json")["attempts"]) == 2


def test_a_run_that_is_no_repetition_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    manifest = {"settings": {"name": "demo", "training": {"seed": 1}, "output": {"folder": None}}}
    other = {"settings": {"name": "demo", "training": {"seed": 2}, "output": {"folder": None}}}
    (tmp_path / "mine-again").mkdir()
    (tmp_path / "mine-again" / "run.json").write_text(json.dumps(other))
    assert find_repetition("mine", manifest) == ("mine-again-2", None)
    (tmp_path / "mine-again" / "run.json").write_text(json.dumps(manifest))
    assert find_repetition("mine", manifest) == ("mine-again", "crashed")
    lock = RunLock.acquire(tmp_path / "mine-again", {"pid": 1})
    with pytest.raises(UserError, match="is held"):
        find_repetition("mine", manifest)
    lock.release()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda manifest: manifest["data"]["train"].update(sha256="0" * 64), 78, "train.jsonl is another file"),
        (lambda manifest: manifest["data"]["train"].update(path="/nowhere.jsonl"), 66, "/nowhere.jsonl is missing"),
        (lambda manifest: manifest["model"]["files"].update({"config.json": "0" * 64}), 78, "config.json is another"),
        (lambda manifest: manifest["versions"].update(torch="2.0.0"), 78, "the run had 2.0.0"),
        (lambda manifest: manifest["git"].update(commit="0" * 40), 0, "that commit is not here"),
        (lambda manifest: manifest["hardware"].update(cpu="Z80"), 0, "machine: cpu was Z80"),
    ],
    ids=["data", "no data", "model", "versions", "code", "machine"],
)
def test_what_differs_from_the_manifest_is_said(trainings, first, change, code, words):
    manifest = trainings.read(first, "run.json")
    path = trainings.folder / first / "run.json"
    before = path.read_bytes()
    change(manifest)
    path.write_text(json.dumps(manifest))
    try:
        done = call(trainings, "reproduce_run.py", "--run", first, "--check")
    finally:
        path.write_bytes(before)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_the_report_is_written_for_a_method_without_dropout(tmp_path):
    soak = Soak("medical-adapter", 1, 0)
    soak.folder, soak.total_steps, soak.alone_s = tmp_path, 1, 1.0
    for name in (ALONE, SURVIVOR):
        (tmp_path / name / "checkpoint-1").mkdir(parents=True)
        commit_checkpoint(tmp_path / name / "checkpoint-1", {})
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"the same")
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
        (tmp_path / name / "DONE.json").write_text('{"files": {}}')
        settings = load_recipe("medical-adapter").to_dict()
        manifest = {"recipe": "medical-adapter", "settings": settings, "attempts": [{}]}
        (tmp_path / name / "run.json").write_text(json.dumps(manifest))
    report = soak._report(2.0)
    assert report["identical"] and report["dropout"] is None and report["recipe"] == "medical-adapter"
