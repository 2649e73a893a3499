"""The verdict of a three-way comparison: adopt the fine-tuned model, keep the better prompt, keep the baseline, or
say that these items cannot tell.

A verdict is a point rule on the means and, where it claims something, evidence for it: the paired difference is
shown to lie on its side of the bound by interval and sign-flip test together, and a gain also survives one more item
that the fine-tuned model fails altogether (see :mod:`common.statistics`).
"""

from dataclasses import dataclass, field

from common.comparison.thresholds import Thresholds
from common.power import TOLERANCE
from common.report.formats import percent
from common.statistics import PairedTest, lowest_rate_of_all_passed, mean_interval

ARMS = ("baseline", "optimized", "finetuned")
BOTH = "finetuned_optimized"  # an arm that may be added: the tuned model, asked with the optimised prompt
USABLE_SCORE = 0.1
VERDICTS = ("ADOPT", "KEEP_OPTIMIZED", "KEEP_BASELINE", "INCONCLUSIVE")


@dataclass(frozen=True)
class Decision:
    """One verdict, why, what to mind, and how many items would settle it (None: settled, or no number would)."""

    verdict: str
    reasons: list[str]
    notes: list[str] = field(default_factory=list)
    items_needed: int | None = None


def decide(scores: dict[str, list[float]], thresholds: Thresholds | None = None, **options) -> Decision:
    """Judge the three arms of ``scores`` (arm -> item scores, same items in the same order, at least two)."""
    thresholds = thresholds or Thresholds()
    tests = paired_tests(scores, **options)
    return _Judge(scores, tests, thresholds).decide()


def paired_tests(scores: dict[str, list[float]], **options) -> dict[str, PairedTest]:
    """The three comparisons by name, ``finetuned_vs_optimized`` and so on; a fourth where there is a fourth arm."""
    pairs = [("optimized", "baseline"), ("finetuned", "optimized"), ("finetuned", "baseline")]
    pairs += [(BOTH, "finetuned")] if BOTH in scores else []
    return {f"{new}_vs_{old}": PairedTest.of(new, old, scores, **options) for new, old in pairs}


class _Judge:
    def __init__(self, scores, tests: dict[str, PairedTest], thresholds: Thresholds):
        self.scores = scores
        self.mean = {arm: sum(scores[arm]) / len(scores[arm]) for arm in ARMS}
        self.over_optimized = tests["finetuned_vs_optimized"]
        self.over_baseline = tests["finetuned_vs_baseline"]
        self.prompt_gain = tests["optimized_vs_baseline"]
        self.target = thresholds.adopt_score
        self.gain = thresholds.adopt_gain

    def decide(self) -> Decision:
        decision = self._rule()
        return Decision(decision.verdict, decision.reasons, self._notes(), decision.items_needed)

    def _rule(self) -> Decision:
        if not self._reaches_gain(self.prompt_gain) and not self._reaches_gain(self.over_baseline):
            return self._nothing_improves()
        if self.over_optimized.mean < -TOLERANCE:
            return Decision(
                "KEEP_OPTIMIZED",
                [
                    f"The fine-tuned model scores below the optimised prompt ({_difference(self.over_optimized)}).",
                    "Overfitting is possible: its score on its training data would tell.",
                ],
            )
        if not self._reaches_gain(self.over_optimized):
            return self._gain_too_small()
        if self.mean["finetuned"] < self.target - TOLERANCE:
            return self._target_missed()
        return self._adopt_if_shown()

    def _nothing_improves(self) -> Decision:
        tests = (self.prompt_gain, self.over_baseline)
        reasons = [
            f"{_name(t.new).capitalize()} over {_name(t.old)}: {_difference(t)}, short of {_points(self.gain)}."
            for t in tests
        ]
        unsettled = [test for test in tests if not test.shows_below(self.gain)]
        if not unsettled:
            return Decision("KEEP_BASELINE", [*reasons, "The data rule out a gain of that size for both."])
        reasons.append("Yet the data do not rule out a gain of that size.")
        return self._inconclusive(reasons, [(test, self.gain) for test in unsettled])

    def _gain_too_small(self) -> Decision:
        reasons = [f"Fine-tuning gains {_difference(self.over_optimized)} over the optimised prompt, "
                   f"short of {_points(self.gain)}."]  # fmt: skip
        if self.over_optimized.shows_below(self.gain):
            return Decision("KEEP_OPTIMIZED", [*reasons, "The data rule out a gain of that size."])
        reasons.append("Yet the data do not rule out a gain of that size.")
        return self._inconclusive(reasons, [(self.over_optimized, self.gain)])

    def _target_missed(self) -> Decision:
        interval = mean_interval(self.scores["finetuned"])
        reasons = [
            f"The fine-tuned model gains {_difference(self.over_optimized)} over the optimised prompt.",
            f"Its mean of {percent(self.mean['finetuned'])} misses the target of {percent(self.target)} "
            f"(95 % interval {100 * interval.low:.1f} to {percent(interval.high)}).",
        ]
        own = PairedTest("finetuned", "target", _minus(self.scores["finetuned"], self.target))
        if own.shows_below(0.0):
            better = "optimized" if self.prompt_gain.mean > TOLERANCE else "baseline"
            equal = abs(self.prompt_gain.mean) <= TOLERANCE
            reasons.append("The other two score the same." if equal else
                           f"Of the other two, {_name(better)} scores higher.")  # fmt: skip
            return Decision(f"KEEP_{better.upper()}", reasons)
        reached = interval.high >= self.target
        reasons.append("Yet the interval reaches the target." if reached else "Yet that may be chance.")
        return self._inconclusive(reasons, [(own, 0.0)])

    def _adopt_if_shown(self) -> Decision:
        reasons = [
            f"The fine-tuned model's mean of {percent(self.mean['finetuned'])} reaches the target, "
            f"{percent(self.target)}.",
            f"It gains {_difference(self.over_optimized)} over the optimised prompt; asked for: {_points(self.gain)}.",
        ]
        unsettled = [test for test in (self.over_optimized, self.over_baseline) if not test.shows_above(0.0)]
        if not unsettled:
            p_value = max(self.over_optimized.p_value, self.over_baseline.p_value)
            reasons.append(f"The gain is shown: the interval lies above 0, sign-flip p = {p_value:.2g}, and one more "
                           "item that it fails altogether would not undo that.")  # fmt: skip
            return Decision("ADOPT", reasons)
        reasons += [_why_not_shown(test) for test in unsettled]
        return self._inconclusive(reasons, [(test, 0.0) for test in unsettled])

    def _inconclusive(self, reasons: list[str], open_questions: list[tuple[PairedTest, float]]) -> Decision:
        needed = [test.items_to_settle(bound) for test, bound in open_questions]
        if None in needed:
            return Decision(
                "INCONCLUSIVE", [*reasons, "What was seen lies on the bound: more items may not settle it."]
            )
        # A test that fell short although its n seems enough was near the edge: never advise fewer items than now.
        n = _round_up(max(*needed, self.over_optimized.n + 1))
        return Decision(
            "INCONCLUSIVE",
            [*reasons, f"About {n:,} items would settle it, should the difference stay as it is."],
            items_needed=n,
        )

    def _notes(self) -> list[str]:
        n = self.over_optimized.n
        notes = [
            f"Even {n} of {n} passed would only show a true pass rate of at least "
            f"{percent(lowest_rate_of_all_passed(n))}.",
        ]
        if not self.over_optimized.is_degenerate:  # without spread there is nothing to reckon with
            notes.insert(
                0,
                f"With {n} items the smallest true difference found with 80 % power is "
                f"{_points(self.over_optimized.smallest_detectable)} (fine-tuned against optimised prompt); to be "
                f"adopted, one of {_points(self.over_optimized.smallest_claimable)}.",
            )
        if max(self.mean.values()) < USABLE_SCORE:
            notes.append("No arm does the task: see the answers, and whether the metric fits them.")
        notes += [f"The differences between {_name(t.new)} and {_name(t.old)} are all equal: no interval."
                  for t in (self.over_optimized, self.over_baseline, self.prompt_gain) if t.is_degenerate]  # fmt: skip
        return notes

    def _reaches_gain(self, test: PairedTest) -> bool:
        return test.mean >= self.gain - TOLERANCE


def _why_not_shown(test: PairedTest) -> str:
    if test.is_told_above(0.0):
        return f"Yet one more item that it fails altogether would undo the gain over {_name(test.old)}."
    return f"Yet the gain over {_name(test.old)} is not told from chance (sign-flip p = {test.p_value:.2g})."


def _name(arm: str) -> str:
    return {"baseline": "the baseline", "optimized": "the optimised prompt", "finetuned": "the fine-tuned model"}[arm]


def _minus(values, bound: float):
    import numpy as np

    return np.asarray(values, dtype=float) - bound


def _round_up(n: int) -> int:
    """To two leading digits: more would promise what such a forecast cannot hold."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return -(-n // unit) * unit


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f} points"


def _difference(test: PairedTest) -> str:
    low, high = 100 * test.interval.low, 100 * test.interval.high
    spread = "on every item" if test.is_degenerate else f"95 % interval {low:+.1f} to {high:+.1f}"
    return f"{100 * test.mean:+.1f} points ({spread})".replace("-", "−")
