"""Numbers about scores: one arm's summary, and the paired comparison of two arms over the same items.

Everything is a fraction (0.05 is five points). An item is the unit: with several samples an item's score is their mean
first, because samples of one item are not independent of each other. After Miller 2024 (arXiv 2411.00640: paired
differences, resampling, power) and Bowyer et al. 2025 (arXiv 2503.01747: small n).

What a claim rests on. The BCa bootstrap corrects bias and skew to second order, yet at n = 22 its lower end lies too
high more often than the nominal 2.5 % (simulated: 3.5 to 4 % for normal differences, 8 % for scores that mostly sit at
the ceiling). The sign-flip test is exact when differences are symmetric about the bound, as they are between two arms
that do not differ; it is asked for p < 0.04, and the slack to 0.05 pays for Monte-Carlo error. Neither sees what a
sample does not hold: where rare heavy losses pay for many small gains, a sample with few of them looks better than the
truth, and both are fooled (simulated, true difference 0, least gain 5 points, n = 22: 4 % for negative exponential
differences, 10 % where one item in ten loses 54 points).
So a claim that one arm is better must also survive one more item, which the other arm answers as well as its best and
this one fails altogether: with that item added, the t interval must still lie above the bound. That is about what 22 of
22 can show at best, see :func:`lowest_rate_of_all_passed`. Simulated over twelve shapes of differences with a true mean
of 0, among them rare losses of 30 to 94 points on 1 to 20 % of the items, the rule with a least gain of 5 points claims
a gain in at most 1 % of samples of 22 and 2 % of samples of 200; a true gain of 10 points (sd 15) is found with 200
items; with 22, one of about 20 points is. Where all differences are equal, resampling knows no spread: the interval is
that one point, and it says so.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from common.power import (
    CONFIDENCE,
    TOLERANCE,
    items_needed,
    smallest_detectable_difference,
    smallest_surviving_difference,
    survives_failure,
)

CLAIM_P = 0.04
RESAMPLES = 9_999
PASS_MARKS = {"pass_at_0.8": 0.8, "pass_at_0.9": 0.9, "perfect": 1.0}


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a mean or rate; ``method`` says how it was made and what to mind."""

    low: float
    high: float
    method: str
    confidence: float = CONFIDENCE


def mean_interval(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """BCa bootstrap interval of the mean of ``values`` (shape [n], n at least 2) over items."""
    from scipy import stats

    values = np.asarray(values, dtype=float)
    if np.ptp(values) <= TOLERANCE:
        return Interval(float(values[0]), float(values[0]), "all values equal: resampling knows no spread")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate cases come back as NaN and are handled here
        for method in ("BCa", "percentile"):
            result = stats.bootstrap(
                (values,), np.mean, n_resamples=resamples, method=method, confidence_level=CONFIDENCE,
                rng=np.random.default_rng(seed), batch=_batch(values.size),
            )  # fmt: skip
            low, high = map(float, result.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                break
    return Interval(low, high, f"{method} bootstrap over items, {resamples} resamples")


def rate_interval(successes: int, n: int) -> Interval:
    """Wilson score interval of a rate."""
    from scipy import stats

    low, high = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(low), float(high), "Wilson")


def lowest_rate_of_all_passed(n: int) -> float:
    """Lower end of the exact (Clopper-Pearson) interval when n of n pass: what a perfect result can show at best."""
    return ((1 - CONFIDENCE) / 2) ** (1 / n)


def summarise(scores: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Describe one arm's item scores (shape [n]): location, spread, the mean's interval, pass rates with theirs."""
    scores = np.asarray(scores, dtype=float)
    summary = {
        "n": int(scores.size),
        "mean": float(scores.mean()),
        "mean_interval": asdict(mean_interval(scores, resamples=resamples, seed=seed)),
        "median": float(np.median(scores)),
        "sd": float(scores.std(ddof=1)),
        "min": float(scores.min()),
        "max": float(scores.max()),
    }
    for name, mark in PASS_MARKS.items():
        passed = int((scores >= mark - TOLERANCE).sum())
        interval = asdict(rate_interval(passed, scores.size))
        summary[name] = {"count": passed, "rate": passed / scores.size, "interval": interval}
    return summary


@dataclass(frozen=True)
class PairedTest:
    """The differences ``new`` minus ``old``, item by item (shape [n], n at least 2), and what they show.

    ``failure`` is the loss on an item that ``new`` fails altogether: the best score of ``old``.
    """

    new: str
    old: str
    differences: np.ndarray = field(repr=False)
    failure: float = 0.0
    resamples: int = RESAMPLES
    seed: int = 0

    @classmethod
    def of(cls, new: str, old: str, scores: dict[str, Sequence[float]], **options) -> "PairedTest":
        """Pair two arms of ``scores`` (arm name -> item scores in the same order)."""
        differences = np.asarray(scores[new], dtype=float) - np.asarray(scores[old], dtype=float)
        if differences.size < 2:
            raise ValueError("a paired test needs at least two items")
        return cls(new, old, differences, failure=float(np.max(scores[old])), **options)

    @property
    def is_degenerate(self) -> bool:
        """True when all differences are equal."""
        return bool(np.ptp(self.differences) <= TOLERANCE)

    @property
    def n(self) -> int:
        return self.differences.size

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    @property
    def sd(self) -> float:
        return float(self.differences.std(ddof=1))

    @cached_property
    def interval(self) -> Interval:
        return mean_interval(self.differences, resamples=self.resamples, seed=self.seed)

    @cached_property
    def p_value(self) -> float:
        """Two-sided sign-flip p of a mean difference of 0."""
        return self.p_against(0.0)

    def p_against(self, bound: float) -> float:
        """Two-sided sign-flip p of a mean difference of ``bound``: exact up to 2^n <= resamples, else Monte Carlo."""
        from scipy import stats

        centred = self.differences - bound
        if np.abs(centred).max() <= TOLERANCE:
            return 1.0
        return float(
            stats.permutation_test(
                (centred,), _mean, permutation_type="samples", n_resamples=self.resamples, vectorized=True,
                rng=np.random.default_rng(self.seed), batch=_batch(self.n),
            ).pvalue
        )  # fmt: skip

    def shows_above(self, bound: float) -> bool:
        """True when interval and sign-flip test both put the true difference above ``bound``, and so would one more
        failed item.
        """
        return self.is_told_above(bound) and self.survives_failure(bound)

    def is_told_above(self, bound: float) -> bool:
        """True when interval and sign-flip test both put the true difference above ``bound``."""
        return self.interval.low > bound and self.mean > bound and self.p_against(bound) < CLAIM_P

    def survives_failure(self, bound: float) -> bool:
        """True when the difference is above ``bound`` even with one more item that ``new`` fails altogether."""
        return bool(survives_failure(self.differences, self.failure, bound))

    def shows_below(self, bound: float) -> bool:
        """True when interval and sign-flip test both put the true difference below ``bound``."""
        return self.interval.high < bound and self.mean < bound and self.p_against(bound) < CLAIM_P

    @property
    def wilcoxon_p(self) -> float:
        """Two-sided Wilcoxon signed-rank p (zero differences dropped); 1 when there is no difference at all."""
        from scipy import stats

        if np.abs(self.differences).max() <= TOLERANCE:
            return 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ties and zeros switch to the normal approximation
            return float(stats.wilcoxon(self.differences).pvalue)

    @property
    def cohens_d(self) -> float | None:
        """Mean of the differences over their standard deviation (d_z); None when they do not vary."""
        return self.mean / self.sd if self.sd > TOLERANCE else None

    @property
    def smallest_detectable(self) -> float:
        """The true difference the paired test finds with 80 % power, given the spread that was seen."""
        return smallest_detectable_difference(self.sd, self.n)

    @property
    def smallest_claimable(self) -> float:
        """The true difference that, with 80 % power, is found and survives one more failed item."""
        return max(self.smallest_detectable, smallest_surviving_difference(self.sd, self.n, self.failure))

    def items_to_settle(self, bound: float) -> int | None:
        """How many items it takes to tell the difference seen from ``bound``; None when the two are equal.

        Above the bound the claim has to survive one more failed item as well.
        """
        needed = items_needed(self.sd, abs(self.mean - bound))
        if needed is None or self.mean < bound:
            return needed
        while smallest_surviving_difference(self.sd, needed, self.failure + bound) > self.mean - bound:
            needed += max(1, needed // 20)
        return needed

    def as_dict(self) -> dict:
        """Everything as plain numbers, for the report."""
        signs = np.sign(np.where(np.abs(self.differences) <= TOLERANCE, 0.0, self.differences))
        exact = 2**self.n <= self.resamples  # in integers: a float ends at 2^1023
        return {
            "n": self.n,
            "difference": self.mean,
            "interval": asdict(self.interval),
            "sd": self.sd,
            "wins": int((signs > 0).sum()),
            "ties": int((signs == 0).sum()),
            "losses": int((signs < 0).sum()),
            "sign_flip_p": self.p_value,
            "sign_flip_method": "exact" if exact else f"Monte Carlo, {self.resamples} resamples",
            "wilcoxon_p": self.wilcoxon_p,
            "cohens_d": self.cohens_d,
            "smallest_detectable_difference": None if self.is_degenerate else self.smallest_detectable,
        }


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis=axis)


def _batch(n: int) -> int:
    """Resamples drawn at a time: at most 64 MiB of them."""
    return max(1, 2**23 // n)
