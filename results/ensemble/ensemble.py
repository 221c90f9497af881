"""What three models together get right that one of them does not, and whether their doubts are where they are wrong.

    python results/ensemble/ensemble.py RUN dataset.h5 results/ensemble

RUN is the finished run of ensemble.toml. At each position of the blocks every fourth test slice is segmented as `hpcseg
predict` does, by each of the three models of that position, by each with `--flips`, and by all three with `--ensemble`:
as it is, and with Gaussian noise, rounded and clipped to uint16 as a detector stores it. A position is a repetition;
what single models get is the mean of its three.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

from hpcseg import api
from hpcseg.data.batches import open_source
from hpcseg.data.store import read_info
from hpcseg.metrics import SURE_BINS, SURE_UNIT, calibration_error
from hpcseg.predict.model_file import Model
from hpcseg.predict.request import Request, in_memory, probability_layer
from hpcseg.predict.work import segment
from hpcseg.records.collect import collect
from hpcseg.records.row import Row
from hpcseg.runs.folder import RunFolder
from hpcseg.segment.network import Wishes
from hpcseg.sheet import COLOURS
from hpcseg.statistics import Estimate, Repetition, counted, difference, estimate, shown_of, weighted

EVERY = 4
FULL = 65_535
SIGMAS = (0, 5000, 10_000)
LOOKED_AT = np.array([0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3])
"""Shares of the pixels that someone looks at, the most doubtful first."""
SAID = 0.05
"""The one of them that the record has an interval of."""
ONE, FLIPS, ALL, SPREAD = "one model", "one model, --flips", "three models", "three models, --spread"
"""Whose labels, and whose doubts where that is another measure than `--uncertainty`."""

Found = dict[tuple[int, str, str], list[Repetition]]
"""By sigma, what was measured, and of whom; one a position."""


def measured(rows: Sequence[Row], run: Path, dataset: Path, sigma: int) -> dict[tuple[str, str], Repetition]:
    """What the models of one position get, alone and together, by what was measured and of whom."""
    source, position = open_source(dataset, rows[0].config.data), rows[0].config.data.split_seed
    models = [api.load_model(row.id, run=run, data=dataset) for row in rows]
    indices = source.test_slices()[::EVERY]
    numbers = np.array(source.info.numbers)[indices]
    slices, labels = zip(*(source.read_slice(int(index)) for index in indices), strict=True)
    shown = np.stack([_noisy(one, sigma, int(number)) for one, number in zip(slices, numbers, strict=True)])
    true = np.array(source.info.class_values)[np.stack(labels)]

    def of(whose: str, *them: Model) -> dict[tuple[str, str], Repetition]:
        return _of(whose, _segmented(them, shown, flips=whose == FLIPS), true, position, numbers)

    singles = [of(ONE, model) | of(FLIPS, model) for model in models]
    means = {key: weighted([(1 / len(models), one[key]) for one in singles]) for key in singles[0]}
    return means | of(ALL, *models)


def _noisy(counts: np.ndarray, sigma: int, number: int) -> np.ndarray:
    # The same noise whoever segments the slice.
    drawn = np.random.default_rng(number).normal(0, sigma, counts.shape)
    return np.clip(np.rint(counts + drawn), 0, FULL).astype(np.uint16)


def _segmented(models: Sequence[Model], shown: np.ndarray, *, flips: bool) -> dict[str, np.ndarray]:
    """(N, H, W) of each layer that predict writes."""
    wishes = Wishes(probabilities=True, uncertainty=True, spread=len(models) > 1, flips=flips, float16=True)
    request = Request(models=(), source=Path("noisy slices"), out=Path(), range_=(0.0, FULL), wishes=wishes)
    # As api.predict, which has no --spread.
    found = [layers for layers, _ in segment(in_memory(request, models, api._as_volume(shown)))]
    layers = {name: np.stack([one[name] for one in found]) for name in found[0]}
    layers["sure"] = np.max([layers.pop(probability_layer(value)) for value in models[0].card.class_values], 0)
    return layers


def _of(
    whose: str, layers: dict[str, np.ndarray], true: np.ndarray, position: int, numbers: np.ndarray
) -> dict[tuple[str, str], Repetition]:
    right = layers["labels"] == true
    shares = np.full(len(numbers), right[0].size)
    found = {("right", whose): counted(position, position, numbers, right.sum((1, 2)), shares)}
    doubts = {whose: layers["uncertainty"]} | ({SPREAD: layers["spread"]} if "spread" in layers else {})
    alone = {("calibration error", whose): _calibration(layers["sure"], right)}
    for name, doubt in doubts.items():
        alone |= {
            (f"caught in {share:g}", name): caught
            for share, caught in zip(LOOKED_AT.tolist(), _caught(doubt, ~right), strict=True)
        }
    return found | {key: Repetition(position, position, value) for key, value in alone.items()}


def _calibration(sure: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error of the probability of the chosen class."""
    sums = np.rint(sure.ravel().astype(np.float64) * SURE_UNIT)
    bins = np.minimum((sums / SURE_UNIT * SURE_BINS).astype(int), SURE_BINS - 1)
    counts = [np.bincount(bins, weights, SURE_BINS) for weights in (None, right.ravel(), sums)]
    return calibration_error(np.stack(counts, 1))


def _caught(doubt: np.ndarray, wrong: np.ndarray) -> list[float]:
    """Share of the wrong pixels among each share of the most doubtful; of pixels in equal doubt some, by chance."""
    values, place = np.unique(doubt.ravel(), return_inverse=True)
    pixels = np.bincount(place, minlength=len(values))[::-1].cumsum()
    errors = np.bincount(place, wrong.ravel(), len(values))[::-1].cumsum()
    at = np.interp(LOOKED_AT * doubt.size, np.append(0, pixels), np.append(0, errors))
    return [float(one) for one in at / wrong.sum()]


def main(run: Path, dataset: Path, out: Path) -> None:
    """Measure, and write ensemble.json and ensemble.png."""
    rows = collect(RunFolder(run)).rows
    positions = sorted({row.config.data.split_seed for row in rows})
    found: Found = {}
    for sigma in SIGMAS:
        for position in positions:
            here = [row for row in rows if row.config.data.split_seed == position]
            for (what, whose), one in measured(here, run, dataset, sigma).items():
                found.setdefault((sigma, what, whose), []).append(one)
        print(sigma, *(_said(estimate(found[sigma, "right", whose])) for whose in (ONE, FLIPS, ALL)), flush=True)
    gains = {
        (sigma, what, whose): difference(found[sigma, what, whose], found[sigma, what, ONE])
        for sigma in SIGMAS
        for what in ("right", "calibration error", f"caught in {SAID:g}")
        for whose in (FLIPS, ALL)
    }
    record = {
        "command": "python results/ensemble/ensemble.py RUN dataset.h5 results/ensemble",
        "data_sha256": read_info(dataset).data_sha256,
        "numbers_of_test_slices": {
            position: one.slices.tolist() for position, one in zip(positions, found[0, "right", ALL], strict=True)
        },
        "in_per_cent": [
            {"sigma": sigma, "what": what, "of": whose, **_said(estimate(of))}
            for (sigma, what, whose), of in found.items()
        ],
        "minus_one_model_in_points": [
            {"sigma": sigma, "what": what, "of": whose, **_said(gain), "shown": shown}
            for ((sigma, what, whose), gain), shown in zip(gains.items(), shown_of(list(gains.values())), strict=True)
        ],
    }
    (out / "ensemble.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(record, out)


def _said(of: Estimate | None) -> dict[str, Any]:
    assert of is not None and of.half is not None
    percent = {"mean": of.mean, "half_interval": of.half}
    return {name: round(100 * value, 3) for name, value in percent.items()} | {
        "each": [round(100 * value, 3) for value in of.values]
    }


def draw(record: dict[str, Any], out: Path) -> None:
    """ensemble.png: wrong pixels of each position, and how many of them the most doubtful pixels hold, the mean."""
    found = {(one["sigma"], one["what"], one["of"]): one for one in record["in_per_cent"]}
    figure, axes = plt.subplots(1, 1 + len(SIGMAS), figsize=(11, 3.4), layout="constrained")
    for number, whose in enumerate((ONE, FLIPS, ALL)):
        for place, sigma in enumerate(SIGMAS):
            wrong = [100 - right for right in found[sigma, "right", whose]["each"]]
            axes[0].plot([place + 0.16 * (number - 1)] * len(wrong), wrong, "o", color=COLOURS[number], markersize=4)
    axes[0].set(ylim=(0, None), ylabel="wrong pixels of whole test slices (%)", xlabel="sigma of the test")
    axes[0].set_xticks(range(len(SIGMAS)), map(str, SIGMAS))
    for panel, sigma in zip(axes[1:], SIGMAS, strict=True):
        for number, whose in enumerate((ONE, FLIPS, ALL, SPREAD)):
            curve = [found[sigma, f"caught in {at:g}", whose]["mean"] for at in LOOKED_AT]
            panel.plot(100 * LOOKED_AT, curve, ".-", color=COLOURS[number], linewidth=1, label=whose)
        panel.set(xscale="log", ylim=(0, 102), title=f"sigma {sigma}", xlabel="most doubtful pixels (%)")
        panel.set_xticks(100 * LOOKED_AT, [f"{100 * at:g}" for at in LOOKED_AT])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
    axes[1].set_ylabel("share of wrong pixels among them (%)")
    axes[-1].legend(loc="lower right", fontsize=8)
    figure.savefig(out / "ensemble.png", dpi=110)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
