"""Made-up comparisons: arms that answer from a table, over items of the shipped data."""

from collections.abc import Sequence
from pathlib import Path

from common.comparison.comparing import Comparison, compare
from common.comparison.thresholds import Thresholds
from common.data import Loaded, load_examples
from common.generation import Answer, Decoding
from common.generation.programs import Prompt
from common.scoring import load_metric

DATA = Path(__file__).resolve().parents[2] / "recipes" / "demo" / "data"


class TableArm:
    """Gives each question the answer of its table; counts what it was asked."""

    def __init__(self, name: str, table: dict[str, Answer]):
        self.name = name
        self.table = table
        self.asked: list = []
        self.identity = {"kind": "table", "name": name}
        self.description = {"model": name}

    def check(self, conversations: Sequence, sources: Sequence):
        assert len(conversations) == len(sources)

    def answer(self, requests: Sequence, decoding: Decoding):
        self.asked += requests
        for request in requests:
            yield [(request, self.table[request.messages[-1].content])]


def load_items(count: int | None = None) -> Loaded:
    items = load_examples(DATA / "validation.jsonl")
    items.examples[:] = items.examples[:count]
    return items


def make_comparison(texts: dict[str, list], items: Loaded | None = None, **changes) -> Comparison:
    """A comparison whose arms answer ``texts`` (arm -> text or Answer per item)."""
    items = items or load_items(len(next(iter(texts.values()))))
    arms = {}
    for name, answers in texts.items():
        answers = [a if isinstance(a, Answer) else Answer(a, "stop", 10, 20) for a in answers]
        table = {item.prompt_messages[-1].content: answer for item, answer in zip(items, answers, strict=True)}
        arms[name] = TableArm(name, table)
    options = {
        "known": {"train": load_examples(DATA / "train.jsonl")},
        "prompt": Prompt(),
        "metric": load_metric("common.scoring:score_ba"),
        "decoding": Decoding(),
        "thresholds": Thresholds(),
    }
    return Comparison(arms, items, **(options | changes))


def make_report(items: Loaded | None = None) -> dict:
    """A report where the tuned model is best; among the answers are a cut, an empty and a hostile one."""
    items = items or load_items()
    gold = [item.completion for item in items]
    halves = [text[: len(text) // 2] for text in gold]
    poor = ["no document", Answer("", "length", 10, 20), "</pre><script>alert('x')</script>{{ 7*7 }}\x00"]
    poor += [text[:60] for text in gold[3:]]
    return compare(make_comparison({"baseline": poor, "optimized": halves, "finetuned": gold}, items))
