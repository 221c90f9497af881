"""How right can a model be, where neighbouring slices with the same grey values have other labels?

    python results/ceiling/ceiling.py dataset.h5 results/ceiling

Neighbouring slices are nearly the same picture. Where their grey values are the same to the noise, a function of the
picture gives both the same class; where their labels differ there, at least one of them is not what such a function
says. So of pixels that have not changed, half of the share with other labels is out of a model's reach, as far as the
labels of two slices err independently. It is an estimate in both directions: labels that err alike in both slices do
not show here, and where labels change the way that grey values do, a picture that has changed by less than the noise
may still tell. So what counts as "not changed" is varied, and how many of the labels that differ follow the grey values
is counted: by chance it would be half.

Pixels are looked at by their distance from a label's edge, since nearly all that disagrees is there. "Has not changed":
the root mean square difference of the 5 x 5 pixels round it is no more than what half of the pixels far from any edge
have, which is noise alone; and than some other numbers of counts. Intervals are over ten stretches of the stack, which
are not quite independent.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import distance_transform_cdt, uniform_filter
from scipy.special import stdtrit

from hpcseg.data import store

FAR = 4
STRETCHES = 10
OTHER_LIMITS = (300, 450, 800)
CHANGES = np.concatenate([[0.0], np.geomspace(100, 20_000, 80)])


def distance_from_edge(labels: np.ndarray) -> np.ndarray:
    """(H, W) pixels from the nearest pixel that touches another class, 0 for these, at most `FAR`."""
    edge = np.zeros(labels.shape, dtype=bool)
    for one, other in (
        ((slice(1, None),), (slice(None, -1),)),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        differ = labels[one] != labels[other]
        edge[one] |= differ
        edge[other] |= differ
    return np.minimum(distance_transform_cdt(~edge, "chessboard"), FAR)


def counts_of(path: Path, index: int) -> np.ndarray:
    """(FAR + 1, changes, 3) int64 of one slice and the next: pixels by distance and change, then those that disagree.

    Last of these those whose class changes as the grey values do: classes are in the order of their grey values.
    """
    images, labels = store.read_slices(path, index, index + 2)
    first, second = images.astype(np.float32)
    change = np.sqrt(uniform_filter((first - second) ** 2, 5))
    place = distance_from_edge(labels[0]) * len(CHANGES) + np.digitize(change, CHANGES) - 1
    kinds = (FAR + 1) * len(CHANGES)
    disagree = labels[0] != labels[1]
    along = disagree & ((labels[1] > labels[0]) == (uniform_filter(second - first, 5) > 0))
    found = [np.bincount(part, minlength=kinds) for part in (place.ravel(), place[disagree], place[along])]
    return np.stack(found, axis=1).reshape(FAR + 1, len(CHANGES), 3)


def ceiling(counts: np.ndarray, most: float) -> float:
    """The share of pixels that can be right, of counts as `counts_of` has them."""
    same = counts[:, most > CHANGES]
    pixels, disagree = same[..., 0].sum(1), same[..., 1].sum(1)
    share = counts[..., 0].sum(1) / counts[..., 0].sum()
    return 1 - float((share * disagree / np.maximum(pixels, 1)).sum()) / 2


def main(path: Path, out: Path) -> None:
    """Count, and write ceiling.json and ceiling.png."""
    info = store.read_info(path)
    numbers = np.array(info.numbers)
    pairs = [index for index in range(len(numbers) - 1) if numbers[index + 1] == numbers[index] + 1]
    counts = np.stack([counts_of(path, index) for index in pairs])
    whole = counts.sum(0)
    far = np.cumsum(whole[FAR, :, 0]) / whole[FAR, :, 0].sum()
    most = float(CHANGES[np.searchsorted(far, 0.5) + 1])
    each = [ceiling(part.sum(0), most) for part in np.array_split(counts, STRETCHES)]
    half = float(stdtrit(STRETCHES - 1, 0.975) * np.std(each, ddof=1) / math.sqrt(STRETCHES))
    same = whole[:, most > CHANGES]
    limits = [float(CHANGES[np.searchsorted(CHANGES, limit)]) for limit in OTHER_LIMITS]
    record = {
        "command": "python results/ceiling/ceiling.py dataset.h5 results/ceiling",
        "data_sha256": info.data_sha256,
        "pairs": len(pairs),
        "unchanged_below_counts": round(most, 1),
        "share_of_pixels_by_distance": (whole[..., 0].sum(1) / whole[..., 0].sum()).round(6).tolist(),
        "disagree_by_distance": (whole[..., 1].sum(1) / whole[..., 0].sum(1)).round(6).tolist(),
        "disagree_where_unchanged_by_distance": (same[..., 1].sum(1) / same[..., 0].sum(1)).round(6).tolist(),
        "ceiling": round(ceiling(whole, most), 6),
        "half_of_95_percent_interval": round(half, 6),
        "of_stretches": [round(one, 6) for one in each],
        "follow_the_grey_values_where_unchanged": round(float(same[0, :, 2].sum() / same[0, :, 1].sum()), 6),
        "with_other_limits": [
            {"unchanged_below_counts": round(limit, 1), "ceiling": round(ceiling(whole, limit), 6)} for limit in limits
        ],
    }
    (out / "ceiling.json").write_text(json.dumps(record, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    enough = whole[..., 0] > 2_000
    for distance in range(3):
        share = 100 * whole[distance, :, 1] / np.maximum(whole[distance, :, 0], 1)
        name = "at a label's edge" if distance == 0 else f"{distance} px away"
        axes.plot(CHANGES[enough[distance]], share[enough[distance]], label=name)
    axes.axvline(most, color="grey", linestyle=":", label="half of what is far from edges changes less")
    axes.set(
        xscale="log",
        xlabel="change of the grey values, counts (rms of 5 x 5)",
        ylabel="other label in the next slice, %",
    )
    axes.set_xlim(100, 10_000)
    axes.legend()
    figure.savefig(out / "ceiling.png", dpi=100)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
