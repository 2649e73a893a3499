"""Business-analyst rows in their real variants, and the prompt and document made of them.

pytest tests/unit/test_data_business_analyst.py
"""

import json

import pytest
import yaml

from common.data import load_examples
from common.data.business_analyst import (
    INSTRUCTIONS,
    concept_of,
    render_document,
    render_prompt,
)
from common.data.business_analyst_rows import mend_document
from common.data.problems import option_for
from common.errors import ExitCode, UserError


def document(**changes) -> dict:
    def items(prefix):
        return [
            {"id": f"{prefix}00{n}", "description": f"Requirement {n} of {prefix}", "priority": "High"} for n in (1, 2)
        ]

    return {
        "title": "Gestión de plantas",
        "description": "Un sistema: con acentos, dos puntos y 😀.\n\nY dos párrafos.",
        "functional_requirements": items("FR"),
        "non_functional_requirements": items("NFR"),
        "constraints": items("C"),
    } | changes


def load(tmp_path, *rows, **options):
    path = tmp_path / "ba.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_examples(path, **options)


def test_document_is_block_yaml_that_reads_back():
    text = render_document(document(extra="left out"))
    assert yaml.safe_load(text) == document()
    assert text.startswith("title: Gestión de plantas\ndescription: |-\n  Un sistema: con acentos")
    assert "\nfunctional_requirements:\n- id: FR001\n  description: Requirement 1 of FR\n  priority: High\n" in text
    assert [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()] == list(document())
    long = "word " * 100
    assert len(render_document(document(title=long.strip())).splitlines()[0]) > 400, "lines are never wrapped"


def test_instructions_come_first_and_the_concept_last():
    prompt = render_prompt("  A shop for bees ")
    assert prompt.startswith(INSTRUCTIONS)
    assert prompt.endswith("\nConcept: A shop for bees")
    assert 60 <= len(INSTRUCTIONS.split()) <= 130


def test_every_variant_becomes_the_same_example(tmp_path):
    rows = [
        {"concept": "Bees", "requirements": document()},
        {"concept": "Bees two", "requirements": document(), "source": "interview", "reviewer": "me", "notes": ""},
        {"input": {"concept": "Bees three"}, "requirements_yaml": yaml.safe_dump(document()), "generated_at": "2025"},
        {"concept": "Bees four", "requirements": json.dumps(document())},
    ]
    loaded = load(tmp_path, *rows)
    assert loaded.shape == "business-analyst"
    assert [concept_of(example) for example in loaded] == ["Bees", "Bees two", "Bees three", "Bees four"]
    assert {example.completion for example in loaded} == {render_document(document())}


def test_rows_without_a_document_are_named_all_at_once(tmp_path):
    empty = {"concept": "x", "requirements": {"meta": {"original_request": "x"}}}
    empty_yaml = {"input": {"concept": "x"}, "requirements_yaml": "meta:\n  original_request: x\n"}
    rows = [{"concept": "Bees", "requirements": document()}, *[empty] * 15, *[empty_yaml] * 15]
    with pytest.raises(UserError) as caught:
        load(tmp_path, *rows)
    lines = str(caught.value).splitlines()
    assert caught.value.exit_code == ExitCode.DATA
    assert lines[0] == "ba.jsonl:2: field 'requirements' holds no document, only 'meta'"
    assert lines[19] == "ba.jsonl:21: field 'requirements_yaml' holds no document, only 'meta'"
    assert lines[20] == "… and 10 more — leave such rows out: " + option_for("on_bad_row", "drop")
    loaded = load(tmp_path, *rows, on_bad_row="drop")
    assert (len(loaded), loaded.rows) == (1, 31)
    assert "dropped 15 rows (field 'requirements' holds no document, only 'meta'): 2–16" in loaded.notes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"title": None}, "field 'requirements.title' is null, not text"),
        ({"description": " "}, "field 'requirements.description' is empty"),
        ({"constraints": "none"}, "field 'requirements.constraints' is text, not a list"),
        ({"constraints": []}, "field 'requirements.constraints' is empty"),
        ({"constraints": [{"id": "C001", "priority": "Low"}]}, r"constraints\[0\].description' is missing"),
        ({"constraints": [7]}, r"constraints\[0\]' is a number, not an object"),
    ],
)
def test_what_cannot_be_mended_is_named(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        load(tmp_path, {"concept": "Bees", "requirements": document(**change)})


def test_missing_field_and_broken_yaml_are_named(tmp_path):
    partial = document()
    del partial["constraints"]
    with pytest.raises(UserError, match=r"ba\.jsonl:1: field 'requirements.constraints' is missing") as caught:
        load(tmp_path, {"concept": "a", "requirements": partial}, {"concept": "b", "requirements": "a: [1"})
    assert "ba.jsonl:2: field 'requirements' is not valid YAML" in str(caught.value)


@pytest.mark.parametrize(
    ("items", "expected", "told"),
    [
        (
            [
                "id: C001",
                "description: Fast: always",
                "priority: Low",
                "id: C002",
                "description: Cheap",
                "priority: High",
            ],
            [("C001", "Fast: always", "Low"), ("C002", "Cheap", "High")],
            "constraints: items were written as flat lines of text",
        ),
        (["Fast", "Cheap"], [("C001", "Fast", "Medium"), ("C002", "Cheap", "Medium")], "an item was plain text"),
        ([{"Id": "C7", "Description": "Fast", "PRIORITY": "Low"}], [("C7", "Fast", "Low")], "field names were capit"),
        ([{"id": "C1", "description": "Fast"}], [("C1", "Fast", "Medium")], "a priority was missing and became Medium"),
        ([{"description": "Fast", "priority": "Low"}], [("C001", "Fast", "Low")], "an id was missing"),
    ],
)
def test_what_can_be_mended_is_mended_and_told(items, expected, told):
    mended: list[str] = []
    result = mend_document(document(constraints=items), mended)["constraints"]
    assert [(item["id"], item["description"], item["priority"]) for item in result] == expected
    assert told in mended[0]


def test_the_concept_is_found_in_a_prompt_as_well(tmp_path):
    loaded = load(tmp_path, {"prompt": render_prompt("Bees"), "completion": "x"}, {"prompt": "q", "completion": "y"})
    assert concept_of(loaded.examples[0]) == "Bees"
    with pytest.raises(ValueError, match=r"ba\.jsonl:2"):
        concept_of(loaded.examples[1])
