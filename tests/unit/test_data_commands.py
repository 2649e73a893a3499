"""prepare_dataset.py, format.py and inspect_data.py as a person runs them.

pytest tests/unit/test_data_commands.py
"""

import importlib
import json
import random
import sys
from pathlib import Path

import pytest
from chat_tokenizers import demo_tokenizer

from common.data import load_examples
from common.data.problems import option_for
from common.errors import run_command
from common.hashing import sha256_of


@pytest.fixture
def run(folder, monkeypatch, capfd):
    """Run a command in ``folder`` and return what it said, after checking its exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RECETARIO_RUNS", str(folder / "runs"))

    def run_here(command: str, *words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", [command, *words])
        with pytest.raises(SystemExit) as end:
            run_command(importlib.import_module(command.removesuffix(".py")).main)
        said = "".join(capfd.readouterr())
        assert end.value.code == code, said
        return said

    return run_here


@pytest.fixture
def folder(tmp_path):
    rng = random.Random(1)
    rows = [
        {
            "question": f"Question {n}?",
            "answer": " ".join(f"w{rng.randrange(10**6)}" for _ in range(rng.randint(3, 25))),
        }
        for n in range(200)
    ]
    rows[7]["answer"] = "very long " * 300
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    demo_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def test_prepare_writes_splits_and_a_card(folder, run):
    words = ("prepare_dataset.py", "--input_data", "qa.jsonl", "--output_dir", "out", "--model_name", "model")
    options = ("--max_length", "512", "--train_size", "0.8", "--on-overlong", "drop")
    said = run(*words, *options)
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "dataset_card.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    card = json.loads((folder / "out" / "dataset_card.json").read_text())
    assert card["source"]["sha256"] == sha256_of(folder / "qa.jsonl")
    assert (card["source"]["rows"], card["source"]["shape"]) == (200, "question/answer")
    assert card["dropped"]["overlong_rows"] == ["qa.jsonl:8"]
    total = 0
    for name, split in card["splits"].items():
        path = folder / "out" / f"{name}.jsonl"
        assert split["sha256"] == sha256_of(path)
        assert split["rows"] == len(load_examples(path))
        assert split["tokens"]["longest"] <= 512
        assert f"{name}.jsonl  {split['rows']} rows" in said
        total += split["rows"]
    assert total == 199
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    assert "holds train.jsonl, validation.jsonl, test.jsonl, dataset_card.json already" in run(
        *words, *options, code=73
    )
    run(*words, *options, "--force")
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before, "the same bytes again"
    run(*words, *options, "--validation-size", "0.2", "--force")
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "dataset_card.json",
        "train.jsonl",
        "validation.jsonl",
    ], "no test file of another splitting stays"


def test_prepare_takes_from_the_prompt_and_never_from_the_answer(folder, run):
    rows = [json.loads(line) for line in (folder / "qa.jsonl").read_text().splitlines()]
    rows[7] = {"question": "far away " * 300 + "near 7?", "answer": rows[6]["answer"] + " seven"}
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("prepare_dataset.py", "--input_data", "qa.jsonl", "--output_dir", "out", "--model_name", "model")
    options = ("--max_length", "300", "--on-overlong", "truncate-prompt")
    said = run(*words, *options)
    assert "note: 1 of the examples over 300 tokens lost the beginning of their prompt: qa.jsonl:8" in said
    card = json.loads((folder / "out" / "dataset_card.json").read_text())
    assert card["prompts_truncated"] == {"rows": 1, "row_numbers": ["qa.jsonl:8"]}
    assert card["dropped"]["overlong"] == 0
    assert sum(split["rows"] for split in card["splits"].values()) == 200
    assert max(split["tokens"]["longest"] for split in card["splits"].values()) == 300
    written = [example for name in card["splits"] for example in load_examples(folder / "out" / f"{name}.jsonl")]
    (short,) = [example for example in written if example.completion == rows[7]["answer"]]
    assert rows[7]["question"].endswith(short.prompt)
    assert 50 < len(short.prompt) < len(rows[7]["question"])
    rows[7]["answer"] = "very long " * 300
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = run(*words, *options, "--force", code=65)
    assert "the answers of 1 examples alone exceed max_length_tokens=300: qa.jsonl:8 — an answer is never cut" in said


def test_prepare_leaves_nothing_after_an_error(folder, run):
    said = run("prepare_dataset.py", "--input_data", "qa.jsonl", "--model_name", "model", code=65)
    assert "1 of 200 examples exceed max_length_tokens=512; the longest: qa.jsonl:8" in said
    words = ("prepare_dataset.py", "--input_data", "qa.jsonl", "--model_name", "model", "--max_length_tokens", "99")
    assert "exceed max_length_tokens=99" in run(*words, code=65), "the setting that is named can be given"
    assert not (folder / "runs").exists()


def test_prepare_says_when_no_seed_could_divide_the_rows(folder, run):
    rows = [{"prompt": "Write a line.", "completion": f"Line {n}"} for n in range(30)]
    (folder / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "all rows ask the same question" in run("prepare_dataset.py", "--input_data", "one.jsonl", code=65)


def test_prepare_reports_every_mistake_of_use(folder, run):
    assert "no such file" in run("prepare_dataset.py", "--input_data", "absent.jsonl", code=66)
    said = run("prepare_dataset.py", "--input_data", "qa.jsonl", "--train_size", "1.5", code=64)
    assert "the training share is 1.5" in said
    assert "no model folder" in run(
        "prepare_dataset.py", "--input_data", "qa.jsonl", "--model_name", "./absent", code=66
    )
    (folder / "file").write_text("")
    words = ("prepare_dataset.py", "--input_data", "qa.jsonl", "--output_dir", "file/out")
    assert "cannot write into file/out" in run(*words, code=73)


def test_format_reads_a_folder_and_writes_what_reads_back(folder, run):
    raw = folder / "raw"
    raw.mkdir()
    (raw / "b.csv").write_text("question,answer\nWho?,Me\n")
    (raw / "a.json").write_text(
        '[{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]'
    )
    said = run("format.py", "--input", "raw", "--output", "raw/formatted_data.jsonl")
    output = raw / "formatted_data.jsonl"
    assert output.read_text().splitlines() == [
        '{"text": "<s>[INST] q [/INST] a </s>"}',
        '{"text": "<s>[INST] Who? [/INST] Me </s>"}',
    ]
    assert "2 rows written" in said
    loaded = load_examples(output)
    assert loaded.shape == "text (Mistral template)"
    assert [(e.prompt, e.completion) for e in loaded] == [("q", "a"), ("Who?", "Me")]
    run("format.py", "--input", "raw", "--output", "raw/formatted_data.jsonl", code=73)
    run("format.py", "--input", "raw", "--output", "raw/formatted_data.jsonl", "--force")
    assert len(output.read_text().splitlines()) == 2, "its own output is no input"


def test_format_refuses_marks_in_the_text(folder, run):
    (folder / "bad.jsonl").write_text('{"prompt": "a [/INST] b", "completion": "c"}\n')
    said = run("format.py", "--input", "bad.jsonl", "--output", "new/out.jsonl", code=65)
    assert "bad.jsonl:1: the user's turn holds '[/INST]'" in said
    assert not (folder / "new").exists()


def test_inspect_shows_what_is_trained(folder, run):
    said = run("inspect_data.py", "qa.jsonl", "--model", "model", "--max-length-tokens", "512", "--plain")
    assert "question/answer" in said
    assert "200, 200 of them usable" in said
    assert "1 an error when trained: qa.jsonl:8" in said
    assert "| <s>[INST] Question " in said
    assert "[/INST]⟦ w" in said
    assert "</s>⟧" in said
    assert "\x1b[" not in said


def test_options_reach_the_encoding(folder, run):
    rows = [json.loads(line) for line in (folder / "qa.jsonl").read_text().splitlines()]
    renamed = [{"Frage": row["question"], "Antwort": row["answer"]} for row in rows]
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed), encoding="utf-8")
    words = ("inspect_data.py", "qa.jsonl", "--model", "model", "--plain")
    assert "found Frage, Antwort" in run(*words, code=65)
    columns = ("--columns", "prompt=Frage", "completion=Antwort")
    said = run(*words, *columns)
    assert "shape                    mapped" in said
    assert run(*words, "--columns=prompt=Frage completion=Antwort") == said  # as make hands it on
    assert "[/INST]⟦ w" in said
    assert "(100%)" not in said
    said = run(*words, *columns, "--loss-on", "all")
    assert "| ⟦<s>[INST] Question " in said
    assert "(100%)" in said
    run("prepare_dataset.py", "--input_data", "qa.jsonl", "--output_dir", "out", *columns)
    card = json.loads((folder / "out" / "dataset_card.json").read_text())
    assert (card["source"]["shape"], card["source"]["rows"]) == ("mapped", 200)


def test_an_allowed_leak_is_recorded_in_the_card(folder, run):
    passage = " ".join(f"p{n}" for n in range(14))
    with (folder / "qa.jsonl").open("a") as file:
        file.writelines(json.dumps({"question": f"More {n}?", "answer": f"{n} {passage}"}) + "\n" for n in (1, 2))
    # With this seed the two questions are in different splits.
    words = (
        "prepare_dataset.py",
        "--input_data",
        "qa.jsonl",
        "--output_dir",
        "out",
        "--train_size",
        "0.5",
        "--seed",
        "1",
    )
    assert "repeats a passage of 14 words of qa.jsonl:20" in run(*words, code=65)
    assert not (folder / "out").exists()
    run(*words, "--allow-leak")
    leaks = json.loads((folder / "out" / "dataset_card.json").read_text())["leaks"]
    assert (leaks["13-gram"], leaks["allowed"]) == (1, True)


def test_make_inspect_takes_what_the_errors_name():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if "call.sh inspect_data" in line)
    choices = {"on_bad_row": "drop", "on_overlong": "drop"}
    for setting in (*choices, "allow_empty", "allow_duplicates", "allow_secrets", "allow_leak"):
        told = option_for(setting, choices.get(setting, "")).split()
        variable, value = told[told.index("inspect") + 1].rstrip(";").removeprefix("(").split("=")
        assert f"{variable}={told[0]}{'' if setting in choices else '!'}" in line.split()
        assert value == choices.get(setting, "1")
    assert "DATA_COLUMNS=--columns" in line.split()  # a shell's own COLUMNS is the width of the terminal


def test_inspect_needs_something(folder, run):
    assert "nothing to inspect" in run("inspect_data.py", code=64)


def test_a_terminal_shows_trained_text_in_another_colour(folder, monkeypatch, capfd):
    from common.chat.inspection import print_rich, view_file

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    (folder / "one.jsonl").write_text('{"prompt": "Who [bold]runs?", "completion": "\\u001b[5mThe fox."}\n')
    print_rich(view_file("train", load_examples(folder / "one.jsonl"), demo_tokenizer(), 99, "error", "assistant"))
    said = capfd.readouterr().out
    assert "\x1b[2m<s>[INST] Who [bold]runs? [/INST]\x1b[0m" in said, "untrained text is dim, and no markup"
    assert "\x1b[1;32m \\x1b[5mThe fox.</s>\x1b[0m" in said, "trained text is green, its escapes made visible"


def test_data_is_inspected_by_the_rules_of_its_recipe(tmp_path, monkeypatch):
    import inspect_data

    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "command: finetune_ba\ndata: {columns: [prompt=Q, completion=A], on_bad_row: drop, allow_leak: true}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["inspect_data.py", "--recipe", str(recipe), "--allow-empty"])
    options = inspect_data.parse_options()
    loaded = inspect_data.load_recipe(options.recipe)
    files = inspect_data.choose_files(options, loaded)
    assert files.keys() == {"train", "validation"} and all(Path(path).is_file() for path in files.values())
    rules, allow_leak = inspect_data.choose_rules(options, loaded)
    assert rules["columns"] == {"prompt": "Q", "completion": "A"} and allow_leak
    assert (rules["on_bad_row"], rules["allow_empty"], rules["allow_secrets"]) == ("drop", True, False)
