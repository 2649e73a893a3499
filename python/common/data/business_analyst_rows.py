"""Business-analyst rows as they come: several shapes in one file, some of them broken in ways that can be mended.

What is mended is counted and told; what cannot be (a row that holds no document at all) is named by its field. Nothing
is invented but a missing priority, which becomes Medium, and ids, which follow from the position in the list.
"""

import json
from collections.abc import Mapping

import yaml

from common.data.business_analyst import FIELDS, ITEM_FIELDS, LISTS

ID_PREFIXES = {"functional_requirements": "FR", "non_functional_requirements": "NFR", "constraints": "C"}
DEFAULT_PRIORITY = "Medium"


def is_business_analyst_row(row: Mapping) -> bool:
    """Whether ``row`` is of this task: a concept (at the top or under ``input``) and a document in some form."""
    has_concept = "concept" in row or (isinstance(row.get("input"), Mapping) and "concept" in row["input"])
    return has_concept and ("requirements" in row or "requirements_yaml" in row)


def read_row(row: Mapping) -> tuple[str, dict, list[str], list[tuple[str, str]]]:
    """Return (concept, requirements, what was mended, problems as (field, what is wrong)) of a business-analyst row."""
    nested = "concept" not in row
    concept = row["input"]["concept"] if nested else row["concept"]
    problems = _text_problems("input.concept" if nested else "concept", concept)
    mended: list[str] = []
    if "requirements" in row:
        name, document = "requirements", row["requirements"]
    else:
        name, document = "requirements_yaml", row["requirements_yaml"]
    if isinstance(document, str):
        try:
            document = _parse_document(document)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1} of the text)" if mark else ""
            return str(concept), {}, mended, [*problems, (name, f"is not valid YAML{where}")]
    if isinstance(document, Mapping):
        document = mend_document(document, mended)
    return str(concept), document, mended, problems + find_document_problems(document, name)


def mend_document(document: Mapping, mended: list[str]) -> dict:
    """Return ``document`` with its lists of items in normal form; what was changed is appended to ``mended``."""
    result = dict(document)
    for name in LISTS:
        items = result.get(name)
        if isinstance(items, list):
            items = _join_flat_lines(items, name, mended)
            result[name] = [_mend_item(item, index, name, mended) for index, item in enumerate(items, 1)]
    return result


def _parse_document(text: str) -> object:
    """Read JSON, or else YAML with every value left as the text it is."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return yaml.load(text, Loader=yaml.BaseLoader)  # knows text, lists and objects only: as safe as it gets


def _join_flat_lines(items: list, name: str, mended: list[str]) -> list:
    """Put ["id: NFR001", "description: …", "priority: …", "id: …"] together again as items."""
    pairs = [item.partition(": ") for item in items if isinstance(item, str)]
    if not items or len(pairs) < len(items) or any(key.strip().lower() not in ITEM_FIELDS for key, _, _ in pairs):
        return items
    mended.append(f"{name}: items were written as flat lines of text")
    joined: list[dict] = []
    for key, _, value in pairs:
        key = key.strip().lower()
        if not joined or key in joined[-1]:
            joined.append({})
        joined[-1][key] = value.strip()
    return joined


def _mend_item(item: object, index: int, name: str, mended: list[str]) -> object:
    item_id = f"{ID_PREFIXES[name]}{index:03d}"
    if isinstance(item, str) and item.strip():
        mended.append(f"{name}: an item was plain text, without id and priority")
        return {"id": item_id, "description": item.strip(), "priority": DEFAULT_PRIORITY}
    if not isinstance(item, Mapping):
        return item
    lowered = {str(key).strip().lower(): value for key, value in item.items()}
    if lowered.keys() != item.keys():
        mended.append(f"{name}: field names were capitalised")
    if "id" not in lowered:
        mended.append(f"{name}: an id was missing")
        lowered["id"] = item_id
    if "priority" not in lowered:
        mended.append(f"{name}: a priority was missing and became {DEFAULT_PRIORITY}")
        lowered["priority"] = DEFAULT_PRIORITY
    return lowered


def find_document_problems(requirements: object, root: str = "requirements") -> list[tuple[str, str]]:
    """Return (field, what is wrong) for everything that keeps ``requirements`` from being a document."""
    if not isinstance(requirements, Mapping):
        return [(root, f"is {_kind(requirements)}, not an object")]
    missing = [name for name in FIELDS if name not in requirements]
    if len(missing) == len(FIELDS):
        found = ", ".join(f"'{name}'" for name in requirements) or "nothing"
        return [(root, f"holds no document, only {found}")]
    problems = [(f"{root}.{name}", "is missing") for name in missing]
    for name in ("title", "description"):
        if name in requirements:
            problems += _text_problems(f"{root}.{name}", requirements[name])
    for name in LISTS:
        if name in requirements:
            problems += _list_problems(f"{root}.{name}", requirements[name])
    return problems


def _text_problems(name: str, value: object) -> list[tuple[str, str]]:
    if not isinstance(value, str):
        return [(name, f"is {_kind(value)}, not text")]
    return [] if value.strip() else [(name, "is empty")]


def _list_problems(name: str, items: object) -> list[tuple[str, str]]:
    if not isinstance(items, list):
        return [(name, f"is {_kind(items)}, not a list")]
    if not items:
        return [(name, "is empty")]
    problems = []
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            problems.append((f"{name}[{index}]", f"is {_kind(item)}, not an object with id, description, priority"))
            continue
        for key in ITEM_FIELDS:
            if key not in item:
                problems.append((f"{name}[{index}].{key}", "is missing"))
            else:
                problems += _text_problems(f"{name}[{index}].{key}", item[key])
    return problems


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")
