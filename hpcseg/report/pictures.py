"""Figures 1, 4, 5, 6, 8 and 9: slices and tiles with their labels, their noise and what a model makes of them.

The pictures are those that the cells' evaluations kept (`evaluate.examples`); no model is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from hpcseg.config import NoiseLevel
from hpcseg.data import noise
from hpcseg.data.classes import IGNORED
from hpcseg.data.tiles import tile_corners
from hpcseg.records.collect import Records
from hpcseg.records.groups import Group, group_label
from hpcseg.records.row import CLEAN, Hole, Row
from hpcseg.report import paper
from hpcseg.report.curves import Drawn
from hpcseg.report.measures import at
from hpcseg.sigma import Share, Sigma, amount
from hpcseg.statistics import estimate
from hpcseg.text import shown, some_of

Pictures = Mapping[str, np.ndarray]
_Fill = Callable[[Row, Pictures], Figure]
Figures = Callable[[Records], Drawn]
_SHOWN_SIGMAS = (0, 1, 2, 4, 6)
"""In sigmas of the table: of the paper's 5000, to the end of its Figure 7."""
_MOST_IN_LEGEND = 12
_GRID_COLOUR = "#E69F00"
_NO_CLASS = "#BBDDF0"
"""Colour of a pixel without a class: no grey, which would be one."""


def _slice_with_tiles(row: Row, pictures: Pictures) -> Figure:
    shape = pictures["slice"].shape
    figure, (axes,) = _panels(1, ("slice", "label"), shape)
    _grey(axes[0], pictures["slice"], _window(pictures["slice"]))
    _classes(axes[1], pictures["slice_label"], _classes_of(row))
    size, (rows, columns) = row.config.data.tile_size, row.config.data.tile_grid(*shape)
    corners = tile_corners(*shape, rows=rows, columns=columns, size=size)
    for axis in axes:
        for y, x, width in (*((y, x, 1.0) for y, x in corners), (0, 0, 2.5)):
            corner = (x - 0.5, y - 0.5)
            axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=_GRID_COLOUR, linewidth=width))
    return figure


def _noise_levels(row: Row, pictures: Pictures) -> Figure:
    counts, sigma = pictures["slice"], row.config.evaluate.table_sigma
    # The same draw at all levels, as in the sweep.
    unit = np.random.default_rng(0).standard_normal(counts.shape, dtype=np.float32)
    sign = " %" if isinstance(sigma, Share) else ""
    figure, (axes,) = _panels(1, [f"{times * amount(sigma):g}{sign}" for times in _SHOWN_SIGMAS], counts.shape)
    for axis, times in zip(axes, _SHOWN_SIGMAS, strict=True):
        _grey(axis, counts + np.float32(times * row.counts(sigma)) * unit, _window(counts))
    return figure


def _whole_slice(row: Row, pictures: Pictures) -> Figure:
    label, predicted = pictures["slice_label"], pictures["slice_prediction"]
    heads = ("input", "label", f"prediction: {_right(label, predicted):.3f}", "errors")
    figure, (axes,) = _panels(1, heads, pictures["slice"].shape)
    _row(axes, pictures["slice"], label, predicted, _window(pictures["slice"]), _classes_of(row))
    axes[0].set_ylabel(f"slice {int(pictures['slice_number'])}", fontsize=7)
    return figure


def _tiles(*, noisy: bool) -> _Fill:
    def fill(row: Row, pictures: Pictures) -> Figure:
        sigma: Sigma = row.config.evaluate.table_sigma if noisy else 0.0
        counts, keys = pictures["tiles"], pictures["tile_keys"]
        labels, predictions = pictures["tile_labels"], pictures["tile_predictions"][int(noisy)]
        unit = noise.test_noise(keys, size=counts.shape[-1], seed=row.config.evaluate.seed)
        heads = (f"input, sigma {shown(sigma)}", "label", "prediction", "errors")
        figure, axes = _panels(len(counts), heads, counts.shape[1:])
        for line, image, drawn, label, predicted, key in zip(
            axes, counts, unit, labels, predictions, keys, strict=True
        ):
            noisy_image = image + np.float32(row.counts(sigma)) * drawn
            _row(line, noisy_image, label, predicted, _window(image), _classes_of(row))
            line[2].set_xlabel(f"{_right(label, predicted):.3f} right", fontsize=7)
            line[0].set_ylabel(f"slice {key[0]}, y {key[1]}, x {key[2]}", fontsize=7)
        return figure

    return fill


def _best_and_worst(row: Row, pictures: Pictures) -> Figure:
    names = row.evaluation.record.names if row.evaluation else []
    figure, axes = _panels(2, ("input", "label", "prediction", "errors"), pictures["images"].shape[1:])
    for place, (line, word) in enumerate(zip(axes, ("best", "worst"), strict=True)):
        kinds = ("images", "labels", "predictions", "errors")
        image, label, predicted, errors = (pictures[kind][place] for kind in kinds)
        _row(line, image, label, predicted, _window(image), _classes_of(row), errors)
        line[0].set_ylabel(f"{word}: slice {pictures['numbers'][place]}", fontsize=7)
        line[2].set_xlabel(f"{pictures['shares'][place]:.3f} right", fontsize=7)
    shades = [str(place / max(2, len(names) - 1)) for place in range(len(names))]
    patches = [Patch(facecolor=shade, edgecolor="grey", label=name) for shade, name in zip(shades, names, strict=True)]
    del patches[_MOST_IN_LEGEND:]
    if (pictures["labels"] == IGNORED).any():
        patches.append(Patch(facecolor=_NO_CLASS, edgecolor="grey", label="no class"))
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=7)
    return figure


def _picture(
    name: str, choose: Callable[[Records], Sequence[Group]], what: str, fill: _Fill, *, extremes: bool = False
) -> Figures:
    """The figure of the first cell of the chosen groups that kept such pictures."""
    file = "extremes.npz" if extremes else "examples.npz"

    def draw(records: Records) -> Drawn:
        rows = [(group, row) for group in choose(records) for row in group.rows]
        planned = [(group, row) for group, row in rows if extremes or _keeps(row, what)]
        for group, row in planned:
            pictures = row.pictures(extremes=extremes) if row.evaluation else {}
            if pictures is None:
                return Drawn(None, (Hole(name, f"{file} of {row.id} cannot be read.", _again(records, row)),))
            if what in pictures:
                return Drawn(fill(row, pictures), (), _said(records, group, row, pictures))
        kept = (group for group in records.groups if group.config.data.normalise == "full-scale")
        if not any(row.evaluation for row in records.rows) and (planned or (extremes and any(kept))):
            return Drawn(None, (Hole(name, "no cell has been evaluated yet.", records.holes[0].remedy),))
        if planned:
            names = some_of([row.id for _, row in planned])
            if all(row.evaluation for _, row in planned):
                remedy = _again(records, planned[0][1])
                return Drawn(None, (Hole(name, f"no pictures in {file} of {names}.", remedy),))
            return Drawn(None, (records.lacks(name, f"no pictures of {names}."),))
        if extremes:
            # Where tiles are normalised by themselves, a whole slice is no larger tile, and none is kept.
            return Drawn(None)
        settings = "evaluate.examples and evaluate.whole_slices" if what == "slice" else "evaluate.examples"
        reason = f"the job has no such cell that keeps pictures ({settings})."
        return Drawn(None, (records.lacks(name, reason, planned=False),))

    return draw


def _keeps(row: Row, what: str) -> bool:
    """Whether the evaluation of a cell keeps tiles, or a slice."""
    settings = row.config.evaluate
    return settings.examples and (what != "slice" or settings.whole_slices)


def _again(records: Records, row: Row) -> str:
    """What brings back pictures of an evaluated cell: nothing, where its model is elsewhere."""
    if row.cell.folder.model_file.exists():
        return f"Delete its evaluation.json. {records.remedy}"
    return (
        "Build the report where the model was trained: these records have no model, so nothing can be evaluated anew."
    )


def _said(records: Records, group: Group, row: Row, pictures: Pictures) -> dict[str, str]:
    sigma, table = row.config.evaluate.table_sigma, row.test_accuracy(row.noisy)
    model = f"Model: {group_label(group, records.differing)}, seed {row.config.train.seed}"
    other = " The paper shows its model without noise in training; none keeps pictures here."
    seen = " Other tiles of this slice may have been trained on."
    return {
        "model": f"{model} (all test tiles: {row.test_accuracy(NoiseLevel(0.0)):.3f} clean, {table:.3f} noisy).",
        "baseline": other if group.noise else "",
        "seen": "" if group.config.data.split == "blocked" else seen,
        "unit": "in shares of the span of grey values" if isinstance(sigma, Share) else "in counts of grey values",
        "window": "{:,.0f} to {:,.0f}".format(*_window(pictures["slice"])) if "slice" in pictures else "",
    }


def _baseline_first(records: Records) -> list[Group]:
    """The large models without weight decay and with the least noise first, then whatever else may keep pictures.

    Of those alike but for the split the blocked one, whose models have not seen anything of the slice.
    """

    def place(group: Group) -> tuple[object, ...]:
        data, train = group.config.data, group.config.train
        return data.tiles != "large", train.weight_decay, group.noise, data.split != "blocked"

    return sorted(records.groups, key=place)


def _most_accurate(records: Records) -> list[Group]:
    """Of tiles whose grey values are those of slices; without noise, the best first."""
    found = {group: estimate(at(records, CLEAN.key)(group)) for group in records.groups}
    means = {group: one.mean for group, one in found.items() if one and group.config.data.normalise == "full-scale"}
    return sorted(means, key=lambda group: -means[group])


def _half_noisy(records: Records) -> list[Group]:
    return [group for (tiles, _, share), group in records.positions.items() if (tiles, share) == ("large", 0.5)]


def _decayed(records: Records) -> list[Group]:
    wanted = ("large", 0.0, paper.FIGURE_8_WEIGHT_DECAY)
    return [
        group
        for group in records.groups
        if (group.config.data.tiles, group.noise, group.config.train.weight_decay) == wanted
    ]


def _panels(rows: int, heads: Sequence[str], shape: tuple[int, ...]) -> tuple[Figure, list[list[Axes]]]:
    height = rows * 7.2 / len(heads) * shape[0] / shape[1] + 0.35
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots(rows, len(heads), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head)
    return figure, [list(line) for line in axes]


def _row(
    axes: Sequence[Axes],
    image: np.ndarray,
    label: np.ndarray,
    predicted: np.ndarray,
    window: tuple[float, float],
    classes: int,
    errors: np.ndarray | None = None,
) -> None:
    """Input, label, prediction, and where the prediction is wrong (black)."""
    _grey(axes[0], image, window)
    _classes(axes[1], label, classes)
    _classes(axes[2], predicted, classes)
    errors = (label != predicted) & (label != IGNORED) if errors is None else errors
    _grey(axes[3], 0.93 * (1.0 - errors), (0, 1))


def _right(label: np.ndarray, predicted: np.ndarray) -> float:
    """Share of right pixels of one picture, of those that have a class."""
    return int(np.count_nonzero(label == predicted)) / max(1, int(np.count_nonzero(label != IGNORED)))


def _window(clean: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest grey of a picture: a little beyond its values, so that weak noise is not cut off."""
    low, high = np.percentile(clean, (0.5, 99.5))
    margin = 0.1 * (high - low)
    return float(low - margin), float(high + margin)


def _grey(axis: Axes, image: np.ndarray, window: tuple[float, float]) -> None:
    axis.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest")


def _classes(axis: Axes, label: np.ndarray, classes: int) -> None:
    """Black, grey and white, as labels of three classes are painted; pixels without a class in a colour of theirs."""
    axis.set_facecolor(_NO_CLASS)
    _grey(axis, np.ma.masked_equal(label, IGNORED), (0, max(2, classes - 1)))


def _classes_of(row: Row) -> int:
    """How many there are, whichever of them a picture has."""
    return len(row.evaluation.record.class_values) if row.evaluation else 0


PICTURES: dict[str, Figures] = {
    "figure1": _picture("figure1", _baseline_first, "slice", _slice_with_tiles),
    "figure4": _picture("figure4", _baseline_first, "tiles", _tiles(noisy=False)),
    "figure5": _picture("figure5", _baseline_first, "slice", _noise_levels),
    "figure6": _picture("figure6", _half_noisy, "tiles", _tiles(noisy=True)),
    "figure8": _picture("figure8", _decayed, "tiles", _tiles(noisy=True)),
    "figure9": _picture("figure9", _baseline_first, "slice", _whole_slice),
    "best_and_worst": _picture("best_and_worst", _most_accurate, "images", _best_and_worst, extremes=True),
}
"""Those of slices and tiles, by their names."""
