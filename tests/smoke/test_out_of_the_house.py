"""A finished run is exported, published to a stand-in for the hub, and talked to.

Run: pytest tests/smoke/test_out_of_the_house.py
"""

import json
import os
import subprocess
import sys

import pytest
from hub import Hub
from trainings import ROOT

pytestmark = pytest.mark.smoke
TOKEN = "a-token-for-tests"  # pragma: allowlist secret


@pytest.fixture
def hub():
    server = Hub(TOKEN)
    yield server
    server.close()


def publish(trainings, *words: str, endpoint: str = "http://127.0.0.1:9", token: str | None = TOKEN, **more):
    """Run the command as a user with this token would; return (exit code, output)."""
    environment = trainings.environment | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(trainings.folder / "no-login")}
    environment.pop("HF_TOKEN", None)
    if token:
        environment["HF_TOKEN"] = token
    command = [sys.executable, str(ROOT / "python" / "publish_run.py"), *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_an_export_is_verified_and_answers_as_the_run_does(trainings, finished, tmp_path):
    words = ("--run", finished, "--output", str(tmp_path / "out"))
    code, output = trainings.run(*words, command="export_model")
    assert code == 0, output
    assert "in bf16 (as the base)" in output and "verified on 8 validation examples of the run" in output
    assert "vllm serve merged --served-model-name finished" in output
    assert "[WARNING]" not in output and "note: A server that tokenises the whole text" in output
    assert len({path.stat().st_mode for path in (tmp_path / "out").rglob("*") if path.is_file()}) == 1
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["largest_change"] < record["effect"] / 2
    code, output = trainings.run(*words, command="export_model")
    assert code == 73 and "FORCE=1" in output and "Traceback" not in output


def test_a_dry_run_shows_everything_and_does_nothing(trainings, finished):
    before = files_in(trainings.folder)
    code, output = publish(trainings, "--run", finished, "--dry-run", token=None, HF_HUB_OFFLINE="1")
    assert code == 0, output
    for words in ("| # finished", "| ## Evaluation", "adapter_model.safetensors", "nothing sent", "(private)"):
        assert words in output, words
    assert "checkpoint" not in output.split("bytes in")[0].split("print(")[-1]
    assert files_in(trainings.folder) == before


def test_what_was_shown_is_what_the_hub_gets(trainings, finished, hub):
    words = ("--run", finished, "--repo", "org/tuned", "--base", "org/demo", "--license", "mit", "--yes")
    code, output = publish(trainings, *words, endpoint=hub.url)
    assert code == 0, output
    assert f"published run 'finished': {hub.url}/org/tuned" in output
    assert hub.repositories == {"org/tuned": True}
    files = hub.files["org/tuned"]
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "training_info.json", "loss.png",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    folder = trainings.folder / finished
    for name in ("adapter_model.safetensors", "tokenizer.json", "loss.png"):
        assert files[name] == (folder / name).read_bytes()
    assert b"base_model: org/demo" in files["README.md"] and b"license: mit" in files["README.md"]
    assert str(ROOT).encode() not in b"".join(files.values())

    code, output = publish(trainings, *words, endpoint=hub.url)
    assert code == 73 and "is there already (private) — a new one — FORCE=1" in output, output
    code, output = publish(trainings, *words, "--force", "--public", endpoint=hub.url)
    assert code == 73 and "is private — PUBLIC=1 makes a new one public" in output, output
    hub.repositories["org/tuned"] = False
    code, output = publish(trainings, *words, "--force", endpoint=hub.url)
    assert code == 73 and "is public — private unless asked — PUBLIC=1" in output, output
    code, output = publish(trainings, *words, "--force", "--public", endpoint=hub.url)
    assert code == 0, output


def test_a_card_of_ones_own_goes_as_it_is_and_that_is_said(trainings, finished):
    card = trainings.folder / finished / "README.md"
    kept = card.read_bytes()
    card.write_text("# Mine\n")
    try:
        code, output = publish(trainings, "--run", finished, "--dry-run", "--license", "mit")
        assert code == 64 and "LICENSE=mit, but " in output and "write license: mit there" in output, output
        code, output = publish(trainings, "--run", finished, "--dry-run", "--base", "org/demo")
        assert code == 0 and "| # Mine" in output and "BASE= goes to adapter_config.json only" in output, output
    finally:
        card.write_bytes(kept)


def test_each_refusal_of_the_hub_is_one_line_with_the_next_step(trainings, finished, hub):
    words = ("--run", finished, "--repo", "org/tuned", "--base", "org/demo", "--yes")
    for expected, code, where in (
        ("no token for the hub", 69, {"endpoint": hub.url, "token": None}),
        ("the hub does not know this token", 69, {"endpoint": hub.url, "token": "another"}),
        ("the hub cannot be reached", 69, {}),
        ("unset HF_HUB_OFFLINE", 69, {"HF_HUB_OFFLINE": "1"}),
    ):
        found, output = publish(trainings, *words, **where)
        errors = [line for line in output.splitlines() if line.startswith("error:")]
        assert (found, len(errors)) == (code, 1) and expected in errors[0], output
        assert "Traceback" not in output
    found, output = publish(
        trainings, *words[:2], "--repo", "else/tuned", "--base", "org/demo", "--yes", endpoint=hub.url
    )
    assert found == 69 and "may not write to else/tuned" in output, output
    assert not hub.files


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--repo", "org/x", "--token", "abc"], "a token on the command line"),
        (["--repo", "org/x", "--yes", "hf_abcdefghijklm"], "HF_TOKEN"),  # pragma: allowlist secret
        (["--repo", "org/x"], "YES=1"),
        (["--yes"], "REPO=org/name"),
        (["--repo", "x", "--yes"], "org/name, as the hub has it"),
        (["--dry-run", "--license", "Apache 2"], "apache-2.0"),
    ],
    ids=["token", "hidden token", "no terminal", "no repository", "name", "licence"],
)
def test_wrong_options_of_publish(trainings, finished, words, expected):
    code, output = publish(trainings, "--run", finished, *words)
    assert code == 64 and expected in output and output.count("\n") == 1, output


def test_chat_takes_the_run_and_its_precision(trainings, finished):
    words = [sys.executable, str(ROOT / "python" / "test_model.py"), "--run", finished, "--max-new-tokens", "4"]
    done = subprocess.run(
        [*words, "--interactive"], env=os.environ | trainings.environment, input="hello\n\n", capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "run 'finished': lora on recipes/demo/model in fp32" in done.stdout
    assert "Ask something" in done.stdout
