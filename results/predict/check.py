"""Compares labels that `hpcseg predict` wrote with those drawn by hand, and with what the model's evaluation counted.

    python results/predict/check.py OUT LABELS > results/predict/check.json

OUT is a folder that `hpcseg predict` wrote of a folder of slices, LABELS the folder of hand-made labels. The model is
of a cell of results/seeds, whose record says which slices are its test slices, and has a confusion matrix of each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from hpcseg.runs.folder import CellFolder
from hpcseg.runs.record import read_lines
from hpcseg.slices.opening import open_source

CELLS = Path(__file__).parents[1] / "seeds" / "cells"


def check(out: Path, labels: Path) -> dict[str, object]:
    """Accuracy per test slice and over all of them, and pixels that the record has in another place of its matrices."""
    record = json.loads((out / "prediction.json").read_text())
    cell = CellFolder(CELLS / record["models"][0]["name"])
    counted = {line["slice"]: np.array(line["whole"]) for line in read_lines(cell.slices_file)}
    ours, hand = open_source(out / "labels"), open_source(labels)
    values = sorted(map(int, record["fractions"]))
    found = {}
    for number, matrix in counted.items():
        one, other = (np.searchsorted(values, of.read(of.numbers.index(number)).ravel()) for of in (ours, hand))
        found[number] = np.bincount(other * len(values) + one, minlength=matrix.size).reshape(matrix.shape)
    right = [np.trace(matrix) / matrix.sum() for matrix in found.values()]
    return {
        "test_slices": [min(found), max(found), len(found)],
        "slices_between_them_and_training": json.loads(cell.training_file.read_text())["gap_slices"],
        "accuracy": float(np.mean(right)),
        "worst_slice": float(min(right)),
        "pixels_unlike_the_evaluation": int(sum(np.abs(found[n] - counted[n]).sum() for n in found) // 2),
        "model": record["models"][0],
        "slices": record["input"]["slices"],
        **{key: record[key] for key in ("seconds", "slices_per_second", "peak_memory_mib", "command") if key in record},
    }


if __name__ == "__main__":
    print(json.dumps(check(*map(Path, sys.argv[1:3])), indent=1))
