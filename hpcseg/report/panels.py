"""Figures 1, 4, 5, 6, 8 and 9: slices and tiles with their labels, their noise and what a model makes of them.

The pictures are those that the cells' evaluations kept (`evaluate.examples`); no model is opened here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hpcseg.config import SPLITS, NoiseLevel, Share, Sigma, amount, shown
from hpcseg.data import noise
from hpcseg.data.grey import GreyScale
from hpcseg.data.tiles import tile_corners
from hpcseg.report import paper
from hpcseg.report.collect import Group, Hole, Records, Row
from hpcseg.report.drawn import Drawn

Pictures = Mapping[str, np.ndarray]
Limits = tuple[float, float]

_SHOWN_SIGMAS = (0, 1, 2, 4, 6)
"""In sigmas of the table: of the paper's 5000, to the end of its Figure 7."""
_RIGHT, _WRONG = 0.93, 0.0
_GRID_COLOUR = "#E69F00"


def figure1(records: Records) -> Drawn:
    """One slice and its label with the 3 x 3 grid of tiles."""
    title = "Figure 1: a slice and its label, with the tiles of the large data set (outlined: the small one's)"
    found = _kept(records, "figure1", _any(records), "slice")
    if isinstance(found, Hole):
        return Drawn(title, None, (found,))
    row, pictures = found
    figure, axes = _panels(1, 2, pictures["slice"].shape)
    _grey(axes[0][0], pictures["slice"], _range(pictures["slice"]))
    _classes(axes[0][1], pictures["slice_label"])
    axes[0][0].set_title(f"slice {int(pictures['slice_number'])}")
    axes[0][1].set_title("label")
    size = row.config.data.tile_size
    rows, columns = row.config.data.tile_grid(*pictures["slice"].shape)
    for axis in axes[0]:
        for y, x in tile_corners(*pictures["slice"].shape, rows=rows, columns=columns, size=size):
            axis.add_patch(_square(x, y, size, 1.0))
        axis.add_patch(_square(0, 0, size, 2.5))
    return Drawn(title, figure, (), (row.id,))


def figure4(records: Records) -> Drawn:
    """Test tiles without noise: input, label, prediction, errors."""
    title = "Figure 4: test tiles without noise, their labels, and what the model makes of them"
    return _tiles(records, "figure4", title, _any(records), noisy=False)


def figure5(records: Records) -> Drawn:
    """One slice at several noise levels."""
    title = "Figure 5: one slice at several noise levels"
    found = _kept(records, "figure5", _any(records), "slice")
    if isinstance(found, Hole):
        return Drawn(title, None, (found,))
    row, pictures = found
    counts, table_sigma = pictures["slice"], row.config.evaluate.table_sigma
    shares = isinstance(table_sigma, Share)
    title += f" (sigma {'as a share of the span of grey values' if shares else 'in counts'})"
    # The same draw at all levels, as in the sweep.
    unit = np.random.default_rng(0).standard_normal(counts.shape, dtype=np.float32)
    figure, axes = _panels(1, len(_SHOWN_SIGMAS), counts.shape)
    for axis, times in zip(axes[0], _SHOWN_SIGMAS, strict=True):
        _grey(axis, counts + np.float32(times * _counts(row, table_sigma)) * unit, _range(counts))
        axis.set_title(f"{times * amount(table_sigma):g}{' %' if shares else ''}")
    return Drawn(title, figure, (), (row.id,))


def figure6(records: Records) -> Drawn:
    """The same as Figure 4 with the table's noise on the tiles, of the large 50 % model."""
    title = "Figure 6: test tiles with noise, of the large model with 50 % noise in training"
    return _tiles(records, "figure6", title, _large(records, 0.5), noisy=True)


def figure8(records: Records) -> Drawn:
    """The large model without noise in training and with weight decay, on noisy tiles."""
    title = "Figure 8: test tiles with noise, of the large model without noise in training and with weight decay 1e-2"
    decayed = [
        group
        for group in records.groups
        if group.config.data.tiles == "large"
        and group.config.train.weight_decay == paper.FIGURE_8_WEIGHT_DECAY
        and group.config.train.noise_fraction == 0
    ]
    return _tiles(records, "figure8", title, decayed, noisy=True)


def figure9(records: Records) -> Drawn:
    """A whole slice, segmented in one piece by a model that was trained on tiles."""
    title = "Figure 9: a whole test slice, segmented in one piece by a model that was trained on tiles"
    found = _kept(records, "figure9", _any(records), "slice")
    if isinstance(found, Hole):
        return Drawn(title, None, (found,))
    row, pictures = found
    figure, axes = _panels(1, 4, pictures["slice"].shape)
    _row(axes[0], pictures["slice"], pictures["slice_label"], pictures["slice_prediction"], _range(pictures["slice"]))
    accuracy = _right(pictures["slice_label"], pictures["slice_prediction"])
    axes[0][2].set_title(f"prediction: {accuracy:.3f}")
    axes[0][0].set_ylabel(f"slice {int(pictures['slice_number'])}, {row.config.data.split} split", fontsize=7)
    return Drawn(title, figure, (), (row.id,))


def _tiles(records: Records, name: str, title: str, groups: Sequence[Group], *, noisy: bool) -> Drawn:
    found = _kept(records, name, groups, "tiles")
    if isinstance(found, Hole):
        return Drawn(title, None, (found,))
    row, pictures = found
    sigma: Sigma = row.config.evaluate.table_sigma if noisy else 0.0
    counts, keys = pictures["tiles"], pictures["tile_keys"]
    unit = noise.test_noise(keys, size=counts.shape[-1], seed=row.config.evaluate.seed)
    figure, axes = _panels(len(counts), 4, counts.shape[1:])
    for line, image, drawn, label, predicted, key in zip(
        axes, counts, unit, pictures["tile_labels"], pictures["tile_predictions"][int(noisy)], keys, strict=True
    ):
        _row(line, image + np.float32(_counts(row, sigma)) * drawn, label, predicted, _range(image))
        line[2].set_xlabel(f"{_right(label, predicted):.3f} right", fontsize=7)
        line[0].set_ylabel(f"slice {key[0]}, y {key[1]}, x {key[2]}", fontsize=7)
    for axis, text in zip(axes[0], (f"input, sigma {shown(sigma)}", "label", "prediction", "errors"), strict=True):
        axis.set_title(text)
    accuracy = row.test_accuracy(NoiseLevel(sigma))
    assert accuracy is not None
    said = f"{title} ({row.config.data.split} split, seed {row.config.train.seed}; all test tiles: {accuracy:.3f})"
    return Drawn(said, figure, (), (row.id,))


def _counts(row: Row, sigma: Sigma) -> float:
    """A sigma in counts of the data of an evaluated cell."""
    grey = row.evaluation.grey if row.evaluation else None
    return (grey or GreyScale(0.0, 1.0)).counts(sigma)


def _large(records: Records, fraction: float) -> list[Group]:
    """The groups of Table 2's large models of one noise fraction, shuffled before blocked."""
    places = [("large", split, fraction) for split in SPLITS]
    return [records.positions[place] for place in places if place in records.positions]


def _any(records: Records) -> list[Group]:
    """Table 2's large models first, then whatever else may have kept pictures."""
    large = [group for fraction in paper.NOISE_FRACTIONS for group in _large(records, fraction)]
    return [*large, *(group for group in records.groups if group not in large)]


def _kept(records: Records, name: str, groups: Sequence[Group], what: str) -> tuple[Row, Pictures] | Hole:
    """The first cell of the groups that kept such pictures, with all of them."""
    planned = [row for group in groups for row in group.rows if row.config.evaluate.examples]
    for row in planned:
        if row.evaluation is None:
            continue
        try:
            with np.load(io.BytesIO(row.cell.folder.examples_file.read_bytes())) as file:
                pictures = {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            reason = f"examples.npz of {row.id} cannot be read."
            return Hole(name, reason, f"Delete its evaluation.json. {records.remedy}")
        if what in pictures:
            return row, pictures
    if planned:
        return Hole(name, f"no pictures of {', '.join(row.id for row in planned)}.", records.remedy)
    return Hole(name, "the job has no such cell that keeps pictures (evaluate.examples).", "Choose a job that has one.")


def _panels(rows: int, columns: int, shape: tuple[int, ...]) -> tuple[Figure, list[list[Axes]]]:
    width = 7.2 / columns
    figure = Figure(figsize=(7.2, rows * width * shape[0] / shape[1] + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure, [list(line) for line in axes]


def _row(axes: Sequence[Axes], image: np.ndarray, label: np.ndarray, predicted: np.ndarray, limits: Limits) -> None:
    """Input, label, prediction, and where the prediction is wrong (black)."""
    _grey(axes[0], image, limits)
    _classes(axes[1], label)
    _classes(axes[2], predicted)
    wrong = np.where(label == predicted, _RIGHT, _WRONG)
    axes[3].imshow(wrong, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for axis, text in zip(axes, ("input", "label", "prediction", "errors"), strict=True):
        axis.set_title(text)


def _right(label: np.ndarray, predicted: np.ndarray) -> float:
    """Share of right pixels of one picture."""
    return np.count_nonzero(label == predicted) / label.size


def _range(clean: np.ndarray) -> Limits:
    """Darkest and brightest grey of a picture: a little beyond its values, so that weak noise is not cut off."""
    low, high = np.percentile(clean, (0.5, 99.5))
    margin = 0.1 * (high - low)
    return float(low - margin), float(high + margin)


def _grey(axis: Axes, image: np.ndarray, limits: Limits) -> None:
    axis.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")


def _classes(axis: Axes, classes: np.ndarray) -> None:
    """Black, grey and white, as the labels are painted."""
    axis.imshow(classes, cmap="gray", vmin=0, vmax=max(2, int(classes.max())), interpolation="nearest")


def _square(x: int, y: int, size: int, line: float) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), size, size, fill=False, edgecolor=_GRID_COLOUR, linewidth=line)
