"""Does a model survive another exposure of the same sample, and what do augmentation and `--percentiles` do for it?

    python results/exposure/exposure.py RUN dataset.h5 results/exposure

RUN is the finished run of jobs/training.toml (`hpcseg grid --job training --local --workers 2 --set train.width=8`), of
which the models with the paper's training are taken, and those with train.augment = "exposure". Every third test slice
of the blocked split is shown as another scan would have it: its grey values, as shares of their span (0.1 to 99.9 % of
the training slices' pixels), with another gain, offset, gamma or sharpness, and as of a detector with half of the
range; rounded and clipped to uint16. They are segmented as whole slices of one volume, with grey values as they are and
with the volume's at 1 and 99 % mapped to those of the training slices.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.ndimage import gaussian_filter

from hpcseg import api
from hpcseg.data.batches import TileSource, open_source
from hpcseg.records.collect import collect
from hpcseg.records.groups import grouped
from hpcseg.runs.folder import RunFolder
from hpcseg.sheet import COLOURS
from hpcseg.statistics import Estimate, Repetition, counted, difference, estimate, shown_of

EVERY = 3
FULL = 65_535
PERCENTILES = (1.0, 99.0)
EXPOSURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda shares: shares,
    "gain 0.75": lambda shares: (shares - 0.5) * 0.75 + 0.5,
    "gain 1.25": lambda shares: (shares - 0.5) * 1.25 + 0.5,
    "offset -0.1": lambda shares: shares - 0.1,
    "offset +0.1": lambda shares: shares + 0.1,
    "gamma 0.7": lambda shares: np.sign(shares) * np.abs(shares) ** 0.7,
    "gamma 1.4": lambda shares: np.sign(shares) * np.abs(shares) ** 1.4,
    "blur 1 px": lambda shares: gaussian_filter(shares, (0, 1, 1), mode="nearest"),
    "half the range": lambda shares: 0.5 * shares - 0.1,
}
"""What becomes of slices (N, H, W) of shares of the span."""
MODELS = {"the paper's training": "none", "trained with other exposures": "exposure"}
"""The value of train.augment of each."""
MAPPINGS: dict[str, dict[str, tuple[float, float]]] = {
    "as they are": {"range_": (0.0, float(FULL))},
    "by percentiles": {"percentiles": PERCENTILES},
}


def tested(run: Path, source: TileSource, dataset: Path) -> dict[tuple[str, str, str], list[Repetition]]:
    """What each model has right, by exposure, model and mapping."""
    indices = source.test_slices()[::EVERY]
    slices = [source.read_slice(int(index)) for index in indices]
    counts, labels = (np.stack(of) for of in zip(*slices, strict=True))
    low, high = source.info.grey.quantiles
    numbers = np.array(source.info.numbers)[indices]
    values = np.array(source.info.class_values)
    groups = {
        group.config.train.augment: group for group in grouped(collect(RunFolder(run)).rows) if _the_papers(group)
    }
    found: dict[tuple[str, str, str], list[Repetition]] = {}
    for exposure, change in EXPOSURES.items():
        shares = change((counts.astype(np.float64) - low) / (high - low))
        shown = np.clip(np.rint(shares * (high - low) + low), 0, FULL).astype(np.uint16)
        for name, augment in MODELS.items():
            for row in groups[augment].rows:
                model = api.load_model(row.id, run=run, data=dataset)
                for mapping, options in MAPPINGS.items():
                    predicted = api.predict(model, shown, **options)
                    right = (predicted == values[labels]).sum((1, 2))
                    one = counted(row.config.train.seed, 0, numbers, right, np.full(len(numbers), labels[0].size))
                    found.setdefault((exposure, name, mapping), []).append(one)
        print(
            exposure,
            {key[1:]: round(_errors(of)["wrong_percent"], 2) for key, of in found.items() if key[0] == exposure},
        )
    return found


def _the_papers(group: Any) -> bool:
    train = group.config.train
    return (train.schedule, train.keep, train.loss, train.class_weights) == (
        "constant",
        "last",
        "cross-entropy",
        "none",
    )


def _errors(repetitions: list[Repetition]) -> dict[str, Any]:
    found = estimate(repetitions)
    assert found is not None and found.half is not None
    return {
        "wrong_percent": round(100 * (1 - found.mean), 3),
        "half_interval": round(100 * found.half, 3),
        "each": [round(100 * (1 - value), 3) for value in found.values],
    }


def main(run: Path, dataset: Path, out: Path) -> None:
    """Measure, and write exposure.json and exposure.png."""
    rows = collect(RunFolder(run)).rows
    source = open_source(dataset, rows[0].config.data)
    found = tested(run, source, dataset)
    plain, augmented = MODELS
    kept, mapped = MAPPINGS
    pairs = {f"{name}: {mapped} against {kept}": ((name, mapped), (name, kept)) for name in MODELS}
    pairs |= {f"{mapping}: {augmented} against not": ((augmented, mapping), (plain, mapping)) for mapping in MAPPINGS}
    gains: dict[tuple[str, str], Estimate | None] = {
        (what, exposure): difference(found[exposure, *ours], found[exposure, *theirs])
        for what, (ours, theirs) in pairs.items()
        for exposure in EXPOSURES
    }
    marks = dict(zip(gains, shown_of(list(gains.values())), strict=True))
    record = {
        "command": "python results/exposure/exposure.py RUN dataset.h5 results/exposure",
        "data_sha256": source.info.data_sha256,
        "test_slices": [int(number) for number in np.array(source.info.numbers)[source.test_slices()[::EVERY]]],
        "percentiles": PERCENTILES,
        "errors": [
            {"exposure": exposure, "model": model, "grey_values": mapping, **_errors(of)}
            for (exposure, model, mapping), of in found.items()
        ],
        "gains_in_points": [
            {
                "what": what,
                "exposure": exposure,
                "mean": round(100 * gain.mean, 3),
                "half_interval": round(100 * (gain.half or 0.0), 3),
                "shown": marks[what, exposure],
            }
            for (what, exposure), gain in gains.items()
            if gain
        ],
    }
    (out / "exposure.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(record, out)


def draw(record: dict[str, Any], out: Path) -> None:
    """exposure.png: a point per training."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    series = [(name, mapping) for name in MODELS for mapping in MAPPINGS]
    places = list(EXPOSURES)
    for one in record["errors"]:
        number, place = series.index((one["model"], one["grey_values"])), places.index(one["exposure"])
        label = f"{one['model']}, grey values {one['grey_values']}" if place == 0 else None
        at = [place + 0.18 * (number - 1.5)] * len(one["each"])
        axes.plot(at, one["each"], "o", color=COLOURS[number], markersize=4, label=label)
    axes.set(yscale="log", ylabel="wrong pixels of whole test slices (%)")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(places)), places, rotation=30, ha="right")
    figure.legend(loc="outside upper left", ncols=2, fontsize=7.5)
    figure.savefig(out / "exposure.png", dpi=120)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
