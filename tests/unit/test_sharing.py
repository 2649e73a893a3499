"""What is published: named files, a card from the manifest, nothing private. Run: pytest tests/unit/test_sharing.py"""

import getpass
import json
import socket
from pathlib import Path

import pytest
import yaml
from chat_tokenizers import llama_tokenizer
from finished_runs import make_base, make_run
from reports import make_report

from common.errors import UserError
from common.hashing import sha256_of
from common.runs import write_json
from common.sharing import contents as sharing
from common.sharing.card import card_of_run, licence_of
from common.sharing.contents import collect, find_private


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    return make_run(folder / "tiny", make_base(folder / "base", llama_tokenizer()), llama_tokenizer())


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_only_files_of_the_list_go_whatever_lies_there(run):
    (run / "checkpoint-8").mkdir(exist_ok=True)
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "adapter_model.bin",
        "train.log",
        "checkpoint-8/adapter_config.json",
    ):
        (run / name).write_text("x")
    found = collect("tiny", run, base="org/base")
    assert sorted(found) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json", "training_info.json",
    ]  # fmt: skip
    assert not find_private(found)
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert json.loads(found["training_info.json"])["data_train"] == "train.jsonl"
    assert str(run.parent) not in found["README.md"].decode()


def test_a_base_in_a_private_folder_stops_it_with_the_remedy(run):
    problems = find_private(collect("tiny", run))
    assert problems and all(problem.what.startswith("adapter_config.json:") for problem in problems)
    assert "BASE=org/name" in problems[0].next_step


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trained on /home/ana/patients.jsonl", "/home/ana/patients.jsonl"),
        ("see (/scratch/project_1/x)", "/scratch/project_1/x"),
        ('{"path": "/Users/ana/data"}', "/Users/ana/data"),
        ("in ~/models/mistral", "~/models"),
        (r"on C:\Users\Ana\data", "C:"),
        (r'{"path": "C:\\Users\\Ana"}', "C:"),
        ("file:///etc/hosts", "file:///etc/hosts"),
        ("a token hf_abcdefghijkl", "a token of the hub"),  # pragma: allowlist secret
        ("on workstation-7, at night", "the host name"),
        ("by anamaria", "the user name"),
    ],
)
def test_private_words_are_found_with_their_line(monkeypatch, line, words):
    monkeypatch.setattr(socket, "gethostname", lambda: "workstation-7")
    monkeypatch.setattr(getpass, "getuser", lambda: "anamaria")
    (problem, *_) = find_private({"README.md": f"# one\n\n{line}\n".encode()})
    assert problem.what.startswith("README.md:3: ") and words in problem.what


@pytest.mark.parametrize(
    "line",
    [
        "https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.2/tree/main",
        "and/or, 1/2, POST /v1/chat/completions, recipes/demo/model, path/to/this/folder",
        "tokens/s ~ 120, r=8, <|im_start|>, https://example.org/home/page",
        "workstation-77 and anamaria2 are somebody else",
    ],
)
def test_ordinary_text_is_no_private_one(monkeypatch, line):
    monkeypatch.setattr(socket, "gethostname", lambda: "workstation-7")
    monkeypatch.setattr(getpass, "getuser", lambda: "anamaria")
    assert not find_private({"README.md": line.encode()})


def test_weights_that_changed_and_runs_that_did_not_finish_are_refused(run, tmp_path):
    done = run / "DONE.json"
    kept = done.read_bytes()
    files = json.loads(kept)["files"]
    write_json(done, {"files": files | {"adapter_model.safetensors": "0" * 64}})
    with pytest.raises(UserError, match="is not what the training wrote") as error:
        collect("tiny", run)
    assert error.value.exit_code == 65
    done.unlink()
    with pytest.raises(UserError, match="is not finished") as error:
        collect("tiny", run)
    assert error.value.exit_code == 66
    done.write_bytes(kept)


def test_a_card_that_somebody_wrote_is_kept_and_searched(run):
    path = run / "README.md"
    kept = path.read_bytes()
    path.write_text("# mine\n\nfrom /home/somebody/train.jsonl\n")
    found = collect("tiny", run, base="org/base")
    assert found["README.md"] == path
    (problem,) = find_private(found)
    assert problem.what.startswith("README.md:3:")
    path.write_bytes(kept)


def test_the_card_says_what_the_manifest_knows(run):
    card = card_of_run("tiny", run, base="org/base", licence="apache-2.0")
    head = front_matter(card)
    assert head == {
        "base_model": "org/base", "base_model_relation": "adapter", "library_name": "peft", "license": "apache-2.0",
        "pipeline_tag": "text-generation", "tags": ["lora", "recetario"],
    }  # fmt: skip
    for words in ("| train | train.jsonl | 7 | `0000000000000000…` |", "| rank | 4 |", "| learning_rate | 0.001 |",
                  "| eval_loss | 1.5 |", "| trainable_params | 12,345 |", "It was not compared", "torch 2",
                  'from_pretrained("org/base", dtype="float32")'):  # fmt: skip
        assert words in card, words
    assert "lock_sha256" not in card and "/home" not in card


def test_without_a_base_on_the_hub_and_a_licence_the_card_claims_neither(run):
    head = front_matter(card_of_run("tiny", run))
    assert "base_model" not in head and head["license"] == "other"


def test_the_verdict_of_these_weights_is_in_the_card_and_that_of_others_is_not(run):
    report = make_report()
    digest = sha256_of(run / "adapter_model.safetensors")
    identity = report["metadata"]["arms"]["finetuned"]["identity"]
    identity["adapter_sha256"] = {"adapter_model.safetensors": digest}
    (run / "compare").mkdir()
    write_json(run / "compare" / "report.json", report)
    card = card_of_run("tiny", run, base="org/base")
    decision = report["comparison"]["decision"]
    assert f"**{decision['verdict']}**" in card and decision["reasons"][0] in card
    assert "22 items, none of them in the training data" in card and "| Fine-tuned | 100.0 % |" in card
    assert "<script>" not in card and not find_private({"README.md": card.encode()})

    identity["adapter_sha256"] = {"adapter_model.safetensors": "0" * 64}
    write_json(run / "compare" / "report.json", report)
    assert "It was not compared" in card_of_run("tiny", run, base="org/base")


def test_the_licence_is_read_from_the_bases_own_card(tmp_path):
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlicense: llama3.2\ntags: [a]\n---\n\n# A model\n---\n")
    assert licence_of(tmp_path) == "llama3.2"
    (tmp_path / "README.md").write_text("# A model\n\n---\nlicense: mit\n---\n")
    assert licence_of(tmp_path) is None


def test_the_list_holds_no_file_that_runs_code_or_tells_of_the_machine():
    assert not [name for name in sharing.ALLOWED if name.endswith((".bin", ".pt", ".pth", ".pkl", ".log"))]
    assert not {"run.json", "status.json", "optimizer.pt", "trainer_state.json"} & set(sharing.ALLOWED)
