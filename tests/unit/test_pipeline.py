"""Stages: done once, again when something changed, and none is lost to another's failure. Also the command line.

Run: pytest tests/unit/test_pipeline.py
"""

import errno
import os
import signal
import sys
from pathlib import Path

import pytest

import run_all
from common.errors import ExitCode, UserError, refuse_tokens
from common.pipeline.medical import plan_stages
from common.pipeline.stages import Pipeline, Stage, set_aside
from common.runs import read_json


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "runs"))
    return tmp_path


def stage(folder, name, code=0, **options):
    """A stage that notes each time it runs, and writes its output."""
    note = f"open({str(folder / 'ran')!r}, 'a').write({name + ' '!r})"
    text = f"{note}; open({str(folder / name)!r}, 'w'); raise SystemExit({code})"
    return Stage(name, [sys.executable, "-c", text], outputs=[folder / name], **options)


def run(folder, *stages):
    states = Pipeline(stages, folder / "pipeline").run()
    ran = (folder / "ran").read_text().split() if (folder / "ran").exists() else []
    (folder / "ran").unlink(missing_ok=True)
    return {name: entry["state"] for name, entry in states.items()}, ran


def test_one_failure_leaves_the_others_and_what_needs_it_is_left_out(folder):
    stages = [
        stage(folder, "data"),
        stage(folder, "bad", code=65, needs=["data"]),
        stage(folder, "good", needs=["data"]),
        stage(folder, "after", needs=["bad"]),
        stage(folder, "judge", any_of=["bad", "good"], extra=lambda done: sorted(done)),
    ]
    states, ran = run(folder, *stages)
    assert states == {"data": "done", "bad": "failed", "good": "done", "after": "left out", "judge": "done"}
    assert ran == ["data", "bad", "good", "judge"]
    kept = read_json(folder / "pipeline" / "pipeline.json")["stages"]
    assert (kept["bad"]["exit_code"], kept["after"]["needs"]) == (65, "bad")


def test_what_is_done_is_done_again_only_when_input_command_or_output_changed(folder):
    source = folder / "source"
    source.write_text("one")

    def stages(code=0):
        return [stage(folder, "read", inputs=[source], code=code), stage(folder, "other")]

    assert run(folder, *stages())[1] == ["read", "other"]
    assert run(folder, *stages())[1] == []
    source.write_text("two")
    assert run(folder, *stages())[1] == ["read"]
    assert run(folder, *stages(code=1))[1] == ["read"]  # another command line
    assert run(folder, *stages())[1] == ["read"]  # what failed is tried again
    (folder / "other").unlink()
    assert run(folder, *stages())[1] == ["other"]


def test_a_stop_ends_the_pipeline_and_without_its_output_a_stage_has_failed(folder):
    states, ran = run(folder, stage(folder, "stopped", code=int(ExitCode.STOPPED)), stage(folder, "never"))
    assert (states, ran) == ({"stopped": "stopped"}, ["stopped"])
    nothing = Stage("nothing", [sys.executable, "-c", "pass"], outputs=[folder / "absent"])
    assert run(folder, nothing)[0] == {"nothing": "failed"}


def run_stage(folder, code=0):
    """A stage that makes a run, with a DONE.json of its own each time."""
    text = (
        f"import pathlib, time; place = pathlib.Path({str(folder / 'runs' / 'mine')!r}); place.mkdir(parents=True);"
        f"(place / 'DONE.json').write_text(str(time.time_ns())); open({str(folder / 'ran')!r}, 'a').write('mine ');"
        f"raise SystemExit({code})"
    )
    command = [sys.executable, "-c", text]
    return Stage("mine", command, outputs=[folder / "runs" / "mine" / "DONE.json"], run="mine")


def test_a_run_that_another_made_meanwhile_is_not_taken_for_the_own_one(folder):
    assert run(folder, run_stage(folder))[1] == ["mine"]
    assert run(folder, run_stage(folder))[1] == []
    (folder / "runs" / "mine" / "DONE.json").write_text("somebody else's")
    assert run(folder, run_stage(folder))[1] == ["mine"]
    kept = [place for place in (folder / "runs").iterdir() if place.name.startswith("mine-")]
    assert [(place / "DONE.json").read_text() for place in kept] == ["somebody else's"]


def test_a_run_that_could_not_be_set_aside_is_not_resumed_later_as_if_it_were_the_own_one(folder, monkeypatch):
    from common.pipeline import stages

    def held(name):
        raise UserError("run 'mine' is running", ExitCode.STOPPED)

    monkeypatch.setattr(stages, "set_aside", held)
    assert run(folder, run_stage(folder))[0] == {"mine": "stopped"}
    place = folder / "runs" / "mine"
    place.mkdir(parents=True)
    (place / "run.json").write_text("{}")
    monkeypatch.undo()
    monkeypatch.setenv("RECETARIO_RUNS", str(folder / "runs"))
    pipeline = Pipeline([run_stage(folder)], folder / "pipeline")
    pipeline.state = read_json(folder / "pipeline" / "pipeline.json")["stages"]
    key = pipeline._key(run_stage(folder), run_stage(folder).command)
    assert not pipeline._can_resume(run_stage(folder), pipeline.state["mine"], key)


def test_a_run_elsewhere_that_cannot_be_set_aside_keeps_its_link(folder, monkeypatch):
    real, place = folder / "disk" / "mine", folder / "runs" / "mine"
    real.mkdir(parents=True)
    place.parent.mkdir()
    place.symlink_to(real)

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(Path, "rename", refuse)
        set_aside("mine")
    assert place.resolve() == real
    set_aside("mine")
    assert not place.is_symlink() and [kept.name[:5] for kept in real.parent.iterdir()] == ["mine-"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stage_that_the_user_ended_ends_the_pipeline(folder, number):
    text = f"import os, signal; signal.signal({number:d}, signal.SIG_DFL); os.kill(os.getpid(), {number:d})"
    states, ran = run(folder, Stage("ended", [sys.executable, "-c", text]), stage(folder, "never"))
    assert (states, ran) == ({"ended": "stopped"}, [])


def test_two_pipelines_do_not_share_a_folder(folder):
    pipeline = Pipeline([stage(folder, "one")], folder / "pipeline")
    with pipeline._hold_folder(), pytest.raises(UserError, match="another process runs the pipeline") as caught:
        run(folder, stage(folder, "one"))
    assert caught.value.exit_code == ExitCode.STOPPED and not (folder / "ran").exists()
    assert run(folder, stage(folder, "one"))[1] == ["one"]


def test_a_stop_is_told_by_the_exit_code(folder, capsys):
    stages = [stage(folder, "stopped", code=75), stage(folder, "never")]
    states = Pipeline(stages, folder / "pipeline").run()
    assert run_all.report(stages, states, folder) == ExitCode.STOPPED
    stages = [stage(folder, "bad", code=70), stage(folder, "worse", code=65)]
    states = Pipeline(stages, folder / "pipeline").run()
    assert run_all.report(stages, states, folder) == 70
    assert "exit code 65" in capsys.readouterr().out


def plan(folder, *words):
    args = run_all.build_parser().parse_args(["--smoke", *words])
    return {stage.name: stage for stage in plan_stages(args, folder / "out")}


def test_the_options_reach_the_commands_they_are_for(folder):
    stages = plan(folder, "--lora_r", "4", "--adapter_size", "16", "--num_virtual_tokens", "7", "--num_epochs", "2")
    assert list(stages) == ["questions", "data", "qlora", "adapter", "ptuning", "evaluation"]
    for name, own in (("qlora", "--lora_r=4"), ("adapter", "--adapter_size=16"), ("ptuning", "--num_virtual_tokens=7")):
        command = stages[name].command
        assert command[1].endswith(f"train_{name}.py") and own in command and "--num_epochs=2" in command
        assert sum(word.startswith(("--lora_r", "--adapter_size", "--num_virtual")) for word in command) == 1
    assert stages["evaluation"].extra({"qlora", "ptuning"}) == [
        f"--{name}_model={folder / 'runs' / f'medical-{name}-smoke'}" for name in ("qlora", "ptuning")
    ]


def test_wrong_numbers_are_all_named_before_a_stage_begins(folder):
    with pytest.raises(UserError) as caught:
        plan(folder, "--num_epochs=-1", "--lora_r=x", "--adapter_size=0", "--num_virtual_tokens=1.5")
    text = str(caught.value)
    assert caught.value.exit_code == ExitCode.CONFIG and len(caught.value.problems) == 4
    assert all(flag in text for flag in ("--num_epochs", "--lora_r", "--adapter_size", "--num_virtual_tokens"))
    assert list(plan(folder, "--lora_r=x", "--skip_qlora", "--skip_evaluation", "--skip_data_prep"))


def test_splits_of_the_users_own_are_not_overwritten(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "train.jsonl").write_text("{}")
    with pytest.raises(UserError, match="holds train.jsonl, not made by .*--skip_data_prep trains on it") as caught:
        plan(folder, "--processed_data_dir", str(folder / "mine"))
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE
    assert "data" not in plan(folder, "--processed_data_dir", str(folder / "mine"), "--skip_data_prep")
    (folder / "mine" / "dataset_card.json").write_text("{}")
    assert "data" in plan(folder, "--processed_data_dir", str(folder / "mine"))


def test_what_changes_is_done_again_with_what_depends_on_it_and_nothing_else(folder):
    data, runs = folder / "runs" / "data", folder / "runs"
    splits = [data / "medical_qa-smoke" / f"{part}.jsonl" for part in ("train", "validation", "test")]
    weights = [runs / f"medical-{name}-smoke" / "adapter_model.safetensors" for name in run_all.METHODS]
    source = data / "medical" / "medical_qa.jsonl"
    for path in (source, *splits, *weights):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was")
    (splits[0].parent / "dataset_card.json").write_text("{}")

    def keys(*words):
        pipeline = Pipeline([], folder)
        return {name: pipeline._key(stage, stage.command) for name, stage in plan(folder, *words).items()}

    def changed(*words):
        return {name for name, key in keys(*words).items() if key != before[name]}

    before = keys()
    assert changed() == set()
    assert changed("--adapter_size", "8") == {"adapter"}
    assert changed("--num_epochs", "2") == set(run_all.METHODS)
    for path, expected in (
        (source, {"data"}),
        (splits[0], set(run_all.METHODS)),
        (splits[1], set(run_all.METHODS)),
        (splits[2], {"evaluation"}),
        (weights[1], {"evaluation"}),
    ):
        path.write_text("another")
        assert changed() == expected, path
        path.write_text("as it was")  # what is touched but the same has not changed
        assert changed() == set()


def test_each_output_folder_has_runs_of_its_own(folder):
    names = {plan(folder, "--output_dir", str(folder / name))["qlora"].run for name in ("one", "two, or so")}
    assert names == {"medical-qlora-smoke-one", "medical-qlora-smoke-two--or-so"}
    assert plan(folder)["qlora"].run == "medical-qlora-smoke"


def test_what_is_skipped_is_left_out_and_own_data_need_no_questions(folder):
    assert list(plan(folder, "--skip_data_prep", "--skip_qlora", "--skip_evaluation")) == ["adapter", "ptuning"]
    assert "questions" not in plan(folder, "--input_data", "mine.jsonl")


@pytest.mark.parametrize(
    "words",
    [["--token", "x"], ["--hf_token=x"], ["--HF-TOKEN=x"], ["--model_name=hf_abcdefgh1234"], ["--use_auth_token"]],
)
def test_a_token_on_the_command_line_is_refused_and_not_repeated(words):
    with pytest.raises(UserError, match="a token on the command line.*HF_TOKEN") as caught:
        refuse_tokens(words)
    assert caught.value.exit_code == ExitCode.USAGE and "abcdefgh" not in str(caught.value)


def test_other_words_are_no_tokens():
    refuse_tokens(["--num_virtual_tokens", "20", "--model_name=org/hf_model"])


def test_a_run_that_was_stopped_and_resumed_by_hand_is_not_trained_again(folder):
    """As the message of a stop says: make resume RUN=…"""
    place = folder / "runs" / "trained"
    begin = (
        "import json, pathlib, sys; place = pathlib.Path(sys.argv[1]); place.mkdir(parents=True);"
        "(place / 'run.json').write_text(json.dumps({'argv': sys.argv}));"
        "(place / 'status.json').write_text(json.dumps({'state': 'stopped'})); sys.exit(75)"
    )
    script = folder / "train.py"
    script.write_text(begin)
    trained = Stage("train", [sys.executable, str(script), str(place)], outputs=[place / "DONE.json"], run="trained")
    assert run(folder, trained)[0] == {"train": "stopped"}
    (place / "status.json").write_text('{"state": "completed"}')
    (place / "DONE.json").write_text("{}")
    assert run(folder, trained)[0] == {"train": "done"} and place.is_dir()
    assert run(folder, trained)[0] == {"train": "done"}  # and it stays so
    assert [path.name for path in (folder / "runs").iterdir()] == ["trained"]
    (place / "DONE.json").write_text('{"other": 1}')
    assert run(folder, trained)[0] == {"train": "stopped"}  # its output is another: trained anew
