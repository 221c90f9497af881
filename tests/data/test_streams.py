"""No two streams of random numbers are one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hpcseg.data.streams import Purpose, stream


def drawn(purpose: Purpose, *key: int) -> bytes:
    return stream(purpose, *key).bytes(16)


def test_purposes_and_keys_have_streams_of_their_own():
    keys = [(0,), (1,), (2**32,), (0, 0), (0, 1), (1, 0), (2**32, 0), (0, 2**32), (5, 128, 0, 0)]
    streams = {drawn(purpose, *key) for purpose, key in itertools.product(Purpose, keys) if len(key) > 1}
    assert len(streams) == len(Purpose) * sum(len(key) > 1 for key in keys)
    # Keys of one purpose are equally long, so a zero at the end need not tell them apart; purposes always do.
    singles = {drawn(purpose, seed) for purpose, (seed, *rest) in itertools.product(Purpose, keys) if not rest}
    assert len(singles) == 3 * len(Purpose)


def test_numbers_below_zero_have_streams_of_their_own():
    """A folder may have s_-3.tif."""
    numbers = (-(2**40), -3, -1, 0, 1, 3, 2**32 - 1, 2**40)
    assert len({drawn(Purpose.TRAINING_NOISE, 1, np.int64(number), 0, 0) for number in numbers}) == len(numbers)


def test_a_stream_is_the_same_each_time():
    assert drawn(Purpose.SPLIT, 3) == drawn(Purpose.SPLIT, np.int64(3))


def test_seeds_and_purposes_are_not_correlated():
    draws = [
        stream(purpose, seed, 5, 128, 0).standard_normal(4096)
        for purpose, seed in itertools.product((Purpose.TRAINING_NOISE, Purpose.TEST_NOISE), (0, 1))
    ]
    # Independent: the correlation of 4096 pairs has a standard error of 1 / 64.
    assert np.abs(np.corrcoef(draws)[np.triu_indices(4, 1)]).max() < 4 / 64


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_split_and_an_epoch_of_one_seed_share_nothing(seed):
    assert not np.array_equal(
        stream(Purpose.SPLIT, seed).permutation(50), stream(Purpose.EPOCH_ORDER, seed, 0).permutation(50)
    )
