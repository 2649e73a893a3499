"""Checks of the measuring itself: would it notice a good answer, a bad one, and no difference at all?"""

import random
from collections.abc import Callable, Sequence

from common.comparison.thresholds import Thresholds
from common.comparison.verdict import ARMS, USABLE_SCORE, decide
from common.data import Example
from common.errors import ExitCode, Problem, UserError
from common.generation.answers import without_thought
from common.scoring import KNOWN_METRICS, Metric

GOLD_AT_LEAST = 0.9
SHUFFLED_AT_MOST = 0.2


def check_apparatus(examples: Sequence[Example], metric: Metric, thresholds: Thresholds) -> dict:
    """Does the metric know good from bad, and the rule something from nothing? Each check with its outcome.

    gold: the reference answers themselves. shuffled: the words of each reference answer in random order, which keeps
    the words and takes away the form (a metric that looks at the answer alone cannot notice another item's answer;
    one that takes the reference is given another item's answer as well). self: the references as all three arms.
    Raises UserError (65) when the metric has next to nothing for the references: it is made for other answers.
    """
    gold = [without_thought(example.completion) for example in examples]
    shuffled = [_shuffle_words(text, index) for index, text in enumerate(gold)]
    gold_scores = check_metric(gold, metric)
    checks = {
        "gold": _check(gold_scores, lambda mean: mean >= GOLD_AT_LEAST, f"at least {GOLD_AT_LEAST}"),
        "shuffled_words": _check(
            [metric(text, reference)[0] for text, reference in zip(shuffled, gold, strict=True)],
            lambda mean: mean <= SHUFFLED_AT_MOST, f"at most {SHUFFLED_AT_MOST}"),
    }  # fmt: skip
    if metric.uses_reference:
        others = gold[1:] + gold[:1]
        scores = [metric(text, reference)[0] for text, reference in zip(others, gold, strict=True)]
        checks["answers_of_other_items"] = _check(
            scores, lambda mean: mean <= SHUFFLED_AT_MOST, f"at most {SHUFFLED_AT_MOST}"
        )
    verdict = decide(dict.fromkeys(ARMS, gold_scores), thresholds).verdict
    checks["self"] = {"verdict": verdict, "wanted": "anything but ADOPT", "ok": verdict != "ADOPT"}
    return checks


def check_metric(gold: Sequence[str], metric: Metric) -> list[float]:
    """Return what ``metric`` gives the reference answers themselves. Raises UserError (65) for next to nothing."""
    scores = [metric(text, text)[0] for text in gold]
    mean = sum(scores) / len(scores)
    if mean < USABLE_SCORE:
        what = f"the metric {metric.name} gives the reference answers themselves {100 * mean:.1f} %"
        raise UserError(
            Problem(what, f"one that fits them, as of {', '.join(KNOWN_METRICS)}", "name it with METRIC= or --metric"),
            ExitCode.DATA,
        )
    return scores


def _check(scores: list[float], is_right: Callable[[float], bool], wanted: str) -> dict:
    mean = sum(scores) / len(scores)
    return {"mean": mean, "wanted": wanted, "ok": is_right(mean)}


def _shuffle_words(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)
