"""What `hpcseg predict --adapt-norm` brings on noisy slices and costs on clean ones, by models that have seen no noise.

    python results/predict/adapt_norm.py RUN dataset.h5 SCRATCH > results/predict/adapt_norm.json

RUN is that of results/seeds, whose models of the large set's blocked split without noise in training are taken, with
batch normalisation and without weight decay: as many as have their weights. Every fourth test slice of each goes to
SCRATCH as it is, and with Gaussian noise of sigma 5000, rounded and clipped to uint16 as a detector stores it. They are
segmented with and without the option: all of them as one volume, and three of them each by itself, so that the
statistics are of that slice alone. A training is a repetition, and some are at one position of the blocks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpcseg.data.batches import TileSource, open_source
from hpcseg.records.collect import collect
from hpcseg.records.row import Row
from hpcseg.runs.folder import RunFolder
from hpcseg.slices.opening import open_source as open_slices
from hpcseg.statistics import Estimate, Repetition, counted, difference, estimate

EVERY = 4
SIGMAS = (0, 5000)
FULL = 65_535
TRAINED, ADAPTED, ALONE = "as trained", "--adapt-norm", "--adapt-norm, of one slice"
ALONE_AMONG = "--adapt-norm, the same slices among all"


def main(run: Path, dataset: Path, scratch: Path) -> None:
    """Print a JSON record."""
    rows = [row for row in collect(RunFolder(run)).rows if _is_of_these(row)]
    found: dict[tuple[int, str], list[Repetition]] = {}
    for row in rows:
        source = open_source(dataset, row.config.data)
        indices = [int(index) for index in source.test_slices()[::EVERY]]
        few = indices[:: len(indices) // 2]
        for sigma in SIGMAS:
            folder = scratch / row.id / str(sigma)
            plain = _right(row, run, source, indices, sigma, folder / "plain")
            adapted = _right(row, run, source, indices, sigma, folder / "adapted", "--adapt-norm")
            alone = dict[int, int]()
            for index in few:
                alone |= _right(row, run, source, [index], sigma, folder / f"{index}", "--adapt-norm")
            among = {number: adapted[number] for number in alone}
            for what, right in ((TRAINED, plain), (ADAPTED, adapted), (ALONE, alone), (ALONE_AMONG, among)):
                pixels = np.full(len(right), np.prod(source.info.shape[1:]))
                one = counted(
                    row.config.train.seed, row.position, np.array(list(right)), np.array(list(right.values())), pixels
                )
                found.setdefault((sigma, what), []).append(one)
    gains = {
        "--adapt-norm against as trained": (ADAPTED, TRAINED),
        "of one slice against of all": (ALONE, ALONE_AMONG),
    }
    record = {
        "command": "python results/predict/adapt_norm.py RUN dataset.h5 SCRATCH",
        "cells": [row.id for row in rows],
        "every_so_manyth_test_slice": EVERY,
        "in_per_cent": [{"sigma": sigma, "of": of, **_said(estimate(ones))} for (sigma, of), ones in found.items()],
        "gains_in_points": [
            {"sigma": sigma, "what": what, **_said(difference(found[sigma, ours], found[sigma, theirs]))}
            for sigma in SIGMAS
            for what, (ours, theirs) in gains.items()
        ],
    }
    print(json.dumps(record, indent=1))


def _is_of_these(row: Row) -> bool:
    data, train = row.config.data, row.config.train
    of_set = data.tiles == "large" and data.split == "blocked" and train.noise_fraction == 0
    return of_set and train.batch_norm and not train.weight_decay and row.cell.folder.model_file.exists()


def _right(
    row: Row, run: Path, source: TileSource, indices: list[int], sigma: int, folder: Path, *options: str
) -> dict[int, int]:
    """Pixels of each slice, by its number, that `hpcseg predict` labels as the hand did."""
    (folder / "in").mkdir(parents=True)
    values, true = np.array(source.info.class_values), dict[int, np.ndarray]()
    for index in indices:
        number = int(source.info.numbers[index])
        grey, classes = source.read_slice(index)
        true[number] = values[classes]
        # The same noise whoever segments the slice, and whichever volume it is in.
        drawn = np.random.default_rng(number).normal(0, sigma, grey.shape)
        shown = np.clip(np.rint(grey + drawn), 0, FULL).astype(np.uint16)
        tifffile.imwrite(folder / "in" / f"slice_{number:04}.tif", shown)
    # The values are those of the training's scale, also where noise makes them look otherwise.
    names = [row.id, str(folder / "in"), "-o", str(folder / "out"), "--run", str(run), "--range", "0", str(FULL)]
    subprocess.run([sys.executable, "-m", "hpcseg", "predict", *names, *options], check=True, stdout=sys.stderr)
    labels = open_slices(folder / "out" / "labels")
    found = {number: labels.read(labels.numbers.index(number)) for number in true}
    return {number: int((found[number] == hand).sum()) for number, hand in true.items()}


def _said(of: Estimate | None) -> dict[str, Any]:
    assert of is not None and of.half is not None
    percent = {"mean": of.mean, "half_interval": of.half}
    return {name: round(100 * value, 3) for name, value in percent.items()} | {
        "each": [round(100 * value, 3) for value in of.values]
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
