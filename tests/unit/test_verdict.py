"""The verdict rule: each verdict on made-up scores, and its error rates by simulation."""

import numpy as np
import pytest

from common.comparison.thresholds import Thresholds
from common.comparison.verdict import VERDICTS, decide
from common.power import survives_failure

RNG = np.random.default_rng(8)


def arms(baseline, optimized, finetuned) -> dict:
    return {"baseline": list(baseline), "optimized": list(optimized), "finetuned": list(finetuned)}


def around(mean, spread=0.01, n=22) -> np.ndarray:
    noise = RNG.normal(0, spread, n)
    return mean + noise - noise.mean()


@pytest.mark.parametrize(
    ("scores", "verdict", "reason"),
    [
        (arms(around(0.4), around(0.7), around(0.95)), "ADOPT", "reaches the target"),
        (arms(around(0.6), around(0.93), around(0.95)), "KEEP_OPTIMIZED", "rule out a gain"),
        (arms(around(0.6), around(0.93), around(0.90)), "KEEP_OPTIMIZED", "Overfitting"),
        (arms(around(0.6), around(0.61), around(0.8)), "KEEP_OPTIMIZED", "misses the target"),
        (arms(around(0.65), around(0.6), around(0.8)), "KEEP_BASELINE", "misses the target"),
        (arms(around(0.92), around(0.93), around(0.94)), "KEEP_BASELINE", "rule out a gain"),
        (arms(around(0.6), around(0.88, 0.3), around(0.95, 0.3)), "INCONCLUSIVE", "chance"),
        (arms(around(0.4), around(0.85), around(0.95)), "INCONCLUSIVE", "would undo the gain over the optimised"),
        (arms(np.full(22, 0.3), np.full(22, 0.93), np.full(22, 0.99)), "INCONCLUSIVE", "fails altogether"),
        (arms(around(0.6), around(0.90, 0.3), around(0.93, 0.3)), "INCONCLUSIVE", "do not rule out"),
        (arms(around(0.90, 0.3), around(0.91, 0.3), around(0.92, 0.3)), "INCONCLUSIVE", "do not rule out"),
        (arms(around(0.4), around(0.5), around(0.89, 0.2)), "INCONCLUSIVE", "reaches the target"),
        (arms([0.55, 0.65] * 11, [0.55, 0.65] * 11, [0.75, 0.85] * 11), "KEEP_BASELINE", "two score the same"),
    ],
)
def test_each_verdict_and_its_reason(scores, verdict, reason):
    decision = decide(scores)
    assert decision.verdict == verdict
    assert reason in " ".join(decision.reasons)
    assert (decision.items_needed is not None) == (verdict == "INCONCLUSIVE")
    if decision.items_needed:
        assert decision.items_needed > 22


def test_three_items_do_not_show_that_a_target_is_missed():
    decision = decide(arms([0.3] * 3, [0.4] * 3, [0.857] * 3))
    assert decision.verdict == "INCONCLUSIVE" and "may be chance" in " ".join(decision.reasons)


def test_notes_say_how_little_22_items_can_show():
    notes = " ".join(decide(arms(around(0.4), around(0.7), around(0.95))).notes)
    assert "84.6 %" in notes and "80 % power" in notes


def test_notes_of_equal_and_useless_arms_promise_nothing():
    notes = " ".join(decide(arms([0.0] * 22, [0.0] * 22, [0.0] * 22)).notes)
    assert "80 % power" not in notes and "all equal" in notes and "No arm does the task" in notes
    assert "No arm" not in " ".join(decide(arms(around(0.4), around(0.7), around(0.95))).notes)


def test_a_prompt_that_harms_does_not_make_the_tuned_model_look_good():
    decision = decide(arms(around(0.95), around(0.7), around(0.96)))
    assert decision.verdict == "KEEP_BASELINE"


def test_thresholds_are_met_exactly_in_spite_of_rounding():
    optimized = np.tile([0.84, 0.86], 50)
    finetuned = np.tile([0.88, 0.92], 50)  # mean 0.90 and gain 0.05, both up to rounding
    scores = arms(around(0.5, n=100), optimized, finetuned)
    assert decide(scores).verdict == "ADOPT"
    assert decide(scores, Thresholds(adopt_gain=0.051)).verdict != "ADOPT"
    assert decide(scores, Thresholds(adopt_score=0.901)).verdict != "ADOPT"


@pytest.mark.parametrize("gain", [0.0, 0.05, -0.05])
@pytest.mark.parametrize("scores", [around(0.95), np.ones(22), np.zeros(22), [0.9, 1.0]])
def test_an_arm_against_itself_is_never_adopted(scores, gain):
    decision = decide(arms(scores, scores, scores), Thresholds(adopt_gain=gain, adopt_score=0.0))
    assert decision.verdict in VERDICTS and decision.verdict != "ADOPT"


def test_few_items_are_never_enough_to_adopt():
    for n in (2, 3, 4, 5):
        assert decide(arms([0.0] * n, [0.0] * n, [1.0] * n)).verdict == "INCONCLUSIVE"
    assert decide(arms([0.0] * 8, [0.0] * 8, [1.0] * 8)).verdict == "ADOPT"


def count_adopted(n, true_difference, trials, rng) -> int:
    """Simulate trials of n items whose paired differences are normal with sd 15 points; all else favours adoption.

    Only trials that pass the rule's cheap conditions are decided in full: the others cannot be adopted.
    """
    finetuned = rng.normal(0.98, 0.05, (trials, n))
    differences = rng.normal(true_difference, 0.15, (trials, n))
    optimized = finetuned - differences
    best = optimized.max(axis=1)
    gains = differences.mean(axis=1) >= Thresholds.adopt_gain
    hopeful = [t for t in range(trials) if gains[t] and survives_failure(differences[t], best[t])]
    trial_arms = (arms(np.full(n, 0.3), optimized[t], finetuned[t]) for t in hopeful)
    return sum(decide(scores, resamples=499).verdict == "ADOPT" for scores in trial_arms)


@pytest.mark.parametrize("n", [22, 200])
def test_no_true_difference_is_adopted_in_at_most_2_5_percent_of_2000_trials(n):
    assert count_adopted(n, 0.0, 2000, np.random.default_rng(n)) <= 0.025 * 2000


def rare_losses(share, loss):
    """Differences of mean 0: ``loss`` on a ``share`` of the items, made up for by equal gains on the others."""
    return lambda rng, shape: np.where(rng.random(shape) < share, -loss, share * loss / (1 - share))


SKEWED = {
    "negative exponential": lambda rng, shape: 0.15 * (1 - rng.exponential(1, shape)),
    "wide negative exponential, bounded": lambda rng, shape: np.maximum(0.3 * (1 - rng.exponential(1, shape)), -1),
    "negative lognormal": lambda rng, shape: 0.1 * (np.exp(0.5) - rng.lognormal(0, 1, shape)),
    "54 points on one in ten": rare_losses(0.10, 0.54),
    "94 points on one in ten": rare_losses(0.10, 0.94),
    "85 points on one in seven": rare_losses(0.15, 0.85),
    "85 points on one in twenty": rare_losses(0.05, 0.85),
    "85 points on one in fifty": rare_losses(0.02, 0.85),
}


@pytest.mark.parametrize("n", [22, 200])
@pytest.mark.parametrize("draw", SKEWED.values(), ids=SKEWED)
def test_skewed_differences_without_a_gain_are_adopted_in_at_most_2_5_percent(draw, n):
    """What has to hold beside interval and sign-flip test, which can only make it rarer."""
    differences = draw(np.random.default_rng(n), (20_000, n))
    claimed = survives_failure(differences, 1.0) & (differences.mean(axis=1) >= Thresholds.adopt_gain)
    assert claimed.mean() <= 0.025


def test_a_true_gain_of_ten_points_is_adopted_with_200_items():
    assert count_adopted(200, 0.10, 30, np.random.default_rng(4)) >= 0.90 * 30
