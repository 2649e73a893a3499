"""Bad inputs, one folder a case: the exit code, what must be said, no traceback, and nothing written.

    pytest tests/bad                    pytest tests/bad -k 39-

A case is tests/bad/<number>-<name>/ with expect.json and, unless make_inputs.py makes them, its files in input/. Each
run in expect.json has a command (a file of python/ and its arguments), the exit code, what the output says, and what it
never says. To add a case, add a folder.
"""

import importlib
import json
import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from make_inputs import make_inputs

from common.errors import run_command

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/expect.json"))
sys.path.insert(0, str(HERE.parent / "unit"))  # the small tokenizers of the unit tests


def runs_of_all_cases():
    for case in CASES:
        for index, run in enumerate(json.loads((case / "expect.json").read_text(encoding="utf-8"))["runs"]):
            yield pytest.param(case, run, id=f"{case.name}-{index + 1}")


@pytest.mark.parametrize(("case", "run"), runs_of_all_cases())
def test_bad_input(case, run, tmp_path, monkeypatch, capfd, model_folders):
    folder = tmp_path / "work"
    shutil.copytree(case / "input", folder) if (case / "input").is_dir() else folder.mkdir()
    make_inputs(int(case.name[:2]), folder)
    for name, source in model_folders.items():
        if name in run["command"]:
            shutil.copytree(source, folder / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "runs"))
    before = snapshot(tmp_path)

    command, *arguments = run["command"]
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module(command.removesuffix(".py")).main)

    out, err = capfd.readouterr()
    said = out + err
    assert end.value.code == run["exit"], said
    for words in run["says"]:
        assert words in said, said
    for words in ("Traceback", *run.get("never", ())):
        assert words not in said
    if run["exit"]:
        assert all(line.startswith("error: ") for line in err.splitlines()), "one line a problem"
        assert snapshot(tmp_path) == before, "nothing is written"


def test_52_file_changes_during_the_run(tmp_path):
    from make_inputs import LINES

    from common.data import check_unchanged, load_examples
    from common.errors import ExitCode, UserError

    path = tmp_path / "train.jsonl"
    path.write_text(LINES, encoding="utf-8")
    loaded = load_examples(path)
    check_unchanged(loaded.path, loaded.sha256)
    path.write_text(LINES.replace("den", "hut"), encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.jsonl changed after it was read") as caught:
        check_unchanged(loaded.path, loaded.sha256)
    assert caught.value.exit_code == ExitCode.DATA


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below ``folder``, with the hash of its content."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            regular = path.is_file() and not path.is_symlink()
            found[str(path)] = sha256(path.read_bytes()).hexdigest() if regular else ""
    return found


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory) -> dict[str, Path]:
    """Tokenizers as model folders: an ordinary one, one that holds 64 tokens, one that knows a few words only."""
    from chat_tokenizers import DEMO, demo_tokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models")
    demo_tokenizer().save_pretrained(folder / "model")
    demo_tokenizer().save_pretrained(folder / "short-model")
    config = folder / "short-model" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 64}))
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "fox"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=DEMO
    )
    tokenizer.save_pretrained(folder / "word-model")
    return {path.name: path for path in folder.iterdir()}
