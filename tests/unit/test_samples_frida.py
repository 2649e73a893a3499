"""frIdA's raw sources: their facts, their languages, and what format.py makes of them.

python -m pytest tests/unit/test_samples_frida.py
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.data import load_examples
from common.data.leaks import contents_of, find_leaks
from common.data.splits import SPLITS, split_of, split_shares
from common.samples.files import encode_rows, write_splits
from common.samples.frida import LANGUAGES, generate_dataset, mend
from common.samples.phrases import read_vocabulary

PYTHON = Path(__file__).parents[2] / "python"
# The bytes of seed 42. A change here changes every figure measured on them: it must be wanted.
SHA256 = {
    "es": "4d3cdfee3008480dbd4a03a60113d72920e72e4d11203dac7dcc98c8cfb2a68e",
    "en": "bf43a45c390e55f52b3583ef1b11e86e9536dce7055933e6b7228d44fb0c9e17",
    "conversations": "ad4760ba6fdb7bcb1faf61a13e9a907ce068ce0d9f2f58d4f5cc0ddf71a200e9",
}


@pytest.fixture(scope="module")
def files():
    return generate_dataset(42)


def turns_of(row):
    return [m["content"] for m in row["messages"]] if "messages" in row else [row["question"], row["answer"]]


def test_the_bytes_are_those_of_seed_42(files):
    assert {name: len(rows) for name, rows in files.items()} == {"es": 196, "en": 196, "conversations": 80}
    assert {name: hashlib.sha256(encode_rows(rows)).hexdigest() for name, rows in files.items()} == SHA256
    assert generate_dataset(43)["es"] != files["es"]


@pytest.mark.parametrize("seed", [42, 7])
def test_the_files_load_and_any_split_of_them_leaks_nothing(tmp_path, seed):
    write_splits(tmp_path, generate_dataset(seed))
    loaded = [load_examples(tmp_path / f"{name}.jsonl") for name in SHA256]
    assert [part.shape for part in loaded] == ["question/answer", "question/answer", "messages"]
    assert [part.notes for part in loaded] == [[], [], []]
    examples = [example for part in loaded for example in part.examples]
    contents = contents_of(examples, np.ones(len(examples), bool))
    prompts = contents.fingerprints[:, 2]
    assert len(np.unique(prompts)) == len(prompts)  # nothing is asked twice
    for split_seed in range(4):
        splits = [SPLITS.index(split_of(int(prompt), split_shares(0.8), split_seed)) for prompt in prompts]
        assert find_leaks(np.array(splits), SPLITS, contents).leaks == []


def test_no_pattern_is_left_and_articles_are_drawn_together(files):
    for rows in files.values():
        for turn in (turn for row in rows for turn in turns_of(row)):
            assert not re.search(r"[\[\]{}|]|  |\b([Dd]e|[Aa]) el\b|\b(frida|FrIdA|Frida)\b", turn), turn
            assert re.match(r"[¿¡«]?[A-ZÁÉÍÓÚÑ]", turn) and turn[-1] in ".?!»", turn
    assert mend("¿El horario de el gimnasio? Ve a el aula de ellos. De el comedor") == (
        "¿El horario del gimnasio? Ve al aula de ellos. Del comedor"
    )


def test_spanish_accents_and_signs_are_kept(files):
    text = encode_rows(files["es"]).decode("utf-8")
    assert set("áéíóúñ¿¡") <= set(text) and "\\u" not in text
    for row in files["es"]:
        assert all(turn.count("¿") == turn.count("?") and turn.count("¡") == turn.count("!") for turn in turns_of(row))
    assert not re.search("[áíóúñ¿¡]", encode_rows(files["en"]).decode("utf-8"))


def test_answers_tell_the_facts_of_the_place_asked_about(files):
    campus = read_vocabulary("frida_campus.yaml")
    places = [dict(zip(campus["fields"], entry, strict=True)) for entry in campus["places"]]
    assert len({place["extension"] for place in places}) == len({place["closes"] for place in places}) == len(places)
    checked = 0
    for language in LANGUAGES:
        for row in files[language]:
            asked = [
                p for p in places if mend(f"de {p[language]}")[3:] in row["question"] or p[language] in row["question"]
            ]
            for time in re.findall(r"\d+:\d\d", row["answer"]):
                assert time in (asked[0]["opens"], asked[0]["closes"])
            for extension in re.findall(r"\b2\d{3}\b", row["answer"]) if asked else []:
                assert int(extension) == asked[0]["extension"]
                checked += 1
    assert checked >= 80


def test_a_time_too_late_is_later_than_closing(files):
    found = 0
    for row in files["es"] + files["en"]:
        late = re.search(r"\d+:\d\d", row["question"])
        if late:
            closes = re.search(r"(?:cierra a las|closes at) (\d+:\d\d)", row["answer"])[1]
            hour, minute = late.group().split(":")
            assert int(hour) < 24 and 0 <= int(minute) < 60
            assert (int(hour), int(minute)) > tuple(map(int, closes.split(":")))
            found += 1
    assert found == 40


def test_conversations_begin_with_where_and_have_several_turns(files):
    for row in files["conversations"]:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and 4 <= len(roles) <= 8
        assert re.search("edificio [A-G]|building [A-G]|Edificio [A-G]|Building [A-G]", row["messages"][1]["content"])


def test_format_reads_them_where_they_are_written(tmp_path):
    environment = {**os.environ, "RECETARIO_RUNS": str(tmp_path)}
    for command in (["make_data.py", "--recipe", "frida-h100"], ["format.py"]):
        done = subprocess.run(
            [sys.executable, str(PYTHON / command[0]), *command[1:]], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "data" / "frida-h100"
    assert sorted(path.name for path in folder.iterdir()) == ["formatted_data.jsonl", "raw"]
    lines = (folder / "formatted_data.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 472 and all(list(row) == ["text"] for row in rows)
    assert all(re.fullmatch(r"<s>(\[INST\] [^<\[]+ \[/INST\] [^<\[]+ </s>)+", row["text"]) for row in rows)
    assert sum(row["text"].count("[INST]") > 1 for row in rows) == 80
    assert load_examples(folder / "formatted_data.jsonl").shape == "text (Mistral template)"
