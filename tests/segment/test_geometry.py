"""Padding and tiling of any size: every pixel is covered, weights add up to 1, tiles are halved at the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.learn.unet import build_unet
from hpcseg.segment.geometry import MARGIN, cuts, overlap, pad, padded_length, reach

lengths, depths = st.integers(1, 300), st.integers(1, 5)


@given(length=lengths, least=st.integers(1, 200), depth=depths)
def test_a_padded_length_is_the_smallest_that_serves(length, least, depth):
    padded = padded_length(length, least=least, depth=depth)
    assert padded % 2**depth == 0 and padded >= max(length + 2 * MARGIN, least) > padded - 2**depth


@given(height=st.integers(1, 40), width=st.integers(1, 40), more=st.integers(2 * MARGIN, 200))
def test_padding_mirrors_and_leaves_the_slice_as_it_was(height, width, more):
    image = np.arange(height * width, dtype=np.float32).reshape(height, width)
    padded = pad(image, height + more, width + more)
    assert padded.shape == (height + more, width + more)
    np.testing.assert_array_equal(padded[MARGIN : MARGIN + height, MARGIN : MARGIN + width], image)
    # Mirrored about the first and the last pixel, back and forth: with a period of 2 (n - 1).
    period = max(1, 2 * (height - 1))
    places = [abs(row - MARGIN) % period for row in range(height + more)]
    source = [min(place, period - place) if height > 1 else 0 for place in places]
    np.testing.assert_array_equal(padded[:, MARGIN], image[source, 0])


@given(blocks=st.integers(1, 40), edge=st.integers(2, 20), depth=depths)
def test_weights_of_tiles_add_up_to_one_on_every_pixel(blocks, edge, depth):
    multiple = 2**depth
    length, edge = multiple * blocks, multiple * edge
    total = np.zeros(length)
    for place, weights in cuts(length, edge=edge, depth=depth):
        assert place.start % multiple == 0 and 0 <= place.start < place.stop <= length
        assert place.stop - place.start == len(weights) == min(edge, length)
        assert weights.dtype == np.float32 and weights.min() >= 0
        total[place] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)


@given(edge=st.integers(2, 200), depth=depths)
def test_tiles_overlap_by_at_most_half_so_that_they_end(edge, depth):
    shared = overlap(edge * 2**depth, depth)
    assert 0 < shared <= edge * 2**depth / 2 and shared % 2**depth == 0


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_nothing_beyond_its_reach_changes_an_answer(depth):
    model = build_unet(classes=2, width=8, depth=depth, batch_norm=False, seed=0).double().eval()
    length = 2 * padded_length(reach(depth) + 2**depth, least=1, depth=depth)
    image = torch.rand(1, 1, 2**depth, length, dtype=torch.float64)
    other = image.clone()
    at = length // 2
    other[..., at:] = torch.rand_like(other[..., at:])
    with torch.inference_mode():
        changed = (model(image) != model(other)).any(dim=(0, 1, 2)).nonzero()
    assert at - reach(depth) <= int(changed.min()) < at
