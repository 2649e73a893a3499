"""Intervals, p-values and power against scipy, closed forms and enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from common.power import (
    items_needed,
    smallest_detectable_difference,
    smallest_surviving_difference,
    survives_failure,
)
from common.statistics import PairedTest, lowest_rate_of_all_passed, mean_interval, rate_interval, summarise

RNG = np.random.default_rng(20)
DIFFERENCES = RNG.normal(0.08, 0.15, 22)


def paired(differences, **options) -> PairedTest:
    return PairedTest("finetuned", "optimized", np.asarray(differences, dtype=float), **options)


def test_summary_of_known_scores():
    scores = [0.2, 0.4, 0.8, 0.9, 1.0]
    summary = summarise(scores)
    assert summary["n"] == 5
    assert summary["mean"] == pytest.approx(0.66)
    assert summary["median"] == 0.8 and (summary["min"], summary["max"]) == (0.2, 1.0)
    assert summary["sd"] == pytest.approx(math.sqrt(((0.46**2) + 0.26**2 + 0.14**2 + 0.24**2 + 0.34**2) / 4))
    assert [summary[name]["count"] for name in ("pass_at_0.8", "pass_at_0.9", "perfect")] == [3, 2, 1]
    assert summary["pass_at_0.8"]["rate"] == 0.6


def test_a_mean_of_sevenths_that_adds_up_to_the_mark_passes_it():
    assert summarise([sum([1 / 7] * 7), 0.0])["perfect"]["count"] == 1  # 0.9999999999999998


@pytest.mark.parametrize(("k", "n"), [(0, 22), (19, 22), (22, 22), (1, 3)])
def test_wilson_interval_is_the_closed_form(k, n):
    z = stats.norm.ppf(0.975)
    p, centre_shift = k / n, z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    interval = rate_interval(k, n)
    assert interval.low == pytest.approx((p + centre_shift - half) / (1 + z * z / n), abs=1e-12)
    assert interval.high == pytest.approx((p + centre_shift + half) / (1 + z * z / n), abs=1e-12)


def test_22_of_22_shows_only_84_6_percent():
    assert lowest_rate_of_all_passed(22) == pytest.approx(0.846, abs=5e-4)
    assert lowest_rate_of_all_passed(22) == pytest.approx(stats.binomtest(22, 22).proportion_ci(0.95, "exact").low)


def test_bca_interval_is_scipys_and_repeats_with_its_seed():
    ours = mean_interval(DIFFERENCES, resamples=999, seed=3)
    theirs = stats.bootstrap((DIFFERENCES,), np.mean, n_resamples=999, rng=np.random.default_rng(3)).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours == mean_interval(DIFFERENCES, resamples=999, seed=3)
    assert ours != mean_interval(DIFFERENCES, resamples=999, seed=4)
    assert "BCa" in ours.method


def test_bca_interval_is_near_the_t_interval_for_normal_differences():
    differences = np.random.default_rng(1).normal(0, 1, 400)
    interval = mean_interval(differences)
    low, high = stats.t.interval(0.95, 399, differences.mean(), stats.sem(differences))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.01)


@pytest.mark.parametrize("value", [0.0, 0.125])
def test_equal_differences_have_a_point_for_an_interval_and_say_so(value):
    test = paired([value] * 22)
    assert (test.interval.low, test.interval.high) == (value, value)
    assert "no spread" in test.interval.method
    assert test.cohens_d is None and test.as_dict()["smallest_detectable_difference"] is None


def test_one_odd_difference_still_gets_a_finite_interval():
    interval = mean_interval([0.0] * 21 + [0.3])
    assert 0.0 <= interval.low <= interval.high <= 0.3


def test_sign_flip_p_is_the_enumerated_one():
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.0, 0.25, -0.1])
    flips = np.array(list(itertools.product((1, -1), repeat=8)))
    means = (flips * differences).mean(axis=1)
    share = min((means >= differences.mean() - 1e-12).mean(), (means <= differences.mean() + 1e-12).mean())
    assert paired(differences).p_value == pytest.approx(2 * share)
    assert paired(differences).as_dict()["sign_flip_method"] == "exact"


def test_sign_flip_p_by_monte_carlo_is_near_the_exact_one():
    differences = DIFFERENCES[:12]
    exact = paired(differences, resamples=5000).p_value
    sampled = paired(differences, resamples=4000).p_value
    assert exact != sampled and sampled == pytest.approx(exact, abs=0.03)


def test_all_equal_positive_differences_get_the_smallest_p_there_is():
    assert paired([0.1] * 10).p_value == pytest.approx(2 / 2**10)
    assert paired([0.0] * 10).p_value == 1.0


def test_p_against_a_bound_shifts_the_differences():
    assert paired(DIFFERENCES).p_against(0.05) == paired(DIFFERENCES - 0.05).p_value


def test_wilcoxon_is_scipys_and_cohens_d_is_mean_over_sd():
    test = paired(DIFFERENCES)
    assert test.wilcoxon_p == pytest.approx(stats.wilcoxon(DIFFERENCES).pvalue)
    assert test.cohens_d == pytest.approx(DIFFERENCES.mean() / DIFFERENCES.std(ddof=1))
    assert paired([0.0] * 5).wilcoxon_p == 1.0


def test_wins_ties_and_losses_ignore_rounding():
    result = paired([0.1, 1e-17, -0.2, 0.3]).as_dict()
    assert (result["wins"], result["ties"], result["losses"]) == (2, 1, 1)


def test_the_detectable_difference_is_found_with_about_80_percent_power():
    n, sd = 30, 0.15
    difference = smallest_detectable_difference(sd, n)
    samples = np.random.default_rng(5).normal(difference, sd, (20_000, n))
    found = (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.80, abs=0.015)


def test_items_needed_is_the_least_n_that_detects():
    for difference in (0.02, 0.05, 0.2, 1.0):
        n = items_needed(0.15, difference)
        assert smallest_detectable_difference(0.15, n) <= difference
        assert n == 2 or smallest_detectable_difference(0.15, n - 1) > difference
    assert items_needed(0.15, 0.05) == pytest.approx((1.96 + 0.8416) ** 2 * 9, rel=0.05)
    assert items_needed(0.15, 0.0) is None and items_needed(0.0, 0.1) == 2


def test_pairing_refuses_what_cannot_be_paired():
    with pytest.raises(ValueError, match="two items"):
        PairedTest.of("a", "b", {"a": [1.0], "b": [0.5]})
    with pytest.raises(ValueError):
        PairedTest.of("a", "b", {"a": [1.0, 0.5, 0.2], "b": [0.5, 0.5]})


def test_one_more_failed_item_is_the_t_test_of_the_longer_sample():
    longer = [*DIFFERENCES, -0.9]
    low = stats.t.interval(0.95, 22, np.mean(longer), stats.sem(longer))[0]
    assert survives_failure(DIFFERENCES, 0.9, low - 1e-9) and not survives_failure(DIFFERENCES, 0.9, low + 1e-9)
    rows = np.stack([DIFFERENCES, DIFFERENCES + 0.5])
    assert survives_failure(rows, 0.9, 0.05).tolist() == [
        paired(row, failure=0.9).survives_failure(0.05) for row in rows
    ]


def test_a_failure_costs_the_best_score_of_the_old_arm():
    test = PairedTest.of("b", "a", {"a": [0.5, 0.8, 0.2], "b": [1.0, 1.0, 1.0]})
    assert test.failure == 0.8


@pytest.mark.parametrize(("n", "sd"), [(22, 0.15), (200, 0.15), (40, 0.05)])
def test_the_surviving_difference_survives_with_about_80_percent_power(n, sd):
    difference = smallest_surviving_difference(sd, n, 1.0)
    samples = np.random.default_rng(6).normal(difference, sd, (20_000, n))
    assert survives_failure(samples, 1.0).mean() == pytest.approx(0.80, abs=0.03)


def test_items_to_settle_are_enough_for_a_claim_that_survives():
    test = paired(np.tile([0.04, 0.10], 11), failure=0.9)
    n = test.items_to_settle(0.0)
    assert n > items_needed(test.sd, test.mean)
    assert smallest_surviving_difference(test.sd, n, 0.9) <= test.mean


def test_a_comparison_of_more_than_a_thousand_items_can_be_reported():
    test = PairedTest.of("new", "old", {"new": [1.0, 0.5] * 550, "old": [0.0, 0.5] * 550}, resamples=99)
    found = test.as_dict()
    assert (found["n"], found["wins"], found["sign_flip_method"]) == (1100, 550, "Monte Carlo, 99 resamples")
