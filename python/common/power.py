"""What a paired comparison can find: the smallest difference, the number of items, and the test of one more failure.

Fractions throughout: 0.05 is five points. Formulas are those of the paired t test, with the spread that was seen.
"""

import math

import numpy as np

CONFIDENCE = 0.95
POWER = 0.80
TOLERANCE = 1e-9  # what rounding may make of a threshold that is met exactly


def survives_failure(differences: np.ndarray, failure: float, bound: float = 0.0) -> np.ndarray:
    """Does the t interval of the mean lie above ``bound`` with one more item, a loss of ``failure``?

    ``differences`` [..., n] hold one sample in each row; returns bool [...].
    """
    from scipy import stats

    lost = np.full((*differences.shape[:-1], 1), -failure)
    more = np.concatenate([differences, lost], axis=-1)
    n = more.shape[-1]
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * more.std(axis=-1, ddof=1) / math.sqrt(n)
    return more.mean(axis=-1) - reach > bound


def smallest_surviving_difference(sd: float, n: int, failure: float, power: float = POWER) -> float:
    """Least true difference that survives one more item that is a loss of ``failure``, with ``power`` (bisection)."""
    from scipy import stats

    reach, slack = stats.t.ppf(0.5 + CONFIDENCE / 2, n), stats.t.ppf(power, n - 1) * sd / math.sqrt(n)
    low, high = 0.0, 2.0 + failure + slack
    for _ in range(50):
        middle = (low + high) / 2
        mean = (n * (middle - slack) - failure) / (n + 1)
        spread = math.sqrt(((n - 1) * sd**2 + n / (n + 1) * (middle - slack + failure) ** 2) / n)
        low, high = (low, middle) if mean > reach * spread / math.sqrt(n + 1) else (middle, high)
    return high


def smallest_detectable_difference(sd: float, n: int, power: float = POWER) -> float:
    """Least true difference that a paired two-sided 5 % t test finds: (t(.975) + t(power)) sd / sqrt(n)."""
    return _noncentrality(n, power) * sd / math.sqrt(n)


def items_needed(sd: float, difference: float, power: float = POWER) -> int | None:
    """Least n (2 or more) at which ``difference`` is found with ``power``; None when the difference is 0."""
    if difference <= TOLERANCE:
        return None
    if sd <= TOLERANCE:
        return 2
    low, high = 1, 2
    while _noncentrality(high, power) * sd / math.sqrt(high) > difference:
        low, high = high, high * 2
        if high > 2**40:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        found = smallest_detectable_difference(sd, middle, power) <= difference
        low, high = (low, middle) if found else (middle, high)
    return high


def _noncentrality(n: int, power: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) + stats.t.ppf(power, n - 1))
