"""Stages: done once, again when something changed, and none is lost to another's failure. Also the command line.

Run: pytest tests/unit/test_pipeline.py
"""

import sys

import pytest

import run_all
from common.errors import ExitCode, UserError
from common.pipeline.medical import plan_stages
from common.pipeline.stages import Pipeline, Stage
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


def test_what_is_skipped_is_left_out_and_own_data_need_no_questions(folder):
    assert list(plan(folder, "--skip_data_prep", "--skip_qlora", "--skip_evaluation")) == ["adapter", "ptuning"]
    assert "questions" not in plan(folder, "--input_data", "mine.jsonl")


@pytest.mark.parametrize(
    "words", [["--token", "x"], ["--hf_token=x"], ["--model_name=hf_abcdefgh1234"], ["--use_auth_token"]]
)
def test_a_token_on_the_command_line_is_refused_and_not_repeated(words):
    with pytest.raises(UserError, match="a token on the command line.*HF_TOKEN") as caught:
        run_all.refuse_tokens(words)
    assert caught.value.exit_code == ExitCode.USAGE and "abcdefgh" not in str(caught.value)


def test_other_words_are_no_tokens():
    run_all.refuse_tokens(["--num_virtual_tokens", "20", "--model_name=org/hf_model"])
