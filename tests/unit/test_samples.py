"""The business-analyst generator and make_data.py: what the rows hold, that nothing leaks, that bytes never change.

python -m pytest tests/unit/test_samples.py
"""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.samples.business_analyst import KEYS, LANGUAGES, generate_dataset, load_worlds
from common.samples.dice import Dice
from common.samples.files import encode_rows, write_splits
from common.scoring import score_ba

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "recipes" / "demo" / "data"
# The bytes of seed 42. A change here changes every figure measured on the demo: it must be wanted.
SHA256 = {
    "train": "617c4eae17bda265155d438dd6b278ea47f48cafa3f7cb4be82291541b6e640f",
    "validation": "92b2decd135a408aff1d69d5fadd41f3520c725c7a891f5f9028be8b9c0c9e19",
}


@pytest.fixture(scope="module")
def splits():
    return generate_dataset(42)


def worlds_of(rows):
    everywhere = [world["place"] for language in LANGUAGES for world in load_worlds(language)]
    return {next(place for place in everywhere if place in row["concept"]) for row in rows}


def test_the_shipped_files_are_seed_42_byte_for_byte(splits):
    for name, rows in splits.items():
        assert hashlib.sha256(encode_rows(rows)).hexdigest() == SHA256[name]
        assert (SHIPPED / f"{name}.jsonl").read_bytes() == encode_rows(rows)


def test_another_seed_is_another_data_set(splits):
    other = generate_dataset(43)
    assert {row["concept"] for row in other["train"]} != {row["concept"] for row in splits["train"]}
    assert [len(other["train"]), len(other["validation"])] == [98, 22]


@pytest.mark.parametrize("seed", [42, 7])
def test_no_concept_and_no_world_is_in_both_splits(seed):
    data = generate_dataset(seed)
    concepts = [row["concept"] for rows in data.values() for row in rows]
    assert [len(data["train"]), len(data["validation"])] == [98, 22]
    assert len(set(concepts)) == 120
    assert not worlds_of(data["train"]) & worlds_of(data["validation"])


def test_pretraining_knows_none_of_the_worlds():
    for language in LANGUAGES:
        held_out, pretraining = load_worlds(language), load_worlds(language, pretraining=True)
        for field in ("place", "short", "rule"):
            assert not {world[field] for world in held_out} & {world[field] for world in pretraining}


@pytest.mark.parametrize("seed", [42, 7])
def test_every_document_keeps_the_rules(seed):
    from common.data.business_analyst import render_document

    for rows in generate_dataset(seed).values():
        for row in rows:
            document = row["requirements"]
            assert list(row) == ["concept", "requirements"]
            assert score_ba(render_document(document)) == (1.0, dict.fromkeys(score_ba("")[1], 1.0))
            assert 2 <= len(document[KEYS["functional"]]) <= 5
            assert 2 <= len(document[KEYS["non_functional"]]) <= 4
            assert 2 <= len(document[KEYS["constraints"]]) <= 3
            texts = [item["description"] for key in KEYS.values() for item in document[key]]
            assert len(set(texts)) == len(texts)
            assert not re.search(r"[\[\]{}|]|: |  ", " ".join([row["concept"], *texts, document["title"]]))


def test_a_document_is_about_its_concept(splits):
    for rows in splits.values():
        for row in rows:
            [place] = worlds_of([row])
            assert place in row["requirements"]["description"]
            worlds = [world for language in LANGUAGES for world in load_worlds(language)]
            world = next(world for world in worlds if world["place"] == place)
            own = [item for item in world["items"] if item in row["concept"]]
            text = json.dumps(row["requirements"], ensure_ascii=False)
            assert own and all(item in text for item in own)


def test_both_languages_and_accents_are_in_both_splits(splits):
    for rows in splits.values():
        spanish = [row for row in rows if re.search("[áéíóúñ]", row["concept"])]
        assert len(rows) * 0.25 < len(spanish) < len(rows) * 0.5


def test_dice_fall_the_same_everywhere():
    dice = Dice(42, "x")
    assert [dice.between(1, 6) for _ in range(8)] == [5, 4, 2, 3, 2, 5, 6, 4]
    assert "".join(dice.shuffle("abcdef")) == "cbeadf"
    counts = [Dice(1, n).weighted({"a": 3.0, "b": 1.0}) for n in range(2000)].count("a")
    assert 1400 < counts < 1600


def test_a_changed_file_is_only_replaced_on_request(tmp_path):
    rows = {"train": [{"concept": "año"}], "validation": []}
    assert set(write_splits(tmp_path, rows).values()) == {"written"}
    assert set(write_splits(tmp_path, rows).values()) == {"unchanged"}
    (tmp_path / "validation.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match=r"validation\.jsonl holds other data.*--force") as caught:
        write_splits(tmp_path, {"train": [], "validation": []})
    assert caught.value.exit_code == 73
    assert (tmp_path / "train.jsonl").read_text(encoding="utf-8") == '{"concept": "año"}\n'
    write_splits(tmp_path, rows, force=True)
    assert (tmp_path / "validation.jsonl").read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl", "validation.jsonl"]


def run_make_data(*arguments, **environment):
    command = [sys.executable, str(ROOT / "python" / "make_data.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment})


def test_the_command_writes_what_the_generator_makes(tmp_path):
    done = run_make_data(RECETARIO_RUNS=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, digest in SHA256.items():
        written = (tmp_path / "data" / "ba-cpu" / f"{name}.jsonl").read_bytes()
        assert hashlib.sha256(written).hexdigest() == digest
    again = run_make_data("--recipe", "ba-cpu", "--output", tmp_path / "data" / "ba-cpu")
    assert again.returncode == 0 and again.stdout.count("unchanged") == 2


def test_the_command_names_what_is_wrong(tmp_path):
    unknown = run_make_data("--recipe", "ba-cpuu", "--output", tmp_path / "x")
    assert unknown.returncode == 64
    assert "did you mean ba-cpu?" in unknown.stderr and not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    blocked = run_make_data("--recipe", "ba-cpu", "--output", tmp_path / "file" / "deeper")
    assert blocked.returncode == 73 and "cannot write" in blocked.stderr and "Traceback" not in blocked.stderr
