"""How a record is written: one content, many layouts (YAML, JSON, Markdown, plain text; names, codes and levels).

A record is a title, a summary and some lists of points. A layout is one of a few house styles, as an organisation has
them; which one is wanted, a model must mostly read from the answers before.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from common.samples.dice import Dice

TITLE_NAMES = ("title", "name", "heading", "label", "system", "titulo")
SUMMARY_NAMES = ("description", "summary", "overview", "purpose", "about", "resumen")
ITEM_NAMES = {
    "id": ("id", "code", "ref", "number", "key"),
    "text": ("description", "text", "statement", "what", "detail", "texto"),
    "level": ("priority", "importance", "level", "rank", "prioridad"),
}
LEVELS = (
    ("High", "Medium", "Low"),
    ("high", "medium", "low"),
    ("Must", "Should", "Could"),
    ("P1", "P2", "P3"),
    ("A", "B", "C"),
    ("urgent", "normal", "later"),
    ("alta", "media", "baja"),
)


@dataclass(frozen=True)
class Point:
    """An entry of a list: its text, and how important it is (0 the most, 2 the least)."""

    text: str
    level: int


@dataclass(frozen=True)
class PointList:
    """A list of a record; ``names`` and ``codes`` are what a layout may call it, the usual ones first."""

    names: tuple[str, ...]
    codes: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Record:
    title: str
    summary: str
    lists: tuple[PointList, ...]


@dataclass(frozen=True)
class Layout:
    """The choices of one conversation: all its answers are written with the same."""

    container: str
    title: str
    summary: str
    list_choice: int  # which of its names and codes a list goes by, modulo their number
    item_names: tuple[str, str, str]  # of id, text and level
    code_choice: int
    code_format: str
    levels: tuple[str, str, str]
    shape: str
    fenced: bool
    indented: bool

    def list_name(self, points: PointList) -> str:
        return points.names[self.list_choice % len(points.names)]

    def code(self, points: PointList, number: int) -> str:
        return self.code_format.format(code=points.codes[self.code_choice % len(points.codes)], n=number)

    def field_names(self, record: Record) -> list[str]:
        return [self.title, self.summary, *(self.list_name(points) for points in record.lists)]

    @property
    def shown_item_names(self) -> tuple[str, ...]:
        return {"full": self.item_names, "no_level": self.item_names[:2], "line": ()}[self.shape]


def draw_layout(dice: Dice, *, alone: bool) -> Layout:
    """Draw one of the house styles; ``alone``: for a conversation without demonstrations."""
    return STYLES[dice.weighted({name: shares[0 if alone else 1] for name, (shares, _) in _STYLES.items()})]


def _style(container: str, shape: str, variant: int, code_format: str, levels: int, indented: bool = False) -> Layout:
    """A style whose names are the ``variant``-th of each list."""

    def pick(options: Sequence):
        return options[variant % len(options)]

    items = (pick(ITEM_NAMES["id"]), pick(ITEM_NAMES["text"]), pick(ITEM_NAMES["level"]))
    return Layout(
        container, pick(TITLE_NAMES), pick(SUMMARY_NAMES), variant, items, variant, code_format, LEVELS[levels], shape,
        fenced=False, indented=indented,
    )  # fmt: skip


# name: ((how often without, and with demonstrations), style). A few house styles, as an organisation's templates are;
# the first is what the business-analyst task asks for, and stands mostly where demonstrations show it.
_STYLES = {
    "yaml, full": ((0.06, 0.28), _style("yaml", "full", 0, "{code}{n:03d}", 0)),
    "yaml, lines": ((0.36, 0.2), _style("yaml", "line", 0, "{n}", 0)),
    "yaml, short names": ((0.14, 0.12), _style("yaml", "full", 1, "{code}-{n}", 2, indented=True)),
    "yaml, no level": ((0.1, 0.1), _style("yaml", "no_level", 2, "{code}{n:02d}", 0)),
    "json": ((0.1, 0.1), _style("json", "full", 3, "{code}{n}", 3)),
    "markdown": ((0.14, 0.12), _style("markdown", "full", 4, "{code}-{n:03d}", 1)),
    "plain": ((0.1, 0.08), _style("plain", "line", 5, "{n}", 5)),
}
STYLES = {name: style for name, (_, style) in _STYLES.items()}


def write_record(record: Record, layout: Layout) -> str:
    """Write ``record`` in ``layout``; no final newline."""
    if layout.container in ("yaml", "json"):
        return _write_data(record, layout)
    return _write_headings(record, layout)


def _write_data(record: Record, layout: Layout) -> str:
    data = {layout.title: record.title, layout.summary: record.summary}
    for points in record.lists:
        data[layout.list_name(points)] = [
            _item(layout, layout.code(points, n), point) for n, point in enumerate(points.points, start=1)
        ]
    if layout.container == "json":
        text = json.dumps(data, ensure_ascii=False, indent=1 if layout.indented else None)
    else:
        dumper = _IndentedDumper if layout.indented else yaml.SafeDumper
        text = yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, width=10**9).rstrip("\n")
    return f"```{layout.container}\n{text}\n```" if layout.fenced else text


def _item(layout: Layout, code: str, point: Point) -> dict[str, str] | str:
    if layout.shape == "line":
        return point.text
    values = (code, point.text, layout.levels[point.level])
    return dict(zip(layout.shown_item_names, values, strict=False))


def _write_headings(record: Record, layout: Layout) -> str:
    marked = layout.container == "markdown"
    lines = [f"# {record.title}" if marked else f"{_heading(layout.title)}: {record.title}"]
    lines.append(record.summary if marked else f"{_heading(layout.summary)}: {record.summary}")
    for points in record.lists:
        name = _heading(layout.list_name(points))
        lines.append(f"## {name}" if marked else f"{name}:")
        for number, point in enumerate(points.points, start=1):
            code = layout.code(points, number)
            level = f" ({layout.levels[point.level]})" if layout.shape == "full" else ""
            if layout.shape == "line":
                lines.append(f"- {point.text}")
            else:
                lines.append(f"- **{code}** {point.text}{level}" if marked else f"{code}: {point.text}{level}")
    return "\n".join(lines)


def _heading(name: str) -> str:
    words = name.replace("_", " ")
    return words[0].upper() + words[1:]


class _IndentedDumper(yaml.SafeDumper):
    """YAML whose lists are indented below their key."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)
