"""Metrics: an answer goes in, a score in [0, 1] and its components come out.

The business-analyst metric judges the form of a requirements document, so it needs no reference answer. An answer is
text a model wrote: nothing in it is trusted. YAML is read event by event with hard limits; no tag is resolved, no alias
followed, no value evaluated, and every scalar stays text.
"""

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.errors import ExitCode, Problem, UserError

KNOWN_METRICS = (
    "common.scoring:score_ba",
    "common.evaluation.texts:score_exact",
    "common.evaluation.texts:score_rouge",
)

# A requirements document is 1 to 4 KiB. What is far beyond is not read on: time and memory stay bounded.
MAX_ANSWER_CHARACTERS = 65_536
MAX_YAML_DEPTH = 12
MAX_YAML_EVENTS = 20_000

SECTIONS = ("title", "description", "functional_requirements", "non_functional_requirements", "constraints")
ID_PATTERNS = {
    "functional_requirements": re.compile(r"FR[0-9]{3}"),
    "non_functional_requirements": re.compile(r"NFR[0-9]{3}"),
    "constraints": re.compile(r"C[0-9]{3}"),
}
PRIORITIES = ("High", "Medium", "Low")
MIN_ITEMS = 2
BA_COMPONENTS = ("completeness", "title", "description", *ID_PATTERNS, "id_format")

_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)

Score = tuple[float, dict[str, float]]


class NotYaml(ValueError):
    """The answer is no YAML mapping, or more of it than the limits allow."""


def score_ba(answer: str | bytes) -> Score:
    """Judge a business-analyst answer: the mean of seven components in [0, 1], and the components.

    Full marks: all five sections present and not empty; a title of 10 to 100 characters; a description of at least
    50; in each of the three lists at least two items that are mappings with an id and a description; ids of the right
    prefix and three digits and a priority of High, Medium or Low. Less than full marks is in proportion: a list gets
    its well-formed items divided by its length (by two when shorter), a short text its length divided by the least
    one. An answer that is no YAML mapping gets 0 in everything.
    """
    try:
        document = parse_document(answer)
    except NotYaml:
        return 0.0, dict.fromkeys(BA_COMPONENTS, 0.0)

    lists = {section: _as_list(document.get(section)) for section in ID_PATTERNS}
    components = {
        "completeness": sum(not _is_empty(document.get(section)) for section in SECTIONS) / len(SECTIONS),
        "title": _score_title(_as_text(document.get("title"))),
        "description": min(1.0, len(_as_text(document.get("description"))) / 50),
        **{section: _score_items(items) for section, items in lists.items()},
        "id_format": _score_ids(lists),
    }
    return math.fsum(components.values()) / len(components), components


def parse_document(answer: str | bytes) -> dict:
    """Return the first YAML document of ``answer`` as a dict of dicts, lists and text, or raise :class:`NotYaml`.

    A fenced block is preferred to the text around it, and may lack its closing fence. Bytes that are no UTF-8 are
    replaced. Anchors, aliases and explicit tags are refused, as are depth, length and node counts beyond the limits.
    """
    if isinstance(answer, bytes):
        answer = answer[: 4 * MAX_ANSWER_CHARACTERS + 4].decode("utf-8", errors="replace")
    if len(answer) > MAX_ANSWER_CHARACTERS:
        raise NotYaml(f"longer than {MAX_ANSWER_CHARACTERS} characters")
    answer = answer.encode("utf-8", errors="replace").decode("utf-8")  # lone surrogates
    fenced = _FENCED.search(answer)
    try:
        document = _build_tree(fenced.group(2) if fenced else answer)
    except yaml.YAMLError as error:
        raise NotYaml(str(error)) from error
    if not isinstance(document, dict):
        raise NotYaml("not a mapping")
    return document


def _build_tree(text: str):
    """Build the first document of ``text`` from parser events, without recursion and without resolving anything."""
    root = None
    stack: list[list] = []  # of [container, key waiting for its value]
    events = yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    for count, event in enumerate(events):
        if count > MAX_YAML_EVENTS:
            raise NotYaml(f"more than {MAX_YAML_EVENTS} nodes")
        if isinstance(event, yaml.DocumentEndEvent):
            break
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            stack.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise NotYaml("anchors, aliases and tags are not read")
        node = _new_node(event)
        if not stack:
            root = node
        else:
            _attach(stack[-1], node)
        if not isinstance(node, str):
            if len(stack) >= MAX_YAML_DEPTH:
                raise NotYaml(f"nested deeper than {MAX_YAML_DEPTH}")
            stack.append([node, None])
    return root


def _new_node(event: yaml.NodeEvent):
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    is_null = event.style in (None, "") and event.value in ("", "~", "null", "Null", "NULL")
    return "" if is_null else event.value


def _attach(frame: list, node) -> None:
    container, key = frame
    if isinstance(container, list):
        container.append(node)
    elif key is None:
        if not isinstance(node, str):
            raise NotYaml("a key that is no text")
        frame[1] = node
    else:
        container[key] = node
        frame[1] = None


def _as_text(value) -> str:
    return value.strip() if isinstance(value, str) else ""


def _as_list(value) -> list:
    return value if isinstance(value, list) else []


def _is_empty(value) -> bool:
    return not (value.strip() if isinstance(value, str) else value)


def _score_title(title: str) -> float:
    """1 from 10 to 100 characters; in proportion below and above."""
    return min(1.0, len(title) / 10, 100 / max(len(title), 1))


def _score_items(items: list) -> float:
    """Share of the items that are mappings with id and description; a list shorter than two counts as two."""
    well_formed = sum(
        isinstance(item, dict) and bool(_as_text(item.get("id"))) and bool(_as_text(item.get("description")))
        for item in items
    )
    return well_formed / max(len(items), MIN_ITEMS)


def _score_ids(lists: Mapping[str, list]) -> float:
    """Mean over all items of: half a mark for the id's form, half for the priority. 0 when there are no items."""
    marks = []
    for section, items in lists.items():
        for item in items:
            fields = item if isinstance(item, dict) else {}
            id_is_right = ID_PATTERNS[section].fullmatch(_as_text(fields.get("id"))) is not None
            marks.append((id_is_right + (_as_text(fields.get("priority")) in PRIORITIES)) / 2)
    return math.fsum(marks) / len(marks) if marks else 0.0


@dataclass(frozen=True)
class Metric:
    """A metric by its name, ``module:function``: called with the answer, and the reference where it takes two."""

    name: str
    function: Callable
    uses_reference: bool

    def __call__(self, answer: str, reference: str = "") -> Score:
        """Return (score, {component: score}), checked to be finite and in [0, 1]; ``UserError`` (65) otherwise."""
        try:
            result = self.function(answer, reference) if self.uses_reference else self.function(answer)
        except Exception as error:  # anyone's code, on anything that a model writes
            what = f"metric {self.name} ended with {type(error).__name__}: {error} on the answer {answer!r:.200}"
            raise UserError(Problem(what, "a score for every answer, 0 for a wrong one"), ExitCode.DATA) from error
        try:
            score, components = result
            components = {str(name): _checked(value) for name, value in components.items()}
            return _checked(score), components
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(
                Problem(
                    f"metric {self.name} returned {result!r:.200}", "a pair: score, {component: score}, all in [0, 1]"
                ),
                ExitCode.DATA,
            ) from error


def load_metric(name: str) -> Metric:
    """Find ``module:function`` (beside the project's own also in the current folder); ``UserError`` (64) if absent."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(
            Problem(f"metric '{name}'", "module:function", f"this project has {', '.join(KNOWN_METRICS)}"),
            ExitCode.USAGE,
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            Problem(f"metric '{name}': {error}", "a module on the path or in this folder, and a function in it"),
            ExitCode.USAGE,
        ) from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind in positional]
    return Metric(name, function, uses_reference=len(parameters) >= 2)


def _checked(value) -> float:
    if isinstance(value, bool) or not 0.0 <= float(value) <= 1.0:  # NaN fails too
        raise ValueError(value)
    return float(value)
