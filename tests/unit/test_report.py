"""The reports: complete, self-contained, safe with whatever a model wrote; and the history of comparisons."""

import copy
import io
import json
import re
from html.parser import HTMLParser

import pytest
from reports import load_items, make_report

from common.comparison.history import keep_report
from common.comparison.verdict import VERDICTS
from common.report import write_reports
from common.report.charts import Scale, draw_distribution, interval_scale
from common.report.page import MAX_ITEMS, mark_differences, render_page
from common.report.terminal import print_summary


@pytest.fixture(scope="module")
def report():
    return make_report()


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    paths = write_reports(report, folder / "report.json")
    return {path.name: path for path in paths}


class Page(HTMLParser):
    """Collects tags and text and checks that every tag is closed."""

    VOID = {"meta", "input", "br"}

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_all_reports_are_written(written, report):
    assert set(written) == {"report.json", "report.md", "report.html", "scores.png"}
    assert json.loads(written["report.json"].read_text()) == json.loads(json.dumps(report))
    png = written["scores.png"].read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") > 1200
    from PIL import Image

    assert len(Image.open(written["scores.png"]).convert("RGB").getcolors(2**24)) > 50, "not an empty picture"


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(written):
    html = written["report.html"].read_text()
    page = Page(html)
    assert not page.open
    outside = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href")]
    assert outside == [] and "@import" not in html and "url(" not in html
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert sum(attributes.get("class") == "item" for _, attributes in page.tags) == 22


def test_page_says_verdict_reasons_numbers_and_flags(written, report):
    text = " ".join(" ".join(Page(written["report.html"].read_text()).text).split())
    assert "Adopt the fine-tuned model" in text and "ADOPT" in text
    for reason in report["comparison"]["decision"]["reasons"]:
        assert " ".join(reason.split()) in text
    for model in report["models"].values():
        assert f"{100 * model['scores']['mean']:.1f} %" in text
    assert "cut at 20 tokens" in text and "an empty answer" in text and "no marks in any component" in text


def test_what_a_model_wrote_stays_text(written):
    html = written["report.html"].read_text()
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert "{{ 7*7 }}" in html
    markdown = written["report.md"].read_text()
    assert "<script>" not in markdown


def test_markdown_tables_are_tables(written):
    lines = written["report.md"].read_text().split("\n")
    tables = 0
    for above, line in zip(lines, lines[1:], strict=False):
        if re.fullmatch(r"\|(--?-?:?\|)+", line):
            tables += 1
            assert above.count("|") == line.count("|")
        elif above.startswith("|") and line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", above)) == len(re.findall(r"(?<!\\)\|", line))
    assert tables == 4 and "![Scores](scores.png)" in lines


def test_terminal_table_fits_80_columns_and_ends_with_the_verdict(report):
    from rich.console import Console

    stream = io.StringIO()
    print_summary(report, Console(file=stream, width=80, highlight=False))
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines[:7]) and "…" not in "".join(lines[:7])
    assert "100.0 %" in lines[3] and lines[8] == "ADOPT: Adopt the fine-tuned model"


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_its_words_and_colour(report, verdict):
    changed = copy.deepcopy(report)
    changed["comparison"]["decision"]["verdict"] = verdict
    html = render_page(changed)
    assert f"verdict-{verdict.lower()}" in html
    print_summary(changed, None)


def test_failed_check_is_said_on_page_and_terminal(report, capsys):
    changed = copy.deepcopy(report)
    changed["checks"]["gold"] = {"mean": 0.5, "wanted": "at least 0.9", "ok": False}
    assert "Doubt these scores" in render_page(changed)
    print_summary(changed)
    assert "check 'gold' failed" in capsys.readouterr().out.replace("\n", " ")


def test_differences_are_marked_word_by_word():
    marked, similar = mark_differences("title: A new shop\n- id: FR001 <b>", "title: A shop\n- id: FR002 <b>")
    assert marked == "title: A <mark>new</mark> shop\n- id: <mark>FR001</mark> &lt;b&gt;"
    assert 0.5 < similar < 1
    assert mark_differences("same\n text", "same\n text") == ("same\n text", 1.0)


def test_texts_with_nothing_in_common_or_too_long_are_not_marked():
    marked, similar = mark_differences("a b c d", "e f g h")
    assert "<mark>" not in marked and similar == 0.0
    assert mark_differences("a " * 2000, "b " * 10)[1] is None


def test_very_many_items_are_cut_on_the_page_and_whole_in_the_json(report):
    many = copy.deepcopy(report)
    times = MAX_ITEMS // 22 + 1
    many["items"] = report["items"] * times
    for model in many["models"].values():
        model["predictions"] = model["predictions"] * times
    html = render_page(many)
    assert html.count('class="item"') == MAX_ITEMS and "with the largest differences" in html


def test_scale_holds_intervals_and_gives_round_ticks():
    scale = interval_scale([{"low": -0.03, "high": 0.21}, {"low": 0.3, "high": 0.62}], [0.0, 0.05])
    assert scale.at(-0.03) > 0 and scale.at(0.62) < 100 and scale.at(0.0) < scale.at(0.05)
    assert [round(tick, 6) for tick in scale.ticks()] == [0.0, 0.2, 0.4, 0.6]
    assert Scale(0, 1).at(7) == Scale(0, 1).at(1), "outside values stay on the drawing"
    equal = interval_scale([{"low": 0.0, "high": 0.0}], [0.0])
    assert equal.low < 0 < equal.high


def test_histogram_counts_every_score_once():
    counts = re.findall(r"%: (\d+)<", draw_distribution([0.0, 0.04, 0.05, 0.3, 0.3, 0.999, 1.0, 0.15], "x", "t"))
    assert sum(map(int, counts)) == 8
    tips = re.findall(r"(\d+ to \d+) %: (\d+)", draw_distribution([0.15, 0.3, 0.6, 0.7], "x", "t"))
    assert [tip for tip, _ in tips] == ["15 to 20", "30 to 35", "60 to 65", "70 to 75"], "rounding moves nothing"


def test_history_says_how_the_verdict_moved(report, tmp_path):
    assert keep_report(report, tmp_path) == ""
    again = copy.deepcopy(report)
    again["metadata"]["created_at"] = "2031-01-01T00:00:00+00:00"
    assert keep_report(again, tmp_path).startswith("unchanged since")
    assert len(list((tmp_path / "history").iterdir())) == 1
    moved = copy.deepcopy(again)
    moved["comparison"]["decision"]["verdict"] = "INCONCLUSIVE"
    moved["models"]["finetuned"]["scores"]["mean"] = 0.9
    moved["metadata"]["prompt"]["demonstrations"] = ["train.jsonl:1"]
    line = keep_report(moved, tmp_path)
    assert "ADOPT → INCONCLUSIVE" in line and "100.0 % → 90.0 % (−10.0 points)" in line
    assert "changed: optimised prompt" in line
    names = sorted(path.name for path in (tmp_path / "history").iterdir())
    assert names == ["0001-adopt.json", "0002-inconclusive.json"]


def test_history_survives_a_broken_file(report, tmp_path):
    keep_report(report, tmp_path)
    (tmp_path / "history" / "0001-adopt.json").write_text("{")
    assert keep_report(report, tmp_path) == ""
    assert len(list((tmp_path / "history").iterdir())) == 2


def test_page_of_two_items_and_equal_arms_is_drawn():
    items = load_items(2)
    from reports import make_comparison

    from common.comparison.comparing import compare

    gold = [item.completion for item in items]
    report = compare(make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), gold), items))
    html = render_page(report)
    assert not re.search(r"\bnan\b", html) and "all equal" in html and "full marks" in html
