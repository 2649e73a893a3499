"""The reports of a comparison, all from one plain dict: JSON, Markdown, an HTML page, a picture, a terminal table.

formats    how numbers, arms and verdicts are put into words
charts     inline SVG: intervals, distributions
page       report.html: self-contained, no network
figure     scores.png
terminal   the table on the screen
"""

from pathlib import Path

from common.runs import write_json


def write_reports(report: dict, path: Path) -> list[Path]:
    """Write ``path`` (JSON) and beside it its .md and .html forms and scores.png; return all paths."""
    from common.report.figure import draw_scores
    from common.report.page import render_markdown, render_page

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.parent / "scores.png"
    markdown, page = path.with_suffix(".md"), path.with_suffix(".html")
    draw_scores(report, picture)
    markdown.write_text(render_markdown(report, picture.name), encoding="utf-8", errors="replace")
    page.write_text(render_page(report), encoding="utf-8", errors="replace")
    write_json(path, report)  # last: where it is, the others are too
    return [path, markdown, page, picture]
