"""A table of numbers as a picture: each in a field whose colour stands for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

_BRIGHT = 0.5
"""Luminance from which on a field takes black letters."""


def fields(
    panel: Axes,
    values: np.ndarray,
    text: Callable[[float], str],
    rows: Sequence[str],
    columns: Sequence[str],
    colours: str = "cividis",
) -> None:
    """Values (R, C) from the top to the bottom; NaN has no colour and no text."""
    panel.pcolormesh(values, cmap=colours)
    shades = colormaps[colours](Normalize(np.nanmin(values), np.nanmax(values))(values))
    bright = shades[..., :3] @ (0.299, 0.587, 0.114) > _BRIGHT
    for row, column in np.argwhere(np.isfinite(values)):
        panel.text(
            *(column + 0.5, row + 0.5, text(values[row, column])),
            color="black" if bright[row, column] else "white", ha="center", va="center", fontsize=6.5,
        )  # fmt: skip
    panel.set_xticks(np.arange(len(columns)) + 0.5, columns)
    panel.set_yticks(np.arange(len(rows)) + 0.5, rows)
    panel.invert_yaxis()
