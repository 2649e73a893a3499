"""python/test_model.py talks: streamed answers are those of the batch decoder, two models answer side by side.

Run: pytest tests/smoke/test_talking.py
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.data.examples import Message
from common.generation import Decoding, generate, open_arm, talking
from common.generation.talking import open_speaker
from common.hardware import Choice
from common.methods import add_method, save_adapter
from common.models import load_model
from common.settings import MethodSettings

ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "recipes" / "demo" / "model")
DECODING = Decoding(max_new_tokens=12)
pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> list[str]:
    """Two adapters that answer differently from the base and from each other."""
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = add_method(load_model(Path(MODEL)), MethodSettings(rank=4), MODEL)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
        folders.append(tmp_path_factory.mktemp("adapters") / f"checkpoint-epoch-{seed}")
        save_adapter(model, folders[-1])
    return list(map(str, folders))


def test_a_streamed_answer_is_the_batch_decoders(adapters):
    question = [Message("user", "¿Dónde está la biblioteca?")]
    shared = {}
    for spec in (*adapters, MODEL, adapters[0]):
        ((wanted,),) = generate(open_arm("wanted", spec), [question], DECODING)
        history = []
        streamed = "".join(open_speaker(spec, DECODING, models=shared).reply(history, question[0].content))
        assert streamed.strip() == wanted.text.strip()
        assert [message.role for message in history] == ["user", "assistant"]


def test_two_models_answer_side_by_side(adapters):
    words = ["--batch", "--max-new-tokens", "4", "--model", adapters[0], "--model_path", adapters[1]]
    answer = run(*words)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("[checkpoint-epoch-1]") == answer.stdout.count("[checkpoint-epoch-2]") == 4


def test_a_chat_ends_with_an_empty_line(adapters):
    questions = "Where is the library?\nAnd when?\n\nnot asked any more\n"
    answer = run("--interactive", "--max-new-tokens", "4", "--model", adapters[0], "--model", MODEL, input=questions)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("[checkpoint-epoch-1]") == answer.stdout.count("[model]") == 2


@pytest.mark.parametrize(("words", "expected"), [([], "bf16"), (["--precision", "nf4"], "nf4")])
def test_a_run_and_its_checkpoints_talk_in_the_precision_of_the_training(tmp_path, monkeypatch, words, expected):
    asked = []

    def open_nothing(spec, decoding, *, models, **how):
        asked.append(how)
        return SimpleNamespace(name=spec, reply=lambda history, prompt: ())

    monkeypatch.setattr(talking, "open_speaker", open_nothing)
    settings = {"model": {"precision": "bf16", "compute": "fp32"}, "training": {"device": "cpu"}}
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings}))
    for spec in (tmp_path, tmp_path / "checkpoint-epoch-1"):
        monkeypatch.setattr(sys, "argv", ["test_model.py", "--batch", "--model", str(spec), *words])
        importlib.import_module("test_model").main()
    assert asked == [{"precision": expected, "device": "cpu", "compute": "fp32"}] * 2


def test_a_precision_that_is_not_here_is_fp32_instead(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(talking, "open_speaker", lambda spec, decoding, *, models, **how: asked.append(how) or Silent)
    monkeypatch.setattr("common.generation.local.pick_device", lambda wanted="auto": Choice("mps", "in this test"))
    monkeypatch.setattr("common.hardware.pick_half", lambda device: Choice("bf16", "in this test"))
    (tmp_path / "training_info.json").write_text('{"precision": "nf4"}')
    monkeypatch.setattr(sys, "argv", ["test_model.py", "--batch", "--model", str(tmp_path)])
    importlib.import_module("test_model").main()
    assert asked == [{"precision": "fp32", "device": "mps", "compute": "auto"}]
    assert "precision nf4 on an Apple GPU: fp32 in its place" in capsys.readouterr().err


class Silent:
    name = "silent"

    @staticmethod
    def reply(history, prompt):
        return ()


def test_without_a_terminal_it_asks_for_batch():
    answer = run("--model", MODEL)
    assert answer.returncode == 64 and "--batch" in answer.stderr


def run(*words: str, input: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "python" / "test_model.py"), *words]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, input=input, capture_output=True, text=True, check=False)
