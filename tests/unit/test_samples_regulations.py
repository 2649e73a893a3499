"""The regulation questions: the template, the verdicts reckoned again, and what the test set shares with training.

python -m pytest tests/unit/test_samples_regulations.py
"""

import hashlib
import re

import pytest

from common.data import load_examples
from common.data.leaks import KINDS, check_leaks
from common.samples.files import encode_rows, write_splits
from common.samples.phrases import read_vocabulary
from common.samples.regulations import format_llama3, generate_dataset

TRAIN, TEST = "train_v3_combined_split", "test_v3_combined_split"
# The bytes of seed 42. A change here changes every figure measured on them: it must be wanted.
SHA256 = {
    "train_v3_combined_split": "91942e18d2a25fa5fc6c321ba6d269e5dcb9a9d0d382b6ea9755b794a6a2e258",
    "test_v3_combined_split": "5efc12234026020b46a7ddbb0e912eace9d5dfc64a77d557f48aab91b91bbcd6",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(tmp_path_factory.mktemp("data"), 42)


def load(folder, seed):
    write_splits(folder, generate_dataset(seed))
    return {split: load_examples(folder / f"{split}.jsonl") for split in SHA256}


def pairs_of(loaded):
    examples = [example for part in loaded.values() for example in part.examples]
    return [(example.prompt_messages[0].content, example.completion) for example in examples]


def test_the_bytes_are_those_of_seed_42():
    files = generate_dataset(42)
    assert {name: len(rows) for name, rows in files.items()} == {TRAIN: 318, TEST: 79}
    assert {name: hashlib.sha256(encode_rows(rows)).hexdigest() for name, rows in files.items()} == SHA256
    assert generate_dataset(43)[TRAIN] != files[TRAIN]


@pytest.mark.parametrize("seed", [42, 7, 8])
def test_the_files_load_and_nothing_leaks(tmp_path, seed):
    loaded = load(tmp_path, seed)
    assert {part.shape for part in loaded.values()} == {"text (Llama-3 template)"}
    assert [part.notes for part in loaded.values()] == [[], []]
    leaks = check_leaks({split: part.examples for split, part in loaded.items()})
    assert [leaks[kind] for kind in KINDS] == [0, 0, 0, 0]
    questions = [question for question, _ in pairs_of(loaded)]
    assert len(set(questions)) == len(questions)


def test_a_row_is_one_turn_each_in_llama3s_template(loaded):
    assert format_llama3("¿Sí?", "No.") == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n¿Sí?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nNo.<|eot_id|>"
    )
    for part in loaded.values():
        for example in part.examples:
            roles = [message.role for message in example.messages]
            assert list(example.row) == ["text"] and roles == ["user", "assistant"]


def test_training_knows_every_fact_the_test_asks_for(loaded):
    facts = {fact["answer"] for fact in read_vocabulary("regulations.yaml")["facts"]}
    answers = {split: [example.completion for example in part.examples] for split, part in loaded.items()}
    assert {answer for answer in answers[TEST] if answer in facts} == facts
    assert all(answers[TRAIN].count(fact) == 4 and answers[TEST].count(fact) == 1 for fact in facts)


def test_no_fact_is_a_passage_of_thirteen_words():
    facts = read_vocabulary("regulations.yaml")["facts"]
    assert len(facts) == 20
    assert all(len(re.findall(r"\w+", fact["answer"])) <= 12 and "(artículo " in fact["answer"] for fact in facts)


def test_the_spanish_is_well_formed(loaded):
    for pair in pairs_of(loaded):
        for text in pair:
            assert re.match(r"[¿¡]?[A-ZÁÉÍÓÚ]", text) and text[-1] in ".?", text
            assert text.count("¿") == text.count("?") and not re.search(r"[\[\]{}|]|  ", text), text
    assert set("áéíóú¿%") <= set("".join(question + answer for question, answer in pairs_of(loaded)))


def number(text):
    return float(text.replace(",", "."))


def test_verdicts_and_amounts_are_right(loaded):
    attempts = {
        "una": "te quedan tres",
        "dos": "te quedan dos",
        "tres": "te queda una",
        "cuatro": "no te queda ninguna",
    }
    passed = r"Saqué un ([\d,]+) en|tengo un ([\d,]+)\.|con un ([\d,]+)\?|es ([\d,]+)\. ¿He"
    rules = [
        (passed, 60, lambda n: ("No: ", "Sí: ")[n >= 6]),
        (r"(\d+(?:,\d)?) de media|media de ([\d,]+)\?|media es ([\d,]+)\.", 36, lambda n: ("No: ", "Sí: ")[n >= 8.5]),
        (r"(\d+) días de retraso", 36, lambda n: f"Son {f'{n / 2:g}'.replace('.', ',')} euros,"),
        (r"(?:matricular|cursar|matrícula de) (\d+) créditos", 40, lambda n: ("No: ", "Sí: ")[18 <= n <= 36]),
        (r"(?:Llevo|hice) (\d+)(?: horas|\?)", 40, lambda n: f"Faltan {240 - n:g} de"),
    ]
    for pattern, count, expected in rules:
        found = [(match, answer) for question, answer in pairs_of(loaded) if (match := re.search(pattern, question))]
        assert len(found) == count, pattern
        for match, answer in found:
            assert answer.startswith(expected(number(next(filter(None, match.groups()))))), (match.string, answer)
    for question, answer in pairs_of(loaded):
        if match := re.search(r"(\d+) de (?:las )?(\d+) clases", question):
            percent = 100 * int(match[1]) / int(match[2])
            assert answer.startswith(f"{'Sí' if percent >= 75 else 'No'}: es el {percent:g} %")
        if match := re.search(r"usado (\w+) de mis|Suspendí .* (una|dos|tres|cuatro) ve", question):
            assert attempts[match[1] or match[2]] in answer
