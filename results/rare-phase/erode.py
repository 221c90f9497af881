"""The rarest phase of the labels made rare: python results/rare-phase/erode.py LABELS OUT

White (255, 27 % of the pixels) is left where it is more than 20 pixels from its edge, 1.3 % of them; its rim becomes
grey (128). So the rare class is what is deep inside of white grains: a model has the same grey values on both sides of
its edge, and must see how far away that of the grain is. Slices are eroded one by one.

    python results/rare-phase/erode.py ../shared/soc/labels eroded
    hpcseg pack --images ../shared/soc/data --labels eroded -o eroded.h5
    hpcseg grid --job rare-phase --local --workers 2 --set train.width=8 --data eroded.h5 --run runs/eroded
    hpcseg grid --job rare-phase --local --workers 2 --set train.width=8 --data dataset.h5 --run runs/as-labelled
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tifffile
from scipy.ndimage import distance_transform_edt

RARE, REST = 255, 128
DEPTH = 20
"""Pixels from the phase's edge."""


def eroded(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) uint8 with `RARE` only where it is deeper than `DEPTH`, and `REST` on its rim."""
    # A slice's end is no edge of a phase.
    inside = np.pad(labels == RARE, DEPTH + 1, mode="edge")
    depth = distance_transform_edt(inside)[DEPTH + 1 : -DEPTH - 1, DEPTH + 1 : -DEPTH - 1]
    return np.where((labels == RARE) & (depth <= DEPTH), np.uint8(REST), labels)


if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:])
    out.mkdir()
    kept = []
    for path in sorted(source.glob("*.tif")):
        labels = eroded(tifffile.imread(path))
        tifffile.imwrite(out / path.name, labels, compression="deflate")
        kept.append(float((labels == RARE).mean()))
    print(f"{len(kept)} slices, {100 * np.mean(kept):.2f} % of their pixels are {RARE}")
