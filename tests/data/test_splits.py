"""Three disjoint sets: the paper's shares when shuffled, no neighbours across sets when blocked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.data import splits
from hpcseg.data.splits import shared_tests, widest_gap
from hpcseg.errors import DatasetError


def split_tiles(tiles, *, numbers=None, **options):
    """Of slices that are numbered one behind the other, where a test says nothing else."""
    numbers = np.arange(1, tiles[:, 0].max() + 2) if numbers is None else np.array(numbers)
    return splits.split_tiles(tiles, numbers=numbers, **options)


def tiles_of(slices, tiles_per_slice):
    return np.array([(index, 0, 8 * tile) for index in range(slices) for tile in range(tiles_per_slice)])


def sets(split):
    return split.train, split.validation, split.test


def slices_of(tiles, split):
    return [sorted(set(tiles[rows, 0].tolist())) for rows in sets(split)]


@pytest.mark.parametrize(
    ("tiles_per_slice", "sizes"),
    # 70, 15 and 15 per cent of 500 and of 4500.
    [(1, (350, 75, 75)), (9, (3150, 675, 675))],
)
def test_shuffled_sets_have_the_papers_sizes_and_are_all_tiles_once(tiles_per_slice, sizes):
    tiles = tiles_of(500, tiles_per_slice)
    split = split_tiles(tiles, policy="shuffled", seed=0, gap_slices=2)
    assert tuple(len(rows) for rows in sets(split)) == sizes
    assert sorted(np.concatenate(sets(split)).tolist()) == list(range(len(tiles)))
    assert all((np.diff(rows) > 0).all() for rows in sets(split))


@pytest.mark.parametrize("seed", range(3))
def test_overlapping_tiles_of_a_slice_are_all_in_one_shuffled_set(seed):
    tiles = tiles_of(500, 16)
    split = split_tiles(tiles, policy="shuffled", seed=seed, gap_slices=2, overlapping=True)
    train, validation, test = slices_of(tiles, split)
    # 70, 15 and 15 per cent of the slices, all of their tiles, and each slice once.
    assert (len(train), len(validation), len(test)) == (350, 75, 75)
    assert sorted(train + validation + test) == list(range(500))
    assert [len(rows) for rows in sets(split)] == [16 * 350, 16 * 75, 16 * 75]
    # By lot, not in blocks: a test slice has a training neighbour unless both are of the other 30 per cent.
    assert sum(bool({index - 1, index + 1} & set(train)) for index in test) > 75 / 2
    assert split.gap_slices is None


def test_slices_of_overlapping_tiles_are_refused_where_they_are_too_few():
    tiles = tiles_of(2, 16)
    split_tiles(tiles, policy="shuffled", seed=0, gap_slices=2)
    with pytest.raises(
        DatasetError, match=r"32 tiles on 2 slices are too few .* tiles that overlap, each set has whole"
    ):
        split_tiles(tiles, policy="shuffled", seed=0, gap_slices=2, overlapping=True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("slices", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1)), (6, (4, 1, 1))])
def test_from_three_slices_on_each_set_has_one_at_least(slices, sizes, seed):
    tiles = tiles_of(slices, 16)
    for options in (
        {"policy": "shuffled", "gap_slices": 2, "overlapping": True},
        {"policy": "blocked", "gap_slices": 0},
    ):
        found = slices_of(tiles, split_tiles(tiles, seed=seed, **options))
        assert tuple(map(len, found)) == sizes
        assert sorted(itertools.chain(*found)) == list(range(slices))


def test_shuffled_takes_each_tile_for_itself():
    tiles = tiles_of(500, 9)
    train, _, test = slices_of(tiles, split_tiles(tiles, policy="shuffled", seed=0, gap_slices=2))
    # A slice without any of its 9 tiles in training has a chance of 0.3**9: 0.01 of 500 slices.
    assert len(train) >= 499
    # With at least one in the test set: 1 - 0.85**9 = 0.77, give or take four standard deviations of 9 slices.
    assert len(test) == pytest.approx(500 * 0.768, abs=4 * 9.4)


@pytest.mark.parametrize(("slices", "gap_slices", "seeds"), [(500, 41, 5), (40, 2, 5), (97, 0, 3), (2000, 200, 5)])
def test_the_first_positions_of_the_blocks_test_no_slice_twice(slices, gap_slices, seeds):
    tiles = tiles_of(slices, 1)
    found = [split_tiles(tiles, policy="blocked", seed=seed, gap_slices=gap_slices) for seed in range(seeds)]
    together = np.concatenate([split.test for split in found])
    assert len(np.unique(together)) == len(together) == seeds * len(found[0].test)


def at_positions(numbers, gap_slices, seeds):
    """The places of the test slices of the first seeds, one tile a slice."""
    options = {"numbers": numbers, "policy": "blocked", "gap_slices": gap_slices}
    found = (split_tiles(tiles_of(len(numbers), 1), seed=seed, **options).test for seed in range(seeds))
    return [tuple(test.tolist()) for test in found]


def any_shared(tests):
    together = list(itertools.chain(*tests))
    return len(set(together)) < len(together)


@pytest.mark.parametrize("slices", range(3, 41))
@pytest.mark.parametrize("gap_slices", [0, 1])
def test_of_few_slices_three_positions_test_no_slice_twice_and_five_where_there_are_enough(slices, gap_slices):
    numbers = np.arange(1, 30 * slices, 30)
    assert not any_shared(at_positions(numbers, gap_slices, 3))
    five = at_positions(numbers, gap_slices, 5)
    assert any_shared(five) == (sum(map(len, five)) > slices)


def test_of_unevenly_numbered_slices_three_positions_test_no_slice_twice():
    assert len(set(at_positions((1, 120, 250, 400), 40, 4))) == 4
    rng = np.random.default_rng(0)
    for _ in range(100):
        numbers = np.sort(rng.choice(np.arange(1, 501), rng.integers(5, 16), replace=False))
        gap = min(41, widest_gap(numbers, at_most=max(1, int(np.ptp(numbers) + 1) // 10)))
        assert not any_shared(at_positions(numbers, gap, 3)), numbers


@pytest.mark.parametrize("slices", range(3, 31))
def test_as_many_positions_as_slices_are_all_different(slices):
    assert len(set(at_positions(np.arange(slices), 0, slices))) == slices


@pytest.mark.parametrize(
    ("gap_slices", "firsts"),
    # As they were before positions that are alike were told from each other.
    [(41, [335, 144, 0, 262, 71, 380, 189, 0, 307, 116]), (2, [356, 165, 0, 283, 92, 401, 210, 19, 328, 137])],
)
def test_positions_that_differ_lie_where_they_lay_when_records_were_written(gap_slices, firsts):
    assert [test[0] for test in at_positions(np.arange(1, 501), gap_slices, 10)] == firsts


@pytest.mark.parametrize(
    ("tested", "said"),
    [
        ({}, ""),
        ({0: [1, 2], 1: [3, 4]}, ""),
        ({0: [7], 1: [8], 2: [7]}, "0 and 2 of data.split_seed have the same test slices, so they count as one"),
        ({0: [1, 2, 3], 4: [3, 4]}, "0 and 4 of data.split_seed have 1 of 3 test slices in common, so they say less"),
        ({3: [1, 2], 1: [2, 3], 0: [5]}, "1 and 3 of data.split_seed have 1 of 2 test slices in common"),
        ({0: [1], 1: [1], 2: [1]}, "0 and 1 of data.split_seed have the same test slices, the most of 3 such pairs"),
    ],
)
def test_positions_that_test_the_same_slices_are_said_with_how_many(tested, said):
    found = shared_tests(tested)
    assert found.startswith(said) and bool(found) == bool(said)


@pytest.mark.parametrize("seed", range(12))
def test_blocked_sets_are_single_runs_on_the_ring_with_all_tiles_of_their_slices(seed):
    tiles = tiles_of(100, 4)
    split = split_tiles(tiles, policy="blocked", seed=seed, gap_slices=3)
    # 100 slices less three gaps of 3 are 91: 70 % are 64, 15 % are 14, the rest is 13.
    assert [len(part) for part in slices_of(tiles, split)] == [64, 14, 13]
    for part, rows in zip(slices_of(tiles, split), sets(split), strict=True):
        assert len(rows) == 4 * len(part)
        # A run on the ring has one slice whose successor is not in it.
        assert sum((index + 1) % 100 not in part for index in part) == 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("numbers", "gap_slices", "used"),
    [
        # Farther apart than the gap: all are used. From 10 to 20 there are 9 numbers, and 29 leave out two of each ten.
        (range(10, 610, 10), 2, 60),
        (range(10, 610, 10), 9, 60),
        (range(10, 610, 10), 10, 57),
        (range(10, 610, 10), 29, 54),
        ((1, 200, 400), 40, 3),
    ],
)
def test_a_gap_counts_slice_numbers_and_leaves_out_no_more_than_it_must(numbers, gap_slices, used, seed):
    numbers = np.array(numbers)
    tiles = tiles_of(len(numbers), 2)
    found = slices_of(tiles, split_tiles(tiles, numbers=numbers, policy="blocked", seed=seed, gap_slices=gap_slices))
    for one, other in itertools.combinations(found, 2):
        assert min(abs(a - b) for a, b in itertools.product(numbers[one], numbers[other])) > gap_slices
    assert sum(map(len, found)) == used


@pytest.mark.parametrize("seed", range(8))
def test_of_bundles_of_slices_that_are_far_apart_each_is_in_one_set(seed):
    numbers = np.array([1, 2, 3, 4, 101, 102, 201, 202])
    found = slices_of(
        tiles_of(8, 2), split_tiles(tiles_of(8, 2), numbers=numbers, policy="blocked", seed=seed, gap_slices=50)
    )
    assert sorted(sorted({int(numbers[index]) // 100 for index in part}) for part in found) == [[0], [1], [2]]


def test_a_gap_may_be_asked_for_that_is_larger_than_any_stack():
    assert widest_gap(np.arange(12), at_most=2**63 - 1) == 3


@pytest.mark.parametrize(
    ("numbers", "at_most", "widest"),
    # With g left out between any two of three single slices there are 3 + 3 g of them on the ring; of every tenth
    # slice 10 g more numbers, and the 9 behind each.
    [(range(3), 5, 0), (range(6), 5, 1), (range(11), 9, 2), (range(12), 9, 3), (range(500), 41, 41),
     (range(2), 5, None), (range(0, 30, 10), 50, 9), (range(0, 60, 10), 50, 19), ((1, 2, 500), 50, 0)],
)  # fmt: skip
def test_the_widest_gap_is_the_largest_that_leaves_three_sets(numbers, at_most, widest):
    numbers = np.array(numbers)
    assert widest_gap(numbers, at_most=at_most) == widest
    for gap in () if widest is None else range(at_most + 1):
        if gap <= widest:
            split_tiles(tiles_of(len(numbers), 1), numbers=numbers, policy="blocked", seed=3, gap_slices=gap)
        else:
            with pytest.raises(DatasetError, match="too few"):
                split_tiles(tiles_of(len(numbers), 1), numbers=numbers, policy="blocked", seed=3, gap_slices=gap)


@pytest.mark.parametrize(
    ("numbers", "gap_slices", "takes", "way"),
    [
        (range(1, 9), 3, 12, "set data.gap_slices to 1 or less, which leaves 3, 1, 1 slices"),
        (range(1, 5), 3, 12, 'set data.gap_slices to "auto", which here leaves none out'),
        (range(10, 60, 10), 25, 9, "set data.gap_slices to 9 or less, which leaves 3, 1, 1 slices"),
    ],
)
def test_the_refusal_of_few_slices_says_what_it_takes_and_what_makes_fewer_do(numbers, gap_slices, takes, way):
    numbers = np.array(numbers)
    with pytest.raises(DatasetError, match=f"it takes {takes} slices") as refused:
        split_tiles(tiles_of(len(numbers), 4), numbers=numbers, policy="blocked", seed=0, gap_slices=gap_slices)
    assert way in str(refused.value) and 'data.split to "shuffled"' in str(refused.value)
    stretch = np.arange(takes) * (numbers[1] - numbers[0])
    split_tiles(tiles_of(takes, 4), numbers=stretch, policy="blocked", seed=0, gap_slices=gap_slices)
    with pytest.raises(DatasetError):
        split_tiles(tiles_of(takes - 1, 4), numbers=stretch[:-1], policy="blocked", seed=0, gap_slices=gap_slices)


@pytest.mark.parametrize("policy", ["shuffled", "blocked"])
def test_the_seed_alone_decides_the_split(policy):
    tiles = tiles_of(200, 2)
    once, again, other = (split_tiles(tiles, policy=policy, seed=seed, gap_slices=2) for seed in (3, 3, 4))
    for one, two in zip(sets(once), sets(again), strict=True):
        np.testing.assert_array_equal(one, two)
    assert once.sha256() == again.sha256()
    assert once.sha256() != other.sha256()
    assert set(once.test) != set(other.test)


def test_the_split_of_a_seed_stays_what_it_was_when_records_were_written():
    # Pinned: another numpy or another platform must not move tiles between the sets.
    split = split_tiles(tiles_of(40, 1), policy="shuffled", seed=0, gap_slices=2)
    assert split.test.tolist() == [3, 5, 11, 18, 30, 37]


def test_the_hash_tells_where_one_set_ends_and_the_next_begins():
    tiles = tiles_of(100, 1)
    shuffled = split_tiles(tiles, policy="shuffled", seed=0, gap_slices=2)
    moved = type(shuffled)(train=shuffled.train, validation=shuffled.test, test=shuffled.validation)
    assert moved.sha256() != shuffled.sha256()


@pytest.mark.parametrize(
    ("slices", "policy", "gap_slices"),
    [(2, "shuffled", 2), (1, "shuffled", 2), (9, "blocked", 3), (11, "blocked", 3), (6, "blocked", 2)],
)
def test_too_few_slices_for_three_sets_are_refused_with_their_number(slices, policy, gap_slices):
    with pytest.raises(DatasetError, match=rf"{slices} tiles on {slices} slices are too few for .*three sets"):
        split_tiles(tiles_of(slices, 1), policy=policy, seed=0, gap_slices=gap_slices)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    slices=st.integers(1, 60),
    tiles_per_slice=st.integers(1, 4),
    policy=st.sampled_from(["shuffled", "blocked"]),
    seed=st.integers(0, 2**63 - 1),
    gap_slices=st.integers(1, 8),
)
def test_any_split_is_three_disjoint_sets_of_their_shares_or_refused(slices, tiles_per_slice, policy, seed, gap_slices):
    tiles = tiles_of(slices, tiles_per_slice)
    try:
        split = split_tiles(tiles, policy=policy, seed=seed, gap_slices=gap_slices)
    except DatasetError as error:
        assert f"{len(tiles)} tiles on {slices} slices are too few" in str(error)
        # Of 3 there is 1 for each.
        assert (len(tiles) if policy == "shuffled" else slices - 3 * gap_slices) < 3
        return
    rows = np.concatenate(sets(split))
    assert len(np.unique(rows)) == len(rows)
    used = len(tiles) if policy == "shuffled" else (slices - 3 * gap_slices) * tiles_per_slice
    assert len(rows) == used
    # Rounded to whole tiles, or to whole slices with all of their tiles; of 3 the training set has 1 in place of 2.1.
    whole = 1 if policy == "shuffled" else tiles_per_slice
    for part, share in zip(sets(split), (0.70, 0.15, 0.15), strict=True):
        assert len(part) > 0
        assert (np.diff(part) > 0).all()
        assert len(part) == pytest.approx(share * used, abs=1.11 * whole)
    if policy == "blocked":
        # On the ring, where the last slice is next to the first.
        for one, other in itertools.permutations(slices_of(tiles, split), 2):
            assert min((a - b) % slices for a, b in itertools.product(one, other)) > gap_slices
    again = split_tiles(tiles, policy=policy, seed=seed, gap_slices=gap_slices)
    assert again.sha256() == split.sha256()


@pytest.mark.parametrize("policy", ["shuffled", "blocked"])
def test_fewer_training_slices_are_among_more_and_leave_the_other_sets_alone(policy):
    tiles = tiles_of(60, 4)
    whole, many, few = (
        split_tiles(tiles, policy=policy, seed=1, gap_slices=2, train_slices=count) for count in (0, 20, 5)
    )
    assert len(np.unique(tiles[many.train, 0])) == 20
    assert len(np.unique(tiles[few.train, 0])) == 5
    assert set(few.train) < set(many.train) < set(whole.train)
    # All training tiles of a slice that is kept.
    assert set(few.train) == {row for row in whole.train.tolist() if tiles[row, 0] in tiles[few.train, 0]}
    for split in (many, few):
        np.testing.assert_array_equal(split.validation, whole.validation)
        np.testing.assert_array_equal(split.test, whole.test)


def test_more_training_slices_than_there_are_are_refused():
    with pytest.raises(DatasetError, match=r"data\.train_slices is 61, but the training tiles come from \d+ slices"):
        split_tiles(tiles_of(60, 4), policy="shuffled", seed=1, gap_slices=2, train_slices=61)
