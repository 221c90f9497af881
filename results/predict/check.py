"""Compares predicted labels with the hand-made ones, on slices at least 3 away from those of the training.

    python results/predict/check.py OUT LABELS DATASET > check.json

OUT is a folder that `hpcseg predict` wrote of a folder of slices, LABELS the folder of hand-made labels, DATASET the
packed file of the same slices. The model was trained with the blocked split of seed 0 and gaps of 2 slices; its test
slices are counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from hpcseg.config import DataConfig
from hpcseg.data.batches import open_source
from hpcseg.slices.opening import open_source as open_slices


def check(out: Path, labels: Path, dataset: Path) -> dict[str, object]:
    """Accuracy per test slice and over all of them."""
    source = open_source(dataset, DataConfig(tiles="large", split="blocked", gap_slices=2))
    numbers = [int(number) for number in source.info.numbers[source.test_slices()]]
    both = [open_slices(folder) for folder in (out / "labels", labels)]
    pairs = [[source.read(source.numbers.index(number)) for source in both] for number in numbers]
    right = np.array([np.mean(ours == theirs) for ours, theirs in pairs])
    record = json.loads((out / "prediction.json").read_text())
    return {
        "test_slices": [min(numbers), max(numbers), len(numbers)],
        "accuracy": float(right.mean()),
        "worst_slice": float(right.min()),
        "label_dtype": str(pairs[0][0].dtype),
        "model": record["models"][0],
        "slices": record["input"]["slices"],
        **{key: record[key] for key in ("seconds", "slices_per_second", "peak_memory_mib", "command") if key in record},
    }


if __name__ == "__main__":
    print(json.dumps(check(*map(Path, sys.argv[1:4])), indent=1))
