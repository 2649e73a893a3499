"""report.html and report.md. The page needs no network and no script to be read; a little script filters it.

Everything a model or a data file wrote is escaped by the template engine; nothing of it becomes markup.
"""

import difflib
import re
from pathlib import Path

from markupsafe import Markup, escape

from common.report import charts, formats

TEMPLATES = Path(__file__).resolve().parent / "templates"
MAX_ITEMS = 500  # on the page; all are in report.json
MAX_DIFF_WORDS = 1_500
LEAST_SIMILAR = 0.2
SHOWN_CHARACTERS = 20_000
_WORDS = re.compile(r"\S+\s*|\s+")


def render_page(report: dict) -> str:
    """The whole HTML page as text."""
    return open_templates(autoescape=True).get_template("page.html").render(
        report=report, rows=_item_rows(report), arms=list(report["models"]), **_charts(report)
    )  # fmt: skip


def render_markdown(report: dict, picture: str) -> str:
    """The Markdown report; ``picture`` is the file name of the plot beside it."""
    rows = sorted(_item_rows(report, marked=False), key=lambda row: row["gain"])
    template = open_templates(autoescape=False).get_template("report.md")
    return template.render(report=report, rows=rows, arms=list(report["models"]), picture=picture)


def mark_differences(text: str, other: str) -> tuple[Markup, float | None]:
    """``text`` as HTML with the words that ``other`` lacks in <mark>, and how similar the two are (0 to 1).

    Where they have next to nothing in common no word is marked; where they are too long to compare, the second is None.
    """
    words, others = _WORDS.findall(text), _WORDS.findall(other)
    if max(len(words), len(others)) > MAX_DIFF_WORDS:
        return escape(text), None
    plain, plain_others = [w.rstrip() for w in words], [w.rstrip() for w in others]
    matcher = difflib.SequenceMatcher(None, plain, plain_others, autojunk=False)
    similar = matcher.ratio()
    if similar < LEAST_SIMILAR:
        return escape(text), similar
    parts = []
    for kind, start, stop, _, _ in matcher.get_opcodes():
        piece = "".join(words[start:stop])
        if not piece:
            continue
        if kind == "equal" or not piece.strip():
            parts.append(escape(piece))
        else:
            bare = piece.rstrip()
            parts.append(Markup("<mark>{}</mark>{}").format(bare, piece[len(bare) :]))
    return Markup("").join(parts), similar


def open_templates(*, autoescape: bool):
    """Return the engine for the files in templates/; text of models and data is escaped with ``autoescape``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=autoescape, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    filters = ("arm_label", "test_label", "component_label", "percent", "points", "span", "p_value", "markdown_cell")
    environment.filters |= {name: getattr(formats, name) for name in filters}
    environment.globals |= {"verdict_labels": formats.VERDICT_LABELS, "pass_labels": formats.PASS_LABELS,
                            "draw_bar": charts.draw_bar, "points": formats.points}  # fmt: skip
    return environment


def _charts(report: dict) -> dict:
    thresholds = report["metadata"]["thresholds"]
    models, tests = report["models"], report["comparison"]["tests"]
    means = charts.interval_scale([m["scores"]["mean_interval"] for m in models.values()], [thresholds["adopt_score"]])
    gains = charts.interval_scale([t["interval"] for t in tests.values()], [0.0, thresholds["adopt_gain"]])
    return {
        "mean_rows": {
            name: charts.draw_interval(
                means, model["scores"]["mean"], model["scores"]["mean_interval"], [thresholds["adopt_score"]], name,
                f"{formats.arm_label(name)}: {formats.percent(model['scores']['mean'])}")
            for name, model in models.items()
        },
        "mean_axis": charts.draw_axis(means, lambda value: f"{100 * value:.0f}"),
        "gain_rows": {
            name: charts.draw_interval(
                gains, test["difference"], test["interval"], [0.0, thresholds["adopt_gain"]], name.split("_vs_")[0],
                f"{formats.test_label(name)}: {formats.points(test['difference'])} points")
            for name, test in tests.items()
        },
        "gain_axis": charts.draw_axis(gains, formats.whole_points),
        "histograms": {
            name: charts.draw_distribution(
                [p["score"] for p in model["predictions"]], name, f"Scores of {formats.arm_label(name)}")
            for name, model in models.items()
        },
    }  # fmt: skip


def _item_rows(report: dict, *, marked: bool = True) -> list[dict]:
    """Per item: what the page and the Markdown show, the arms side by side. The largest differences when too many."""
    models = report["models"]
    rows = []
    for number, item in enumerate(report["items"]):
        predictions = {name: model["predictions"][number] for name, model in models.items()}
        scores = {name: prediction["score"] for name, prediction in predictions.items()}
        rows.append(
            {
                "number": number + 1,
                "title": item["title"],
                "source": item["source"],
                "reference": item["reference"],
                "scores": scores,
                "gain": scores["finetuned"] - scores["optimized"],
                "predictions": predictions,
                "flags": _flags(predictions),
            }
        )
    if len(rows) > MAX_ITEMS:
        rows = sorted(sorted(rows, key=lambda row: -abs(row["gain"]))[:MAX_ITEMS], key=lambda row: row["number"])
    for row in rows if marked else ():
        row["columns"] = _columns(row["predictions"])
    return rows


def _columns(predictions: dict) -> list[dict]:
    """The first sample of each arm, marked with what differs from the arm to the left."""
    columns, left = [], None
    for name, prediction in predictions.items():
        answer = prediction["answers"][0]
        text = answer["text"][:SHOWN_CHARACTERS]
        marked, similar = mark_differences(text, left) if left and left.strip() else (escape(text), None)
        columns.append(
            {
                "arm": name,
                "html": marked,
                "similar": similar,
                "cut_for_show": len(answer["text"]) > SHOWN_CHARACTERS,
                "answer": answer,
                "others": prediction["answers"][1:],
                "lost": {part: mark for part, mark in answer["components"].items() if mark < 1 - 1e-9},
            }
        )
        left = text
    return columns


def _flags(predictions: dict) -> list[str]:
    answers = [answer for prediction in predictions.values() for answer in prediction["answers"]]
    found = {
        "truncated": any(answer["finish_reason"] == "length" for answer in answers),
        "empty": any(not answer["text"].strip() for answer in answers),
        "error": any(answer["finish_reason"] == "error" for answer in answers),
    }
    return [name for name, present in found.items() if present]
