"""`compare_ba_models.py` from the command line: a finished run, arms by name, what is refused, what is kept."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "unit"))
from answering_models import make_adapter, make_model  # noqa: E402

from common.data import load_examples  # noqa: E402
from common.errors import run_command  # noqa: E402
from common.hashing import sha256_of  # noqa: E402

pytestmark = pytest.mark.smoke
DATA = ROOT / "recipes" / "demo" / "data"
REPORTS = {"report.json", "report.md", "report.html", "scores.png", "answers.jsonl", "history"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    texts = [m.content for item in load_examples(DATA / "train.jsonl") for m in item.messages]
    return make_model(tmp_path_factory.mktemp("base"), texts, max_positions=2048, vocabulary=1200)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few rows of the shipped data, so that a slow machine is quick."""
    folder = tmp_path_factory.mktemp("data")
    for name, rows in (("train", 12), ("validation", 4)):
        lines = (DATA / f"{name}.jsonl").read_text().splitlines()[:rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(base, data, tmp_path_factory):
    """A runs folder with one finished run, as training leaves it behind: run.json and an adapter."""
    runs = tmp_path_factory.mktemp("runs")
    folder = make_adapter(base, runs / "tiny")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    files = {path.name: sha256_of(path) for path in base.iterdir()}
    manifest = {
        "model": {"path": str(base), "precision": "fp32", "files": files},
        "data": {name: load_examples(data / f"{name}.jsonl").summary() for name in ("train", "validation")},
    }
    (folder / "run.json").write_text(json.dumps(manifest))
    return runs


def call(runs, *options):
    """The command as a process of its own."""
    command = [sys.executable, str(ROOT / "python" / "compare_ba_models.py"), *map(str, options)]
    environment = os.environ | {"RECETARIO_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def compare(runs, *options, cwd=None):
    """The same in this process, which has loaded the libraries already."""
    import compare_ba_models

    return run_in_process(compare_ba_models, runs, *options, cwd=cwd)


def run_in_process(command, runs, *options, cwd=None):
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("RECETARIO_RUNS", str(runs))
        patch.setattr(sys, "argv", [command.__name__, *map(str, options)])
        patch.chdir(cwd or ROOT)
        with pytest.raises(SystemExit) as end:
            run_command(command.main)
    return subprocess.CompletedProcess(options, end.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def first(runs):
    """The run compared once: (finished process, compare folder)."""
    done = call(runs, "--run", "tiny", "--max-new-tokens", 24)
    return done, runs / "tiny" / "compare"


def test_a_run_is_compared_and_everything_is_written(first, base, runs):
    done, folder = first
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == REPORTS
    report = json.loads((folder / "report.json").read_text())
    for arm in ("baseline", "optimized", "finetuned"):
        assert 0.0 <= report["models"][arm]["scores"]["mean"] <= 1.0
        assert len(report["models"][arm]["predictions"]) == 4
    assert report["comparison"]["decision"]["verdict"] in done.stdout
    assert f"report: {folder / 'report.html'}" in done.stdout
    arms = report["metadata"]["arms"]
    assert arms["finetuned"]["identity"]["adapter_sha256"]
    assert arms["baseline"]["identity"]["adapter_sha256"] == {}
    assert len(report["metadata"]["prompt"]["demonstrations"]) == 1
    texts = {arm: [p["answers"][0]["text"] for p in report["models"][arm]["predictions"]] for arm in arms}
    assert texts["baseline"] != texts["finetuned"] and texts["baseline"] != texts["optimized"]


def test_compared_again_nothing_is_asked_again_and_history_says_unchanged(first, runs):
    done, folder = first
    before = (folder / "answers.jsonl").read_bytes()
    again = compare(runs, "--run", "tiny", "--max-new-tokens", 24)
    assert again.returncode == 0
    assert "(4 from before)" in again.stderr and "unchanged since" in again.stdout
    assert (folder / "answers.jsonl").read_bytes() == before
    fresh = compare(runs, "--run", "tiny", "--max-new-tokens", 24, "--fresh")
    assert fresh.returncode == 0 and "from before" not in fresh.stderr
    assert "unchanged since" in fresh.stdout, "the same answers in fp32, asked anew"


def test_gate_turns_anything_but_adopt_into_exit_code_1(first, runs):
    assert compare(runs, "--run", "tiny", "--max-new-tokens", 24, "--gate").returncode == 1


def test_the_source_command_line_with_arms_by_name(first, base, data, runs, tmp_path):
    output = tmp_path / "out" / "report.json"
    done = compare(
        runs, "--baseline", base, "--finetuned", runs / "tiny", "--dataset", data / "validation.jsonl",
        "--output", output, "--max-new-tokens", 24, "--demonstrations", 2, "--seed", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert len(report["metadata"]["prompt"]["demonstrations"]) == 2, (
        "training data is known from the run's own run.json"
    )
    other = json.loads((first[1] / "report.json").read_text())
    assert [p["answers"] for p in report["models"]["baseline"]["predictions"]] == [
        p["answers"] for p in other["models"]["baseline"]["predictions"]
    ]


@pytest.fixture(scope="module")
def program(base, data, tmp_path_factory):
    """A program found by `optimize_prompt.py` for the tiny model."""
    import optimize_prompt

    output = tmp_path_factory.mktemp("programs") / "found"
    options = ["--model", base, "--train", data / "train.jsonl", "--output", output, "--demonstrations", 1, "--dev", 4,
               "--candidates", 3, "--trials", 2, "--max-new-tokens", 8]  # fmt: skip
    done = run_in_process(optimize_prompt, tmp_path_factory.mktemp("runs"), *options)
    assert done.returncode == 0, done.stderr
    assert "Demonstrations only" in done.stdout and f"program: {output / 'program.json'}" in done.stdout
    return output


def test_a_program_and_a_fourth_arm_are_compared(runs, program, tmp_path):
    state = json.loads((program / "program.json").read_text())
    state["answer"]["signature"]["instructions"] = "Answer in YAML."
    (tmp_path / "mine.json").write_text(json.dumps(state))
    options = ("--run", "tiny", "--max-new-tokens", 8, "--fourth-arm", "--output", tmp_path / "out" / "report.json")
    done = compare(runs, *options, "--optimized", tmp_path / "mine.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["models"]) == ["baseline", "optimized", "finetuned", "finetuned_optimized"]
    texts = {name: [p["answers"][0]["text"] for p in m["predictions"]] for name, m in report["models"].items()}
    assert len({tuple(answers) for answers in texts.values()}) == 4, "each arm answers its own way"
    prompt = report["metadata"]["prompt"]
    assert prompt["instructions"] == "Answer in YAML." and prompt["search"]["seed"] == 42
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Answer in YAML." in page and "Tuned and prompted" in page and "MIPROv2" in page
    assert "Tuned and prompted" in (tmp_path / "out" / "report.md").read_text()


def test_the_runs_own_program_is_taken_when_it_is_there(runs, program, tmp_path):
    path = runs / "tiny" / "run.json"
    before = path.read_text()
    manifest = json.loads(before)
    try:
        manifest["settings"] = {"evaluation": {"program": str(program / "program.json")}}
        path.write_text(json.dumps(manifest))
        done = compare(runs, "--run", "tiny", "--max-new-tokens", 8, "--output", tmp_path / "report.json")
        assert done.returncode == 0, done.stderr
        prompt = json.loads((tmp_path / "report.json").read_text())["metadata"]["prompt"]
        assert prompt["kind"] == "DSPy program" and prompt["path"].endswith("program.json")
        drawn = compare(runs, "--run", "tiny", "--max-new-tokens", 8, "--demonstrations", 1, "--output",
                        tmp_path / "drawn.json")  # fmt: skip
        assert "not searched for" in drawn.stdout
    finally:
        path.write_text(before)


def test_programs_that_leak_or_stand_in_the_wrong_place_are_refused(runs, data, program, tmp_path):
    state = json.loads((program / "program.json").read_text())
    item = load_examples(data / "validation.jsonl").examples[2]
    state["answer"]["demos"] = [{"prompt": item.prompt, "completion": item.completion}]
    (tmp_path / "leaking.json").write_text(json.dumps(state))
    options = ("--run", "tiny", "--output", tmp_path / "o" / "report.json")
    refused(compare(runs, *options, "--optimized", tmp_path / "leaking.json"), 65, "validation.jsonl:3")
    refused(compare(runs, *options, "--baseline", program), 64, "give it to --optimized")
    refused(compare(runs, *options, "--optimized", tmp_path / "absent.json"), 66, "make optimize")
    assert not (tmp_path / "o").exists()


def test_a_search_refuses_what_it_cannot_do(runs, base, data, tmp_path):
    import optimize_prompt

    def search(*options):
        return run_in_process(optimize_prompt, tmp_path, "--output", tmp_path / "out", *options)

    train = ("--train", data / "train.jsonl")
    refused(search(), 64, "--model is missing", "--train is missing")
    refused(search("--model", base, *train, "--candidates", 2), 64, "--candidates 3 or more")
    refused(search("--model", base, *train, "--demonstrations", 0), 64, "nothing to search for")
    refused(search("--model", base, *train, "--dev", 2), 65, "12 training rows")
    refused(search("--model", "/no/such/model", *train), 66, "/no/such/model")
    refused(search("--recipe", "demos"), 66, "did you mean")
    assert not (tmp_path / "out").exists()


def test_sampling_repeats_with_its_seed(runs, tmp_path):
    options = ("--run", "tiny", "--max-new-tokens", 12, "--temperature", 0.7, "--samples", 2)
    answers = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = compare(
            runs, *options, "--seed", seed, "--demonstrations", 0, "--output", tmp_path / name / "report.json"
        )
        assert done.returncode == 0, done.stderr
        models = json.loads((tmp_path / name / "report.json").read_text())["models"]
        answers.append([[a["text"] for p in m["predictions"] for a in p["answers"]] for m in models.values()])
    assert answers[0] == answers[1] != answers[2]


def test_own_metric_of_the_current_folder(runs, tmp_path):
    (tmp_path / "brevity.py").write_text("def brief(answer):\n    return 300 / (300 + len(answer)), {'brief': 0.5}\n")
    options = (
        "--run",
        "tiny",
        "--max-new-tokens",
        8,
        "--metric",
        "brevity:brief",
        "--output",
        tmp_path / "report.json",
    )
    done = compare(runs, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["metadata"]["metric"] == "brevity:brief"
    assert "check 'gold' failed" in done.stdout.replace("\n", " ")


def test_prompts_that_do_not_fit_are_found_before_anything_is_asked(runs, tmp_path):
    done = compare(runs, "--run", "tiny", "--demonstrations", 8, "--output", tmp_path / "report.json")
    refused(done, 65, "optimized: validation.jsonl:1", "use fewer demonstrations")
    assert list(tmp_path.iterdir()) == []


def refused(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and all(word in done.stderr for word in words), done.stderr


def test_mistakes_get_a_line_and_their_exit_code(runs, base, data, tmp_path):
    out = tmp_path / "report.json"
    refused(compare(runs), 66, "there is none to compare")
    refused(compare(runs, "--finetuned", base), 64, "--baseline is missing", "--dataset is missing")
    refused(compare(runs, "--run", "tiny", "--sample", 3), 64, "did you mean --samples?")
    refused(compare(runs, "--run", "tiny", "--samples", 3), 64, "greedy answers are all the same")
    refused(compare(runs, "--run", "tiny", "--adopt-gain", 5), 64, "a fraction")
    refused(compare(runs, "--run", "tiny", "--metric", "nothing:here"), 64, "metric 'nothing:here'")
    refused(compare(runs, "--run", "tiny", "--demonstrations", 99), 64, "12 training examples")
    refused(compare(runs, "--run", "absent"), 66, "there is no run 'absent'")
    (runs / "begun").mkdir()
    (runs / "begun" / "run.json").write_text("{}")
    refused(compare(runs, "--run", "begun"), 66, "'begun' holds no finished adapter", "make resume RUN=begun")
    refused(compare(runs, "--run", "tiny", "--dataset", "absent.jsonl"), 66, "absent.jsonl")
    refused(compare(runs, "--run", "tiny", "--baseline", "/no/such/model", "--output", out), 66, "/no/such/model")
    refused(compare(runs, "--run", "tiny", "--output", data / "train.jsonl" / "report.json"), 73, "cannot write")
    assert list(tmp_path.iterdir()) == []


def test_leaks_fail_the_comparison_before_anything_is_asked(runs, data, tmp_path):
    leaking = tmp_path / "test.jsonl"
    lines = (data / "validation.jsonl").read_text().splitlines() + (data / "train.jsonl").read_text().splitlines()[4:5]
    leaking.write_text("\n".join(lines) + "\n")
    refused(compare(runs, "--run", "tiny", "--dataset", leaking, "--output", tmp_path / "o" / "report.json"), 65,
            "test.jsonl:5", "train.jsonl:5")  # fmt: skip
    refused(compare(runs, "--run", "tiny", "--dataset", data / "train.jsonl"), 65, "is the training data")
    assert not (tmp_path / "o").exists()


def test_a_base_model_that_changed_since_training_is_refused(runs, base, tmp_path):
    folder = runs / "tiny"
    manifest = json.loads((folder / "run.json").read_text())
    try:
        changed = {**manifest, "model": {**manifest["model"], "files": {"config.json": "0" * 64}}}
        (folder / "run.json").write_text(json.dumps(changed))
        done = compare(runs, "--run", "tiny", "--output", tmp_path / "report.json")
        refused(done, 78, "is not the model", "config.json")
    finally:
        (folder / "run.json").write_text(json.dumps(manifest))
