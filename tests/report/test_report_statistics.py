"""How often an interval holds the truth and a best mark lies, by simulation; and the formulas, worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from hpcseg.report.tables import needed
from hpcseg.statistics import (
    Estimate,
    Repetition,
    best,
    counted,
    difference,
    estimate,
    of_setting,
    shown_of,
    slope,
)

SLICES = np.arange(336, 392)
"""The 56 test slices of the real blocked split at its first position."""
CORRELATIONS = (0.62, 0.73)
"""At lag 1 of what one training gains over another in a clean slice; powers of it farther away (results/seeds)."""
HANGING_TOGETHER = (0.90, 0.92)
"""The same of accuracy itself, and of what training noise gains at sigma 5000: 0.5 at lag 8, as measured."""
RATIOS = (0.3, 60.0)
"""Variance of a mean from other trainings, over that from other slices: half of those of three seeds lie in 1 to 55."""
PIXELS = np.full(len(SLICES), 16_384.0)


def drawn_gains(
    draws: int,
    repetitions: int,
    rng: np.random.Generator,
    correlations: tuple[float, float] = CORRELATIONS,
    ratios: tuple[float, float] = RATIOS,
) -> np.ndarray:
    """(draws, repetitions, slices) gains with mean 0: half of a slice's part is the same for all repetitions."""
    gains = np.empty((draws, repetitions, len(SLICES)))
    for index, correlation in enumerate(correlations):
        matrix = correlation ** np.abs(SLICES[:, None] - SLICES[None]).astype(float)
        root, half = np.linalg.cholesky(matrix), slice(index, None, len(correlations))
        shape = gains[half].shape
        common, own = rng.standard_normal((shape[0], 1, shape[2])), rng.standard_normal(shape)
        variance = matrix.mean() * (0.5 + 0.5 / repetitions)
        ratio = np.exp(rng.uniform(*np.log(ratios), (shape[0], 1, 1)))
        seeds = rng.standard_normal((*shape[:2], 1)) * np.sqrt(ratio * variance * repetitions)
        gains[half] = np.sqrt(0.5) * (common + own) @ root.T + seeds
    return gains


def of_gains(gains: np.ndarray) -> list[Repetition]:
    """(repetitions, slices) gains, in thousands of pixels, as repetitions."""
    return [counted(seed, 0, SLICES, 12_000 + 100 * gain, PIXELS) for seed, gain in enumerate(gains)]


@pytest.mark.parametrize("repetitions", [3, 5, 10])
def test_an_interval_of_95_per_cent_holds_the_truth_in_at_least_93(repetitions):
    draws, truth = 1500, 12_000 / PIXELS[0]
    rng = np.random.default_rng(repetitions)
    found = [estimate(of_gains(gains)) for gains in drawn_gains(draws, repetitions, rng)]
    covered = np.mean([abs(one.mean - truth) <= one.half for one in found])
    # Two standard errors of the share itself have to fit in between.
    assert covered - 2 * math.sqrt(covered * (1 - covered) / draws) >= 0.93
    # Not by being boundless: were each variance known, the interval of three would be less than three times narrower.
    assert covered < 0.995


def covered_share(gains: np.ndarray, place: Callable[[int], int], slices: Callable[[int], np.ndarray]) -> float:
    """How often the interval of (draws, repetitions, slices) gains holds their mean, 0."""
    truth, covered = 12_000 / PIXELS[0], 0
    for drawn in gains:
        ones = [counted(n, place(n), slices(n), 12_000 + 100 * one, PIXELS) for n, one in enumerate(drawn)]
        found = estimate(ones)
        covered += abs(found.mean - truth) <= found.half
    return covered / len(gains)


def test_a_second_record_of_a_training_is_no_repetition_nor_does_it_lose_its_line():
    once = [Repetition(0, 0, 0.90), Repetition(0, 1, 0.94)]
    twice = [*once, Repetition(0, 0, 0.90)]
    assert estimate(twice) == estimate(once) and estimate(twice).half is None
    assert slope({"one": {x: [Repetition(0, 0, x), Repetition(0, 0, x)] for x in (0.0, 1.0)}}).values == (1.0,)


def test_slices_that_hang_together_take_several_positions_of_the_blocks():
    draws, rng = 1000, np.random.default_rng(5)
    # What is hard in a slice is so for each training. Three of four, and 91 of 100, says results/README.md.
    for correlations, least, most in ((HANGING_TOGETHER, 0.7, 0.82), (CORRELATIONS, 0.88, 0.94)):
        gains = np.repeat(drawn_gains(draws, 1, rng, correlations, (1e-6, 1e-6)), 3, axis=1)
        assert least < covered_share(gains, lambda _: 0, lambda _: SLICES) < most
    # A stretch of slices for each training.
    stretches = np.stack([drawn_gains(draws, 1, rng, HANGING_TOGETHER)[:, 0] for _ in range(3)], axis=1)
    apart = covered_share(stretches, lambda n: n, lambda n: SLICES + 100 * n)
    assert apart - 2 * math.sqrt(apart * (1 - apart) / draws) >= 0.93


@pytest.mark.parametrize(("numbers", "taken"), [((3, 1), 3), ((3, 3, 2, 2, 2), 6), ((10, 4), 14), ((8, 3, 3), 14)])
def test_a_mean_over_settings_with_more_and_fewer_repetitions_covers(numbers, taken):
    draws, rng, covered = 2000, np.random.default_rng(sum(numbers)), 0
    for _ in range(draws):
        of_seed = 0.003 * rng.standard_normal(max(numbers))
        drawn = [0.3 * place + of_seed[:n] + 0.01 * rng.standard_normal(n) for place, n in enumerate(numbers)]
        found = estimate([one for place, of in enumerate(drawn) for one in of_setting(plain(*of), place)])
        kept = [(place, n) for place, n in enumerate(numbers) if n >= 3]
        truth = sum(0.3 * place * n for place, n in kept) / sum(n for _, n in kept)
        covered += abs(found.mean - truth) < found.half
    assert len(found.values) == taken, "those without repetitions enough are left out"
    assert covered / draws > 0.93


@pytest.mark.parametrize("settings", [2, 5])
def test_settings_that_a_mean_is_taken_over_are_no_repetitions(settings):
    draws, rng = 2000, np.random.default_rng(settings)
    of_seed, own = 0.01 * rng.standard_normal((draws, 3, 1)), 0.003 * rng.standard_normal((draws, 3, settings))
    values = 0.5 + 0.3 * np.arange(settings) + of_seed + own
    truth, covered, halves = 0.5 + 0.15 * (settings - 1), 0, []
    for drawn in values:
        found = estimate([one for n in range(settings) for one in of_setting(plain(*drawn[:, n]), n)])
        covered += abs(found.mean - truth) <= found.half
        halves.append(found.half)
    assert covered / draws - 2 * math.sqrt(0.95 * 0.05 / draws) >= 0.93
    assert np.mean(halves) < 0.04, "how far the settings are apart is not in it: by t of 2, 4.3 * 0.01 / sqrt 3"
    assert estimate([one for n in range(settings) for one in of_setting(plain(0.5, 0.6), n)]).half is None


@pytest.mark.parametrize("repetitions", [3, 5, 10])
def test_of_five_equal_settings_one_is_called_the_best_in_at_most_6_per_cent(repetitions):
    draws = 200
    rng = np.random.default_rng(repetitions)
    settings = drawn_gains(5 * draws, repetitions, rng).reshape(draws, 5, repetitions, -1)
    false = np.mean([best([of_gains(gains) for gains in five]) is not None for five in settings])
    assert false + 2 * math.sqrt(max(false, 0.01) * (1 - false) / draws) <= 0.06


@pytest.mark.parametrize("positions", [3, 5])
def test_three_seeds_at_each_of_some_positions_are_not_taken_for_that_many_times_three(positions):
    # A seed that is good at one position is good at all of them, and at a good position all seeds are.
    draws, rng = 2000, np.random.default_rng(positions)
    values = 0.01 * (
        rng.standard_normal((draws, 3, 1)) + rng.standard_normal((draws, 1, positions))
        + 0.5 * rng.standard_normal((draws, 3, positions))
    )  # fmt: skip
    places = list(itertools.product(range(3), range(positions)))
    covered = 0
    for drawn in values:
        found = estimate([Repetition(seed, place, 0.5 + drawn[seed, place]) for seed, place in places])
        covered += abs(found.mean - 0.5) <= found.half
    assert covered / draws - 2 * math.sqrt(0.95 * 0.05 / draws) >= 0.93
    naive = values.reshape(draws, -1)
    half = 2.15 * naive.std(1, ddof=1) / math.sqrt(3 * positions)  # at most: t of 8 to 14 degrees of freedom
    assert np.mean(np.abs(naive.mean(1)) <= half) < 0.8


@pytest.mark.parametrize("numbers", [(8, 1, 1), (9, 1), (5, 1, 1, 1, 1, 1)])
def test_positions_with_more_and_fewer_trainings_cover(numbers):
    draws, rng, covered = 1000, np.random.default_rng(len(numbers)), 0
    places = np.repeat(np.arange(len(numbers)), numbers)
    for _ in range(draws):
        values = rng.standard_normal(len(numbers))[places] + 0.3 * rng.standard_normal(len(places))
        found = estimate(list(map(Repetition, range(len(places)), places.tolist(), values.tolist())))
        covered += abs(found.mean) <= found.half
    assert covered / draws > 0.93


def test_what_no_setting_repeats_has_no_interval_nor_does_one_position_for_each_setting_hide_the_seeds():
    assert estimate([one for n in range(3) for one in of_setting([Repetition(n, 0, 0.1 * n)], n)]).half is None
    assert estimate([Repetition(0, place, 0.1 * place) for place in range(3)]).few, "one seed"
    # Variances of the means of 1, 2, 4 and of 5, 7, 6, over the square of two: 7 / 9 and 1 / 3.
    drawn = {0: (1.0, 2.0, 4.0), 1: (5.0, 7.0, 6.0)}
    ones = [Repetition(3 * n + m, n, value) for n, of in drawn.items() for m, value in enumerate(of)]
    found = estimate([one for n in drawn for one in of_setting(ones[3 * n : 3 * n + 3], n)])
    assert found.trainings == (pytest.approx(((7 / 9 + 1 / 3) / 4, 4)),)


def plain(*values: float) -> list[Repetition]:
    return [Repetition(seed, 0, value) for seed, value in enumerate(values)]


def test_without_slices_it_is_students_interval():
    found = estimate(plain(0.1, 0.2, 0.3))
    # Mean 0.2, sd 0.1; t of 2 degrees of freedom is 4.3027 at 97.5 %, over the root of 3.
    assert (found.mean, found.sd) == pytest.approx((0.2, 0.1))
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    # Two-sided p of t with 2 degrees of freedom in closed form, at t = 0.2 / (0.1 / sqrt 3).
    t = 2 * math.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6)
    assert not found.excludes_zero and found.bound == pytest.approx(0.2 + found.half)


@pytest.mark.parametrize("values", [(0.9,), (0.9, 0.91)])
def test_fewer_than_three_repetitions_have_no_interval_and_show_nothing(values):
    found = estimate(plain(*values))
    assert found.half is None and found.bound is None and found.p_value is None
    assert not found.excludes_zero and shown_of([found]) == [False]
    assert estimate([]) is None


def test_blocks_do_not_reach_over_a_gap_between_slices():
    # Two stretches that differ: a block of a sixth of 45 slices is in the first one twice, in the other three times.
    slices = np.r_[1:21, 500:525]
    right = np.where(slices < 100, 1000.0, 550.0)
    found = estimate([counted(seed, 0, slices, right, np.full(45, 1000.0)) for seed in range(3)])
    assert found.mean == pytest.approx((20 * 1.0 + 25 * 0.55) / 45)
    parts = np.array([10, 10, 9, 8, 8]) / 45
    gaps = np.array([1.0, 1.0, 0.55, 0.55, 0.55]) - found.mean
    free = 1 - (parts**2).sum()
    ((variance, freedom),) = found.slices
    assert variance == pytest.approx((parts**2 * gaps**2).sum() / free)
    # Five blocks that are nearly equal.
    assert 3.9 < freedom < 4
    assert found.trainings[0][0] == 0


def test_a_difference_is_paired_by_seed_position_and_slice():
    hard = np.linspace(0, 3000, len(SLICES))
    ours = [counted(seed, 0, SLICES, 12_000 - hard + 10 * seed, PIXELS) for seed in range(4)]
    theirs = [counted(seed, 0, SLICES, 11_000 - hard + 10 * seed, PIXELS) for seed in range(1, 5)]
    found = difference(ours, theirs)
    assert found.values == pytest.approx([1000 / 16_384] * 3)
    # What is hard for both, and what a seed does to both, is no spread of the difference.
    assert found.half == pytest.approx(0, abs=1e-9)
    assert difference(ours, [counted(0, 1, SLICES, hard, PIXELS)]) is None, "another position"


def known(z: float) -> Estimate:
    """A difference of that many standard errors of a normal distribution."""
    return Estimate((z, z, z), ((1.0, 1e9),))


def test_holm_stops_at_the_first_that_does_not_hold():
    # Two-sided p of 0.010, 0.020, 0.040: below 0.05 / 3, 0.05 / 2 and 0.05. With 0.030 for the second none follows.
    assert shown_of([known(2.054), known(2.576), known(2.326)]) == [True, True, True]
    assert shown_of([known(2.054), known(2.576), known(2.170)]) == [False, True, False]
    assert shown_of([None, known(2.2)]) == [False, True], "a single comparison needs no correction"


def test_best_is_who_is_ahead_of_every_other_one():
    ahead, behind, level = plain(0.90, 0.91, 0.92), plain(0.80, 0.81, 0.82), plain(0.90, 0.915, 0.91)
    assert best([behind, ahead]) == 1
    assert best([behind, ahead, level]) is None
    assert best([behind, ahead, []]) == 1, "a setting without a number is no rival"
    assert best([ahead]) is None and best([behind[:2], ahead[:2]]) is None
    elsewhere = [Repetition(one.seed, 1, one.value) for one in behind]
    assert best([behind, ahead, elsewhere]) is None, "one that it cannot be compared with is no one it is ahead of"


def test_a_slope_is_one_line_per_setting_and_seed():
    def line(steepness: float, seed: int) -> dict[float, list[Repetition]]:
        return {x: [Repetition(seed, 0, 0.5 + steepness * x)] for x in (0.0, 0.25, 1.0)}

    merged = {x: [*line(-0.1, 0)[x], *line(-0.3, 1)[x], *line(-0.2, 2)[x]] for x in (0.0, 0.25, 1.0)}
    merged[1.0] = merged[1.0][:2]
    found = slope({"a": merged, "b": line(-0.5, 0)})
    assert sorted(found.values) == pytest.approx([-0.5, -0.3, -0.1]), "seed 2 has no line: it lacks a point"


def test_repetitions_that_lie_far_apart_are_no_spread_about_a_mean():
    assert estimate(plain(0.589, 0.042, 0.032)).two_populations
    assert estimate(plain(0.2, 0.5, 0.8)).two_populations, "an interval of 0.5 ± 0.75"
    assert estimate(plain(*(0.9 + 0.001 * np.arange(5)), *(0.5 + 0.001 * np.arange(5)))).two_populations
    assert not estimate(plain(0.978, 0.977, 0.976)).two_populations
    assert not estimate(plain(*np.linspace(0.4, 0.6, 9))).two_populations


def test_the_number_of_repetitions_that_a_difference_takes():
    rng = np.random.default_rng(0)
    found = Estimate(tuple(0.01 * rng.standard_normal(3)), ((1e-5, 2.0),))
    # Normal theory for many repetitions: (1.960 + 0.842)^2 (sd / size)^2, and about two more for the unknown sd.
    wanted = (1.959964 + 0.841621) ** 2 * (found.sd / 0.001) ** 2
    assert found.repetitions_for(0.001) == pytest.approx(wanted + 2, abs=2)
    slices_alone = Estimate(found.values, found.trainings, ((1e-6, 5.0),))
    assert slices_alone.repetitions_for(0.001) is None, "0.001 is one standard error of these slices"
    wide = Estimate((0.1, -0.2, 0.3), ((0.02, 2.0),))
    assert wide.repetitions_for(0.001) == math.inf, "half a million"
    said = "To show a difference in four of five cases takes, at the median of the comparisons, for "
    more = "more than 1000 repetitions"
    assert needed([wide]) == f"{said}0.1 points {more}, for 0.5 points {more}."
    assert needed([wide, wide, slices_alone]) == needed([wide])
    assert "for 0.1 points more test slices than these, for" in needed([wide, slices_alone, slices_alone])
    assert "for 0.1 points more test slices than these, for" in needed([wide, slices_alone])
