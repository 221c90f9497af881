"""Do the labels themselves limit how right a model can be, as far as neighbouring slices show it?

    python results/ceiling/ceiling.py dataset.h5 PREDICTION results/ceiling

Neighbouring slices are nearly the same picture. Where their grey values are the same to the noise, a function of the
picture gives both nearly the same class; so where labels differ there, at least one of two would be wrong, and half of
such pixels out of a model's reach. But nearly the same is not the same: at an edge a function of the picture may change
its class as well, by as little. How often it does is counted on labels that are one and so have no errors at all: those
that a network gave (PREDICTION, a folder of `hpcseg predict`), and those of a blur with two thresholds. What the labels
drawn by a person have more than these may be their errors.

Pixels are looked at by their distance from a label's edge, since nearly all that disagrees is there. "Has not changed":
the root mean square difference of the 5 x 5 pixels round it is no more than what half of the pixels far from any edge
have, which is noise alone; and than some other numbers of counts. Intervals are over ten stretches of the stack, which
are not quite independent; differences are paired by stretch.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import distance_transform_cdt, gaussian_filter, uniform_filter
from scipy.special import stdtrit

from hpcseg.data import store
from hpcseg.slices.opening import open_source

FAR = 4
STRETCHES = 10
OTHER_LIMITS = (300, 450, 800)
CHANGES = np.concatenate([[0.0], np.geomspace(100, 20_000, 80)])
BLUR = 1.4
PERSON, NETWORK, THRESHOLDS = "a person", "a network", "a blur with thresholds"


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


def counts_of(change: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(FAR + 1, changes, 2) int64 of two slices' labels: pixels by distance and change, and those that differ."""
    place = distance_from_edge(labels[0]) * len(CHANGES) + np.digitize(change, CHANGES) - 1
    kinds = (FAR + 1) * len(CHANGES)
    found = [np.bincount(some, minlength=kinds) for some in (place.ravel(), place[labels[0] != labels[1]])]
    return np.stack(found, axis=1).reshape(FAR + 1, len(CHANGES), 2)


def out_of_reach(counts: np.ndarray, most: float) -> float:
    """By the labels' word the share of pixels that cannot be right, of counts as `counts_of` has them."""
    pixels, disagree = counts[:, most > CHANGES].sum(1).T
    share = counts[..., 0].sum(1) / counts[..., 0].sum()
    return float((share * disagree / np.maximum(pixels, 1)).sum()) / 2


def thresholds(path: Path, info: store.DatasetInfo) -> list[float]:
    """Grey values that divide blurred slices as the labels do: classes are in the order of their grey values."""
    slices = [store.read_slices(path, index, index + 1)[0][0] for index in range(0, len(info.numbers), 25)]
    grey = np.concatenate([gaussian_filter(one.astype(np.float32), BLUR).ravel() for one in slices])
    below = np.cumsum(info.class_counts.sum(0))[:-1] / info.class_counts.sum()
    return np.quantile(grey, below).tolist()


def main(path: Path, prediction: Path, out: Path) -> None:
    """Count, and write ceiling.json and ceiling.png."""
    info = store.read_info(path)
    predicted, at = open_source(prediction / "labels"), thresholds(path, info)
    ways: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
        PERSON: lambda grey, labels, number: labels,
        NETWORK: lambda grey, labels, number: np.searchsorted(
            info.class_values, predicted.read(predicted.numbers.index(number))
        ),
        THRESHOLDS: lambda grey, labels, number: np.digitize(gaussian_filter(grey, BLUR), at),
    }
    counts: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    numbers = [int(number) for number in info.numbers]
    for index in np.flatnonzero(np.diff(numbers) == 1):
        grey, labels = store.read_slices(path, index, index + 2)
        grey = grey.astype(np.float32)
        change = np.sqrt(uniform_filter((grey[1] - grey[0]) ** 2, 5))
        for name, way in ways.items():
            both = [way(grey[which], labels[which], numbers[index + which]) for which in (0, 1)]
            counts[name].append(counts_of(change, np.stack(both)))
    whole = {name: np.sum(of, axis=0) for name, of in counts.items()}
    far = np.cumsum(whole[PERSON][FAR, :, 0]) / whole[PERSON][FAR, :, 0].sum()
    most = float(CHANGES[np.searchsorted(far, 0.5) + 1])
    each = {
        name: np.array([out_of_reach(part.sum(0), most) for part in np.array_split(np.stack(of), STRETCHES)])
        for name, of in counts.items()
    }
    limits = [float(CHANGES[np.searchsorted(CHANGES, limit)]) for limit in OTHER_LIMITS]
    record = {
        "command": "python results/ceiling/ceiling.py dataset.h5 PREDICTION results/ceiling",
        "data_sha256": info.data_sha256,
        "network": json.loads((prediction / "prediction.json").read_text())["models"][0]["sha256"],
        "thresholds_in_counts": np.round(at, 1).tolist(),
        "pairs": len(counts[PERSON]),
        "unchanged_below_counts": round(most, 1),
        "labelled_by": {name: facts(of, most, each[name]) for name, of in whole.items()},
        "percent_out_of_reach_more_than_of": {
            name: mean_and_half(each[PERSON] - each[name]) for name in (NETWORK, THRESHOLDS)
        },
        "with_other_limits": [
            {
                "unchanged_below_counts": round(limit, 1),
                **{name: percent(out_of_reach(whole[name], limit)) for name in ways},
            }
            for limit in limits
        ],
    }
    (out / "ceiling.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(whole, most, out / "ceiling.png")
    print(json.dumps(record, indent=1))


def facts(counts: np.ndarray, most: float, each: np.ndarray) -> dict[str, object]:
    """What one labelling shows, in per cent: by distance from its edges, and as a whole."""
    pixels, disagree = counts.sum(1).T
    unchanged, still = counts[:, most > CHANGES].sum(1).T
    return {
        "percent_by_distance": percent(pixels / pixels.sum()),
        "percent_disagree_by_distance": percent(disagree / pixels),
        "percent_unchanged_by_distance": percent(unchanged / pixels),
        "percent_disagree_where_unchanged_by_distance": percent(still / unchanged),
        "percent_out_of_reach": percent(out_of_reach(counts, most)),
        "of_stretches": mean_and_half(each),
    }


def mean_and_half(each: np.ndarray) -> dict[str, object]:
    """Mean of shares in per cent, and half of its 95 % interval."""
    half = stdtrit(len(each) - 1, 0.975) * np.std(each, ddof=1) / math.sqrt(len(each))
    return {"mean": percent(each.mean()), "half_of_95_percent_interval": percent(half)}


def percent(share: float | np.ndarray) -> float | list[float]:
    """A share, or several, in per cent with three decimals."""
    return np.round(100 * np.asarray(share), 3).tolist()


def draw(whole: dict[str, np.ndarray], most: float, path: Path) -> None:
    """How many pixels at an edge have another label in the next slice, by how much their grey values have changed."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, counts in whole.items():
        enough = counts[0, :, 0] > 2_000
        axes.plot(CHANGES[enough], 100 * counts[0, enough, 1] / counts[0, enough, 0], label=f"labels by {name}")
    axes.axvline(most, color="grey", linestyle=":", label="half of what is far from edges changes less")
    axes.set(
        xscale="log",
        xlim=(100, 10_000),
        ylim=(0, None),
        xlabel="change of the grey values, counts (rms of 5 x 5)",
        ylabel="other label in the next slice, at an edge, %",
    )
    axes.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
