"""The medical methods really train on the demo model: killed and resumed, refused, and the whole pipeline.

Run: pytest tests/smoke/test_medical.py
"""

import json
import signal

import pytest

from common.hashing import sha256_of
from common.samples import medical

pytestmark = pytest.mark.smoke
METHODS = ("qlora", "adapter", "ptuning")
MARGIN = 0.2  # nats a token: a method improves on the base by more, and its interval lies above 0


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """A folder with a few questions to train on and to validate with."""
    folder = tmp_path_factory.mktemp("medical")
    rows = medical.generate_dataset(42)["medical_qa"]
    for name, part in (("train", rows[:24]), ("val", rows[24:28])):
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    return folder


def words(method, splits, run, *more):
    steps = ("--set", "training.max_steps=4", "--set", "training.save_every_minutes=0.0001", "--batch_size", "4")
    return ("--smoke", "--data_path", str(splits), *steps, "--run", run, *more)


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_each_method_ends_with_the_same_bytes(trainings, splits, method):
    command = f"train_{method}"
    code, output = trainings.run(*words(method, splits, f"{method}-whole"), command=command)
    assert code == 0, output
    process = trainings.start(*words(method, splits, f"{method}-killed"), command=command)
    trainings.signal_at(process, f"{method}-killed", 2, signal.SIGKILL)
    code, output = trainings.run("--resume", "--run", f"{method}-killed", command=command)
    assert code == 0, output
    assert "resuming at step" in output
    whole, killed = (trainings.folder / f"{method}-{end}" / "adapter_model.safetensors" for end in ("whole", "killed"))
    assert sha256_of(whole) == sha256_of(killed)
    info = trainings.read(f"{method}-whole", "training_info.json")
    assert info["train_examples"] == 24 and info["val_examples"] == 4
    assert info["precision"] == ("nf4" if method == "qlora" else "fp32")
    assert ("on" if method != "ptuning" else "off") == info["packing"]


@pytest.mark.parametrize("method", METHODS)
def test_smoke_needs_nothing_but_the_recipe(trainings, method):
    code, output = trainings.run("--smoke", "--check", command=f"train_{method}")
    assert code == 0, output


@pytest.mark.parametrize(
    ("command", "more", "code", "expected"),
    [
        ("train_ptuning", ["--set", "training.packing=on"], 78, "p-tuning puts its tokens before each example"),
        ("train_qlora", ["--set", "method.targets=[q_prj]"], 78, "no layer is called 'q_prj'"),
        ("train_adapter", ["--recipe", "medical-qlora"], 78, "use python/train_qlora.py"),
        ("train_adapter", ["--set", "method.rank=8"], 78, "adapter has: size, placement, activation"),
        ("train_adapter", ["--placement", "between"], 78, "allowed: houlsby, pfeiffer"),
    ],
    ids=["packing", "target", "recipe", "setting", "placement"],
)
def test_wrong_combinations_are_refused_and_leave_nothing(trainings, splits, command, more, code, expected):
    before = sorted(trainings.folder.iterdir())
    found, output = trainings.run(*words("", splits, "never", *more), command=command)
    assert (found, expected in output) == (code, True), output
    assert "Traceback" not in output and sorted(trainings.folder.iterdir()) == before


def test_the_pipeline_trains_judges_and_does_nothing_twice(trainings):
    code, output = trainings.run("--smoke", command="run_all")
    assert code == 0, output
    folder = trainings.folder / "pipeline-smoke"
    states = trainings.read("pipeline-smoke", "pipeline.json")["stages"]
    assert {name: entry["state"] for name, entry in states.items()} == dict.fromkeys(
        ("questions", "data", *METHODS, "evaluation"), "done"
    )
    report = trainings.read("pipeline-smoke", "evaluation_results.json")
    assert list(report["models"]) == ["base", "base in NF4", *METHODS]
    for method in METHODS:
        gain = report["differences"][method]["loss"]
        assert gain["difference"] > MARGIN and gain["interval"]["low"] > 0, method
        model = report["models"][method]
        assert min(model[name] for name in ("trainable", "share", "adapter_bytes", "peak_gib", "training_s")) > 0
        assert model["tokens_per_s"] > 0
    assert report["recommendation"]["choice"] in METHODS
    assert report["merge"]["qlora"]["largest_change"] < 1e-4 < report["merge"]["qlora"]["nf4_change"]
    assert {path.name for path in folder.iterdir()} == {
        "pipeline.json", "evaluation_results.json", "evaluation_results.md", "evaluation_results.png"
    }  # fmt: skip

    code, output = trainings.run("--smoke", command="run_all")
    assert code == 0 and output.count("done already") == 6, output

    limited = ("--adapter_model", "medical-adapter-smoke", "--ptuning_model", "medical-ptuning-smoke")
    limited = [str(trainings.folder / word) if word.startswith("medical") else word for word in limited]
    rows = (trainings.folder / "data" / "medical_qa-smoke" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "test.json").write_text(json.dumps([json.loads(row) for row in rows[:30]]), encoding="utf-8")
    words = ("--test_data", str(folder / "test.json"), "--output_file", str(folder / "small.json"))
    code, output = trainings.run(*limited, *words, "--max_adapter_mib", "0.5", command="evaluate_models")
    assert code == 0, output
    small = trainings.read("pipeline-smoke", "small.json")
    assert small["recommendation"]["choice"] == "ptuning" != report["recommendation"]["choice"]
    assert "adapter on disk" in small["recommendation"]["excluded"]["adapter"][0]
    assert small["metadata"]["test"]["examples"] == 30 and not (folder / "small.partial.json").exists()


def test_a_search_trains_each_rate_once_and_says_which_is_best(trainings, splits):
    search = ("--recipe", "medical-adapter", "--smoke", "--data_path", str(splits), "--rates", "1e-4", "5e-3")
    search += ("--set", "training.max_steps=4", "--set", "training.warmup_steps=0")
    for again in (0, 2):
        code, output = trainings.run(*search, command="search_rate")
        assert code == 0, output
        assert output.count("done already") == again
        assert "0.005" in next(line for line in output.splitlines() if line.endswith("<- best"))
    rows = json.loads((trainings.folder / "bench" / "rate-medical-adapter-smoke.json").read_text())["rates"]
    assert [row["learning_rate"] for row in rows] == [1e-4, 5e-3]
    assert rows[1]["eval_loss"] < rows[0]["eval_loss"]
