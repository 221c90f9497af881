"""What `hpcseg predict --adapt-norm` brings on noisy slices and costs on clean ones, by models that have seen no noise.

    python results/predict/adapt_norm.py RUN DATA DATASET SCRATCH > results/predict/adapt_norm.json

RUN is the finished run of adapt_norm.toml, DATA the folder with the real slices in data/ and labels/, DATASET the
packed file that RUN was trained on. The test slices go to SCRATCH as they are, and with Gaussian noise of sigma 5000,
rounded and clipped to uint16 as a detector stores it. They are segmented as whole slices, with and without the option:
all of them as one volume, and three of them each by itself, so that the statistics are of that slice alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile

from hpcseg.data.batches import open_source
from hpcseg.records.collect import collect
from hpcseg.runs.folder import RunFolder
from hpcseg.slices.opening import open_source as open_slices

_SIGMA = 5000.0
_FULL = 65535


def main(run: Path, data: Path, dataset: Path, scratch: Path) -> None:
    """Print a JSON record."""
    rows = collect(RunFolder(run)).rows
    source = open_source(dataset, rows[0].config.data)
    numbers = [int(number) for number in source.info.numbers[source.test_slices()]]
    images, labels = (_by_number(data / name) for name in ("data", "labels"))
    volumes = {"all": numbers} | {f"{number}": [number] for number in numbers[:: len(numbers) // 2]}
    accuracy: dict[str, dict[str, list[float]]] = {}
    for noise, sigma in (("clean", 0.0), ("noisy", _SIGMA)):
        for name, chosen in volumes.items():
            folder = scratch / noise / name
            folder.mkdir(parents=True)
            for number in chosen:
                # The same noise whichever volume the slice is in.
                drawn = np.random.default_rng(number).normal(0, sigma, images[number].shape)
                values = np.clip(np.rint(images[number] + drawn), 0, _FULL).astype(np.uint16)
                tifffile.imwrite(folder / f"slice_{number:04}.tif", values)
            for adapted in (False, True):
                found = []
                for row in rows:
                    out = scratch / "out" / noise / name / row.id / ("adapted" if adapted else "plain")
                    _predict(run, row.id, folder, out, adapted=adapted)
                    predicted = _by_number(out / "labels")
                    right = [np.mean(predicted[number] == labels[number]) for number in chosen]
                    found.append(round(float(np.mean(right)), 5))
                accuracy.setdefault(f"{noise}, slices {name}", {})["adapted" if adapted else "as trained"] = found
    cells = [row.id for row in rows]
    print(json.dumps({"test_slices": numbers, "sigma": _SIGMA, "cells": cells, "accuracy": accuracy}, indent=1))


def _by_number(folder: Path) -> dict[int, np.ndarray]:
    source = open_slices(folder)
    return {number: source.read(index) for index, number in enumerate(source.numbers)}


def _predict(run: Path, cell: str, folder: Path, out: Path, *, adapted: bool) -> None:
    command = [sys.executable, "-m", "hpcseg", "predict", cell, str(folder), "-o", str(out), "--run", str(run)]
    # The values are those of the training's scale, also where noise makes them look otherwise.
    options = ["--range", "0", str(_FULL), *(["--adapt-norm"] if adapted else [])]
    subprocess.run([*command, *options], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
