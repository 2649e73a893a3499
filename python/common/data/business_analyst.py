"""The business-analyst task: a product concept in, a requirements document in YAML out.

The prompt begins with text that is the same for every example and ends with the concept, so that a server or a trainer
can compute the shared beginning once.
"""

from collections.abc import Mapping

import yaml

from common.data.examples import Example

LISTS = ("functional_requirements", "non_functional_requirements", "constraints")
FIELDS = ("title", "description", *LISTS)
ITEM_FIELDS = ("id", "description", "priority")

INSTRUCTIONS = """\
You are a business analyst. Turn the concept below into a requirements document.
Answer with YAML only, without any comment or code fence, and with exactly these five fields in this order:
- title: 10 to 100 characters
- description: at least 50 characters
- functional_requirements: a list with ids FR001, FR002, …
- non_functional_requirements: a list with ids NFR001, NFR002, …
- constraints: a list with ids C001, C002, …
Every list has at least two items. Every item has id, description and priority; the priority is High, Medium or Low.
Write in the language of the concept, but keep field names and priorities in English.

"""
CONCEPT_LABEL = "Concept: "


class _BlockDumper(yaml.SafeDumper):
    """Text of several lines is written as a literal block: it reads better and quotes nothing."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _represent_text)


def render_prompt(concept: str) -> str:
    """The user's turn for ``concept``: the instructions first, the concept last."""
    return INSTRUCTIONS + CONCEPT_LABEL + concept.strip()


def render_document(requirements: Mapping) -> str:
    """Write ``requirements`` as YAML: block style, fixed key order, Unicode kept, no wrapping, no final newline.

    Fields the format does not know are left out. Raises KeyError when one of the five fields is missing; rows of
    unknown origin go through :mod:`common.data.business_analyst_rows` first.
    """
    document = {name: requirements[name] for name in FIELDS}
    for name in LISTS:
        document[name] = [{key: item[key] for key in ITEM_FIELDS} for item in requirements[name]]
    text = yaml.dump(
        document, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10**9
    )
    return text.rstrip("\n")


def concept_of(example: Example) -> str:
    """The concept of a business-analyst example, from its row or else from the end of its prompt.

    Raises ValueError when the example is not of this task.
    """
    concept = example.row.get("concept")
    if concept is None and isinstance(example.row.get("input"), Mapping):
        concept = example.row["input"].get("concept")
    if isinstance(concept, str):
        return concept.strip()
    prompt = example.prompt_messages[-1].content if example.prompt_messages else ""
    _, label, concept = prompt.rpartition("\n" + CONCEPT_LABEL)
    if not label:
        raise ValueError(f"{example.source}: no concept in this example")
    return concept.strip()
