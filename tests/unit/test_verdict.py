"""The verdict rule: each verdict on made-up scores, and its error rates by simulation."""

import numpy as np
import pytest

from common.comparison.thresholds import Thresholds
from common.comparison.verdict import VERDICTS, decide

RNG = np.random.default_rng(8)


def arms(baseline, optimized, finetuned) -> dict:
    return {"baseline": list(baseline), "optimized": list(optimized), "finetuned": list(finetuned)}


def around(mean, spread=0.01, n=22) -> np.ndarray:
    noise = RNG.normal(0, spread, n)
    return mean + noise - noise.mean()


@pytest.mark.parametrize(
    ("scores", "verdict", "reason"),
    [
        (arms(around(0.6), around(0.8), around(0.95)), "ADOPT", "reaches the target"),
        (arms(around(0.6), around(0.93), around(0.95)), "KEEP_OPTIMIZED", "rule out a gain"),
        (arms(around(0.6), around(0.93), around(0.90)), "KEEP_OPTIMIZED", "Overfitting"),
        (arms(around(0.6), around(0.61), around(0.8)), "KEEP_OPTIMIZED", "misses the target"),
        (arms(around(0.65), around(0.6), around(0.8)), "KEEP_BASELINE", "misses the target"),
        (arms(around(0.92), around(0.93), around(0.94)), "KEEP_BASELINE", "rule out a gain"),
        (arms(around(0.6), around(0.88, 0.3), around(0.95, 0.3)), "INCONCLUSIVE", "chance"),
        (arms(around(0.6), around(0.90, 0.3), around(0.93, 0.3)), "INCONCLUSIVE", "do not rule out"),
        (arms(around(0.90, 0.3), around(0.91, 0.3), around(0.92, 0.3)), "INCONCLUSIVE", "do not rule out"),
        (arms(around(0.4), around(0.5), around(0.89, 0.2)), "INCONCLUSIVE", "reaches the target"),
    ],
)
def test_each_verdict_and_its_reason(scores, verdict, reason):
    decision = decide(scores)
    assert decision.verdict == verdict
    assert reason in " ".join(decision.reasons)
    assert (decision.items_needed is not None) == (verdict == "INCONCLUSIVE")
    if decision.items_needed:
        assert decision.items_needed > 22


def test_notes_say_how_little_22_items_can_show():
    notes = " ".join(decide(arms(around(0.6), around(0.8), around(0.95))).notes)
    assert "84.6 %" in notes and "80 % power" in notes


def test_notes_of_equal_and_useless_arms_promise_nothing():
    notes = " ".join(decide(arms([0.0] * 22, [0.0] * 22, [0.0] * 22)).notes)
    assert "80 % power" not in notes and "all equal" in notes and "No arm does the task" in notes
    assert "No arm" not in " ".join(decide(arms(around(0.6), around(0.8), around(0.95))).notes)


def test_a_prompt_that_harms_does_not_make_the_tuned_model_look_good():
    decision = decide(arms(around(0.95), around(0.7), around(0.96)))
    assert decision.verdict == "KEEP_BASELINE"


def test_thresholds_are_met_exactly_in_spite_of_rounding():
    optimized = np.tile([0.84, 0.86], 11)
    finetuned = np.tile([0.88, 0.92], 11)  # mean 0.90 and gain 0.05, both up to rounding
    assert decide(arms(around(0.5), optimized, finetuned)).verdict == "ADOPT"
    assert decide(arms(around(0.5), optimized, finetuned), Thresholds(adopt_gain=0.051)).verdict != "ADOPT"
    assert decide(arms(around(0.5), optimized, finetuned), Thresholds(adopt_score=0.901)).verdict != "ADOPT"


@pytest.mark.parametrize("gain", [0.0, 0.05, -0.05])
@pytest.mark.parametrize("scores", [around(0.95), np.ones(22), np.zeros(22), [0.9, 1.0]])
def test_an_arm_against_itself_is_never_adopted(scores, gain):
    decision = decide(arms(scores, scores, scores), Thresholds(adopt_gain=gain, adopt_score=0.0))
    assert decision.verdict in VERDICTS and decision.verdict != "ADOPT"


def test_few_items_are_never_enough_to_adopt():
    for n in (2, 3, 4, 5):
        assert decide(arms([0.0] * n, [0.0] * n, [1.0] * n)).verdict == "INCONCLUSIVE"
    assert decide(arms([0.0] * 8, [0.0] * 8, [1.0] * 8)).verdict == "ADOPT"


def share_adopted(n, true_difference, trials, thresholds, rng) -> float:
    """Simulate trials of n items whose paired differences are normal with sd 15 points; all else favours adoption."""
    adopted = 0
    for trial in range(trials):
        finetuned = rng.normal(0.98, 0.05, n)
        optimized = finetuned - rng.normal(true_difference, 0.15, n)
        scores = arms(np.full(n, 0.3), optimized, finetuned)
        adopted += decide(scores, thresholds, resamples=499, seed=trial).verdict == "ADOPT"
    return adopted / trials


@pytest.mark.parametrize("n", [22, 200])
def test_no_true_difference_is_adopted_in_at_most_2_5_percent_of_2000_trials(n):
    assert share_adopted(n, 0.0, 2000, Thresholds(), np.random.default_rng(n)) <= 0.025


def test_the_evidence_alone_keeps_that_rate_without_a_least_gain():
    share = share_adopted(22, 0.0, 1000, Thresholds(adopt_gain=0.0), np.random.default_rng(3))
    assert 0.005 < share <= 0.025


def test_a_true_gain_of_ten_points_is_adopted_with_200_items():
    assert share_adopted(200, 0.10, 300, Thresholds(), np.random.default_rng(4)) >= 0.90
