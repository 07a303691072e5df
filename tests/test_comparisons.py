"""Tests between contestants say what a count by hand says, and recover what was planted."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, t, wilcoxon

from bench import comparisons, stats

NAN = float("nan")


def test_superiority_counts_pairs_in_the_direction_of_the_metric_and_ties_as_half():
    first, second = np.array([[1.0, 2, 3], [NAN, 5, 4]]), np.array([[1.0, 1, 4], [0, NAN, 1]])
    assert comparisons.superiority(first, second, "higher") == pytest.approx(2.5 / 4)
    assert comparisons.superiority(first, second, "lower") == pytest.approx(1.5 / 4)
    assert np.isnan(comparisons.superiority(first[:0], second[:0], "higher"))


def test_the_last_digits_of_a_sum_make_nobody_superior():
    assert comparisons.superiority(np.array([0.1 + 0.2]), np.array([0.3]), "higher") == 0.5


@pytest.mark.parametrize("freedom", [None, 4.0])
def test_p_is_below_five_percent_where_the_interval_lacks_zero(freedom):
    generator = np.random.default_rng(1)
    drawn = generator.normal(generator.uniform(-5, 5, 400), 1.0, (2000, 400))
    p = comparisons.bootstrap_p(drawn, drawn.mean(axis=0), freedom=freedom)
    low, high = stats.interval(drawn, freedom=freedom)
    clear = np.abs(p - 0.05) > 0.003  # closer, an interpolated end and a count may differ
    np.testing.assert_array_equal((p < 0.05)[clear], ((low > 0) | (high < 0))[clear])
    assert 0.2 < (p < 0.05).mean() < 0.8


def test_p_is_never_zero_and_one_where_nothing_differs():
    drawn = np.stack([np.full(99, 3.0), np.zeros(99), np.full(99, NAN)], axis=1)
    for freedom, least in ((None, 2 / 100), (5.0, 1 / 100)):
        p = comparisons.bootstrap_p(drawn, drawn[0], freedom=freedom)
        np.testing.assert_allclose(p, [least, 1, NAN])


def test_a_t_interval_leaves_p_small_enough_for_holm_over_hundreds_of_pairs():
    drawn = np.random.default_rng(0).normal(10, 1, (2000, 300))
    counted = comparisons.bootstrap_p(drawn, 10.0)
    assert comparisons.holm(counted).min() > 0.05
    assert comparisons.holm(comparisons.bootstrap_p(drawn, 10.0, freedom=30.0)).max() < 0.05


def test_holm_multiplies_step_by_step_and_does_not_count_nan():
    np.testing.assert_allclose(
        comparisons.holm([0.04, NAN, 0.01, 0.03]), [0.06, NAN, 0.03, 0.06])
    assert comparisons.holm([]).shape == (0,)
    assert comparisons.holm([0.8, 0.9]).max() == 1
    assert np.isnan(comparisons.holm([NAN])).all()


def test_holm_is_bonferroni_of_every_set_of_hypotheses_closed():
    """Marcus, Peritz & Gabriel (1976): the largest Bonferroni p of any set that holds the one."""
    p = np.random.default_rng(5).uniform(0, 0.3, 6) ** 2
    sets = [chosen for n in range(1, 7) for chosen in combinations(range(6), n)]
    expected = [max(min(1, len(chosen) * p[list(chosen)].min()) for chosen in sets if i in chosen)
                for i in range(6)]
    np.testing.assert_allclose(comparisons.holm(p), expected)


def test_friedman_is_scipys_and_ranks_follow_the_direction():
    blocks = np.random.default_rng(0).normal([0, 0.5, 1], 1, (12, 3))
    found = comparisons.friedman(blocks, "higher")
    expected = friedmanchisquare(*blocks.T)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.powered
    assert found.n_blocks == 12
    lower = comparisons.friedman(blocks, "lower")
    np.testing.assert_allclose(found.mean_ranks + lower.mean_ranks, 4)
    assert found.mean_ranks.argmin() == 2


@pytest.mark.parametrize("shape", [(1, 4), (0, 3), (5, 2)])
def test_friedman_says_nothing_of_one_block_or_two_contestants(shape):
    found = comparisons.friedman(np.random.default_rng(0).normal(size=shape), "higher")
    assert np.isnan([found.statistic, found.p]).all()
    assert not found.powered
    assert found.mean_ranks.shape == shape[1:]


def test_friedman_of_equals_is_nan_and_not_a_warning():
    assert np.isnan(comparisons.friedman(np.ones((3, 3)), "higher").p)


def test_cliques_hold_neighbours_that_wilcoxon_and_holm_do_not_part():
    generator = np.random.default_rng(2)
    steps = generator.normal(0, 1, (14, 1)) + generator.normal([9, 0.0, 0.0, 5], 0.3, (14, 4))
    (found,) = comparisons.cliques(steps, "higher")
    assert set(found) == {1, 2}
    assert comparisons.cliques(-steps, "lower") == [found]
    assert comparisons.cliques(steps[:9], "higher") == []


@pytest.mark.parametrize("digits", [6, 0])
def test_cliques_are_those_of_every_neighbouring_group_tried_out(digits):
    """Without ties the p-values are exact; rounded to whole numbers they are approximate."""
    generator, overlaps = np.random.default_rng(3), 0
    method = "exact" if digits else "approx"
    for _ in range(6):
        blocks = np.round(generator.normal(generator.uniform(0, 1.5, 5), 1, (12, 5)), digits)
        pairs = list(combinations(range(5), 2))
        first, second = (blocks[:, list(side)] for side in zip(*pairs, strict=True))
        p = wilcoxon(first, second, method=method, axis=0).pvalue
        adjusted = dict(zip(pairs, comparisons.holm(p), strict=True))
        order = np.argsort(comparisons.friedman(blocks, "higher").mean_ranks, kind="stable")
        groups = [set(order[a:b].tolist()) for a in range(5) for b in range(a + 2, 6)]
        same = [g for g in groups if all(
            p >= 0.05 for (i, j), p in adjusted.items() if {i, j} <= g)]
        largest = [g for g in same if not any(g < other for other in same)]
        found = comparisons.cliques(blocks, "higher")
        assert sorted(map(sorted, found)) == sorted(map(sorted, largest))
        overlaps += len(found) > 1
    assert overlaps > 0


def test_equal_columns_are_one_clique():
    assert comparisons.cliques(np.tile(np.arange(12.0)[:, None], 3), "higher") == [(0, 1, 2)]


def test_first_shares_sum_to_one_and_ties_share():
    ranks = np.array([[1, 2, 3, NAN], [1.5, 1.5, 3, NAN], [2, 3, 1, NAN], [NAN] * 4])
    np.testing.assert_allclose(comparisons.first_shares(ranks), [0.5, 1 / 6, 1 / 3, NAN])
    assert comparisons.first_shares(np.zeros((5, 0))).shape == (0,)


def test_agreement_is_the_order_of_those_that_both_have():
    first = np.array([1, 2, 3, NAN, 5.0])
    assert comparisons.agreement(first, first**2) == 1
    assert comparisons.agreement(first, -first) == -1
    assert comparisons.agreement(first, np.array([1, 3, 2, 9, 5.0])) == pytest.approx(4 / 6)
    assert np.isnan(comparisons.agreement(first, np.array([1, NAN, NAN, 9, NAN])))


def crossed(generator, sizes, spread):
    """Scores (C, S, N, K) of crossed effects with a standard deviation for each set of axes."""
    total = np.zeros(sizes)
    for axes, sd in spread.items():
        shape = [n if str(axis) in axes else 1 for axis, n in enumerate(sizes)]
        total = total + generator.normal(0, sd, shape)
    return total


def test_components_find_the_planted_variances_in_the_mean():
    generator, found = np.random.default_rng(4), []
    spread = {"0": 1.0, "1": 0.5, "01": 0.6, "2": 0.8, "02": 0.7, "12": 0.4, "012": 0.9,
              "0123": 0.5}
    for _ in range(200):
        values = crossed(generator, (8, 6, 20, 3), spread)
        found.append(list(comparisons.components(values).values()))
    expected = [1.0, 0.25 + 0.36, 0.64 + 0.49, 0.25, 0.16 + 0.81]
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - expected) < 4 * error).all()
    assert (error < 0.06).all()


def test_components_of_one_seed_name_no_seed_and_of_one_contestant_no_contestant():
    values = crossed(np.random.default_rng(5), (6, 4, 30, 1), {"0": 1, "1": 1, "2": 1, "012": 1})
    one = comparisons.components(values[:, :1, :, 0])
    assert np.isnan([one["seed"], one["draw"]]).all()
    assert all(np.isfinite([one["contestant"], one["image"], one["rest"]]))
    alone = comparisons.components(values[:1, :, :, 0])
    assert np.isnan(alone["contestant"])
    # Two crossed factors by their textbook mean squares.
    cell = values[0, :, :, 0]
    apart, along = cell.mean(1, keepdims=True), cell.mean(0, keepdims=True)
    rest = ((cell - apart - along + cell.mean()) ** 2).sum() / (3 * 29)
    assert alone["rest"] == pytest.approx(rest)
    assert alone["seed"] == pytest.approx((30 * apart.var(ddof=1) - rest) / 30)
    assert alone["image"] == pytest.approx((4 * along.var(ddof=1) - rest) / 4)


def test_components_leave_out_images_that_lack_a_value_and_are_never_negative():
    values = np.random.default_rng(6).normal(size=(4, 3, 9))
    whole = comparisons.components(values[:, :, 1:])
    values[2, 1, 0] = NAN
    assert comparisons.components(values) == pytest.approx(whole, nan_ok=True)
    none = comparisons.components(np.tile([[[0.0], [1]], [[1], [0]]], 5))  # interaction alone
    assert (none["contestant"], none["image"]) == (0, 0)
    assert np.isnan(list(comparisons.components(values[:, :, :2]).values())).all()


def test_needed_images_of_one_seed_are_the_smallest_sample_of_a_t_test():
    difference = np.random.default_rng(7).normal(0.2, 1, (1, 40))
    mean, sd = difference.mean(), difference.std(ddof=1)
    smallest = next(n for n in range(2, 10**5)
                    if abs(mean) > t.ppf(0.975, n - 1) * sd / np.sqrt(n))
    assert comparisons.needed(difference) == smallest


def test_no_number_of_images_helps_where_seeds_disagree_or_nothing_differs():
    generator = np.random.default_rng(8)
    noise = generator.normal(0, 0.1, (3, 50))
    assert comparisons.needed(noise + np.array([[1.0], [-0.8], [0.1]])) == np.inf
    assert comparisons.needed(np.zeros((3, 50))) == np.inf
    assert np.isnan(comparisons.needed(noise[:, :1]))
    assert comparisons.needed(np.full((3, 50), 2.0)) == 2


def test_a_gap_half_as_large_needs_about_four_times_the_images():
    values = np.random.default_rng(9).normal(0, 1, (4, 200))
    values -= values.mean(axis=1, keepdims=True)
    far, near = (comparisons.needed(values + gap) for gap in (0.1, 0.05))
    assert near / far == pytest.approx(4, rel=0.1)


def test_calibration_error_is_the_weighed_gap_of_each_bin():
    confidence = np.array([0.95, 0.99, 0.97, 0.41, 0.45, NAN])
    right = np.array([1.0, 1, 0, 1, 0, 1])
    # 0.41 and 0.45 lie in the bins up to 7/15; the other three in the last.
    expected = (abs(2 - 2.91) + abs(1 - 0.86)) / 5
    assert comparisons.calibration_error(confidence, right) == pytest.approx(expected)
    assert comparisons.calibration_error(np.ones(4), np.ones(4)) == 0
    assert comparisons.calibration_error(np.zeros(4), np.zeros(4)) == 0
    assert np.isnan(comparisons.calibration_error(np.full(2, NAN), np.ones(2)))
