"""The table of coverage is what the simulation gives, and says why the t interval is used."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bench import coverage, stats
from bench.panel import Panel


def cell(shape, seeds, units):
    (found,) = (one for one in coverage.stored()["cells"]
                if (one["shape"], one["seeds"], one["units"]) == (shape, seeds, units))
    return found


@pytest.mark.parametrize(("shape", "seeds", "units"), [("normal", 3, 4), ("0/1", 5, 10)])
def test_a_cell_simulated_again_agrees_within_the_monte_carlo_error(shape, seeds, units):
    repeats, methods = 400, ("percentile", coverage.CHOSEN)
    again = coverage.simulate(
        seeds, units, shape=shape, methods=methods, repeats=repeats, draws=1000, run=1)
    for method in methods:
        share = cell(shape, seeds, units)["coverage"][method]
        error = np.sqrt(share * (1 - share) * (1 / repeats + 1 / coverage.stored()["repeats"]))
        assert abs(again[method].share - share) < 4 * error + 0.002
        assert again[method].width == pytest.approx(
            cell(shape, seeds, units)["width"][method], rel=0.15)


@pytest.mark.parametrize("shape", coverage.SHAPES)
def test_three_seeds_of_four_patients_undercover_by_percentiles_and_not_as_chosen(shape):
    found = cell(shape, 3, 4)["coverage"]
    assert found["percentile"] < 0.92
    assert found[coverage.CHOSEN] > 0.95


def test_the_table_has_every_cell_once_and_was_made_with_the_present_settings():
    table = coverage.stored()
    assert (table["shares"], table["chosen"]) == (coverage.SHARES, coverage.CHOSEN)
    assert sum(table["shares"].values()) == pytest.approx(1)
    assert min(table["shares"].values()) > 0
    cells = [(one["shape"], one["seeds"], one["units"]) for one in table["cells"]]
    assert cells == list(product(coverage.SHAPES, coverage.SEEDS, coverage.UNITS))
    assert all(set(one["coverage"]) == set(coverage.METHODS) for one in table["cells"])


def test_the_chosen_interval_falls_short_the_least():
    """Of all methods, over all cells of at least four patients."""
    short = {method: np.mean([max(0, 0.95 - one["coverage"][method])
                              for one in coverage.stored()["cells"] if one["units"] >= 4])
             for method in coverage.METHODS}
    assert min(short, key=short.get) == coverage.CHOSEN
    assert short[coverage.CHOSEN] < short["percentile"] / 4


def test_expected_coverage_is_the_tables_and_lies_between_where_it_is_interpolated():
    shapes = [cell(shape, 3, 10)["coverage"][coverage.CHOSEN] for shape in coverage.SHAPES]
    assert coverage.expected(3, 10) == pytest.approx(np.mean(shapes))
    for low, high, between in (((3, 10), (5, 10), (4, 10)), ((5, 10), (5, 50), (5, 30))):
        ends = sorted([coverage.expected(*low), coverage.expected(*high)])
        assert ends[0] <= coverage.expected(*between) <= ends[1]
    assert coverage.expected(99, 9999) == coverage.expected(10, 200)
    assert np.isnan([coverage.expected(3, 1), coverage.expected(0, 5)]).all()


def test_the_truth_of_one_seed_is_that_trainings_own_mean():
    """Over all trainings a single one says nothing, and would be covered far less often."""
    found = coverage.simulate(1, 50, repeats=200, draws=500)
    assert found[coverage.CHOSEN].share > 0.89
    generator = np.random.default_rng(0)
    values, truth = coverage._world(generator, 500, 1, 50, 5, "normal")
    assert np.std(truth) == pytest.approx(np.sqrt(coverage.SHARES["seed"]), rel=0.15)
    assert np.corrcoef(values.mean(axis=(1, 2)), truth)[0, 1] > 0.9


@pytest.mark.parametrize("shape", coverage.SHAPES)
def test_simulated_scores_have_the_mean_that_counts_as_their_truth(shape):
    values, truth = coverage._world(np.random.default_rng(1), 400, 5, 20, 3, shape)
    gap = values.mean(axis=(1, 2)) - (truth if shape != "0/1" else 0.8)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))


def test_the_components_interval_is_the_textbooks_for_one_seed():
    values = np.random.default_rng(2).normal(size=(3, 1, 8))
    low, high = coverage.METHODS["components"](values, values)
    np.testing.assert_allclose((high - low) / 2, 2.364624 * values[:, 0].std(1, ddof=1) / 8**0.5,
                               rtol=1e-6)


def of_ranks(shape, seeds, units, spread, contestants=8, metrics=1):
    (found,) = (one for one in coverage.stored()["ranks"]["cells"]
                if (one["shape"], one["seeds"], one["units"], one["spread"]) == (
                    shape, seeds, units, spread)
                and (one["contestants"], one["metrics"]) == (contestants, metrics))
    return found


@pytest.mark.parametrize(("contestants", "metrics"), [(8, 1), (8, 3), (20, 1)])
def test_a_cell_of_ranks_simulated_again_agrees(contestants, metrics):
    again = coverage.simulate_ranks(3, 4, spread=0.7, contestants=contestants, metrics=metrics,
                                    repeats=480 // contestants, draws=400, run=1)
    for method in coverage.RANK_METHODS:
        found = of_ranks("normal", 3, 4, 0.7, contestants, metrics)
        assert again[method].share == pytest.approx(found["coverage"][method], abs=0.06)
        assert again[method].width == pytest.approx(found["width"][method], rel=0.15)


def test_the_table_of_ranks_has_every_cell_once():
    table = coverage.stored()["ranks"]
    assert (table["common"], table["chosen"]) == (coverage.COMMON, coverage.RANK_CHOSEN)
    axes = ("contestants", "metrics", "shape", "seeds", "units", "spread")
    assert [tuple(one[axis] for axis in axes) for one in table["cells"]] == list(product(
        coverage.RANKED, coverage.METRICS, coverage.SHAPES, coverage.SEEDS, coverage.RANK_UNITS,
        coverage.SPREADS))
    assert all(set(one["coverage"]) == set(coverage.RANK_METHODS) for one in table["cells"])


def test_ranks_of_widened_draws_fall_short_far_less_than_those_of_plain_ones():
    cells = coverage.stored()["ranks"]["cells"]
    short = {method: np.mean([max(0, 0.95 - one["coverage"][method]) for one in cells])
             for method in coverage.RANK_METHODS}
    assert short[coverage.RANK_CHOSEN] < short["percentile"] / 4
    error = np.sqrt(0.05 * 0.95 / coverage.stored()["ranks"]["ranks"])
    assert all(one["coverage"][coverage.RANK_CHOSEN] >= one["coverage"]["percentile"] - 2 * error
               for one in cells)


@pytest.mark.parametrize(("seeds", "units", "least"), [(5, 200, 0), (1, 4, -1)])
def test_ranks_are_expected_to_be_covered_as_by_the_worst_spread(seeds, units, least):
    mean = [np.mean([of_ranks(shape, seeds, units, spread)["coverage"][coverage.RANK_CHOSEN]
                     for shape in coverage.SHAPES]) for spread in coverage.SPREADS]
    assert coverage.expected_of_ranks(seeds, units) == pytest.approx(min(mean))
    assert min(mean) == mean[least]


def test_between_and_beyond_the_table_ranks_are_covered_as_beside_it():
    expected = coverage.expected_of_ranks
    assert expected(99, 9999) == expected(10, 200)
    assert expected(3, 2) == expected(3, 4)
    assert np.isnan([expected(3, 1), expected(0, 5)]).all()
    for metrics in (1, 3):
        few, many = expected(5, 50, 8, metrics), expected(5, 50, 20, metrics)
        assert few != many
        assert min(few, many) < expected(5, 50, 12, metrics) < max(few, many)
        assert (expected(5, 50, 0, metrics), expected(5, 50, 99, metrics)) == (few, many)
    assert expected(5, 50, 8, 2) == expected(5, 50, 8, 3) != expected(5, 50, 8, 1)


def test_metrics_of_a_family_have_half_of_what_varies_in_common():
    values, truth = coverage._world(
        np.random.default_rng(5), 4000, 2, 5, 3, "normal", metrics=2)
    one, two = (values - truth[:, None, None]).reshape(2, -1)
    assert np.corrcoef(one, two)[0, 1] == pytest.approx(coverage.COMMON, abs=0.03)
    assert np.var(one) == pytest.approx(np.var(two), rel=0.05)


def test_a_familys_rank_is_that_of_the_mean_of_its_ranks():
    values = np.array([[[3.0, 2.0, 1.0]], [[3.0, 1.0, 2.0]]])
    assert coverage._placed(values).tolist() == [[1, 2.5, 2.5]]
    assert coverage._placed(values[:1]).tolist() == [[1, 2, 3]]


def test_what_is_simulated_of_ranks_is_widened_as_a_panel_widens_it():
    """By one factor for all contestants of a data set, from the fewest degrees of freedom."""
    values = np.random.default_rng(3).normal(size=(2, 4, 3, 6))
    drawn = stats.means(values, stats.draws(3, range(6), "panel", n=50))
    wide = coverage.RANK_METHODS[coverage.RANK_CHOSEN](values, drawn)
    for i in range(2):
        panel = Panel("one", list("abcd"), [0, 1, 2], list("uvwxyz"), {"m": values[i]}, {},
                      stats.draws(3, range(6), "panel", n=50), list("uvwxyz"), 0, {})
        np.testing.assert_allclose(panel.ranking("m", range(4)), wide[:, i])


@pytest.mark.parametrize("shape", coverage.SHAPES)
def test_contestants_are_simulated_with_the_means_that_count_as_true(shape):
    steps = np.repeat([0.0, 0.5], 300)
    values, truth = coverage._world(np.random.default_rng(4), 600, 5, 20, 3, shape, steps)
    gap = (values.mean(axis=(1, 2)) - truth).reshape(2, 300)
    assert (np.abs(gap.mean(1)) < 4 * gap.std(1) / np.sqrt(300)).all()
    assert truth[300] - truth[0] > 0.05
