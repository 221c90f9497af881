"""Slices with their classes over them in, one picture to look at out: arrays in, the bytes of a PNG out.

`pack` shows what was labelled, so that a wrong pairing is seen, and `predict` what a model made of it. A picture has
at most `MOST_SLICES` slices and is at most `WIDTH` pixels wide. Knows no file: whoever reads a slice thins it first.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which stay apart for colour-blind readers; the order of a report's curves."""
MOST_SLICES = 12
WIDTH = 2000
_PANELS_IN_A_ROW = 6
_LARGEST_PANEL = 640
_GAP, _BETWEEN_GROUPS, _TITLE, _HEADING = 4, 24, 26, 48
_PIXELS_PER_LETTER = 8
_OPACITY = 0.45
_LETTERS_OF_A_NAME = 14
_WIDEST_NAME = 140
_DOTS_PER_INCH = 100


@dataclass(frozen=True, eq=False)
class Seen:
    """One slice as it is shown, thinned."""

    title: str
    """Its number and the names of its files."""
    grey: np.ndarray
    """(H, W), in counts; what is not finite is shown black."""
    classes: np.ndarray
    """(H, W) integers, index into the names of the classes; beyond them nothing lies over the slice."""
    uncertainty: np.ndarray | None = None
    """(H, W), 0 sure to 1 nothing known."""


def step(height: int, width: int) -> int:
    """Every which pixel of a slice of this size is enough to show it."""
    return max(1, math.ceil(max(height, width) / _LARGEST_PANEL))


def draw(slices: Sequence[Seen], classes: Sequence[str], heading: str) -> bytes:
    """A PNG: of each slice the grey values, the same with its classes as colours over them, and its uncertainty.

    Args:
        slices: at most `MOST_SLICES`.
        classes: what each is called.
        heading: over all.
    """
    panels = 3 if any(one.uncertainty is not None for one in slices) else 2
    columns = min(len(slices), _PANELS_IN_A_ROW // panels)
    room = WIDTH - _BETWEEN_GROUPS * (columns + 1) - _GAP * columns * (panels - 1)
    widest = min(_LARGEST_PANEL, room // (columns * panels))
    sizes = [_fitting(one.grey.shape, widest) for one in slices]
    group = panels * widest + _GAP * (panels - 1)
    width = columns * group + _BETWEEN_GROUPS * (columns + 1)
    rows = [sizes[first : first + columns] for first in range(0, len(slices), columns)]
    heights = [max(high for high, _ in row) + _TITLE + _GAP for row in rows]
    # A user's matplotlibrc must not decide how it looks; a name in letters that its font has not is shown as boxes.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.filterwarnings("ignore", message="Glyph")
        height = _HEADING + sum(heights) + _GAP
        figure = Figure(figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH)
        window, colours = _window(slices), _colours(len(classes))
        for number, (one, size) in enumerate(zip(slices, sizes, strict=True)):
            row, column = divmod(number, columns)
            left, top = _BETWEEN_GROUPS + column * (group + _BETWEEN_GROUPS), _HEADING + sum(heights[:row])
            title = _shortened(one.title, group // _PIXELS_PER_LETTER)
            figure.text(left / width, 1 - (top + 5) / height, title, fontsize=9, va="top", parse_math=False)
            for panel in range(panels):
                place = left + panel * (size[1] + _GAP), top + _TITLE
                box = Bbox.from_bounds(place[0], height - place[1] - size[0], size[1], size[0])
                if panel == 2 and one.uncertainty is not None:
                    _put(figure, box, one.uncertainty, cmap="magma", norm=Normalize(0, 1))
                elif panel < 2:
                    _put(figure, box, one.grey, cmap="gray", norm=Normalize(*window))
                if panel == 1:
                    _put(figure, box, _painted(one.classes, colours), interpolation="nearest")
        named = _legend(figure, colours, classes, width // _WIDEST_NAME)
        text = _shortened(heading, (width - named * _WIDEST_NAME) // _PIXELS_PER_LETTER)
        figure.text(_BETWEEN_GROUPS / width, 1 - 14 / height, text, fontsize=10, va="top", parse_math=False)
        buffer = io.BytesIO()
        # Grey values with their noise hardly get smaller: packed as tightly as PNG's default, a sheet would take almost
        # twice as long to make, for an eighth less of it.
        figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _put(figure: Figure, box: Bbox, pixels: np.ndarray, **options: Any) -> None:
    """Put an image into a box, in pixels from below; axes around it, which nobody would see, take longer than it does.

    Args:
        figure: where it goes.
        box: where it goes there.
        pixels: of the image, the uppermost row first.
        options: what matplotlib makes of them.
    """
    image = BboxImage(box, origin="upper", resample=True, **options)
    image.set_data(pixels)
    figure.add_artist(image)


def _legend(figure: Figure, colours: np.ndarray, classes: Sequence[str], room: int) -> int:
    """Name the classes in the upper right corner, of many the first; returns how many names there are."""
    shown = list(zip(colours, classes, strict=True))[: max(1, room // 2)]
    handles = [Patch(color=colour[:3], label=_shortened(name, _LETTERS_OF_A_NAME)) for colour, name in shown]
    if len(shown) < len(classes):
        handles.append(Patch(alpha=0, label=f"and {len(classes) - len(shown)} more"))
    legend = figure.legend(
        handles=handles, loc="upper right", ncols=len(handles), fontsize=9, frameon=False, borderpad=0.6
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return len(handles)


def _fitting(shape: tuple[int, ...], edge: int) -> tuple[int, int]:
    """Height and width of a panel in pixels: as much of a square as the slice fills."""
    scale = edge / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _window(slices: Sequence[Seen]) -> tuple[float, float]:
    """Grey values shown as black and white, the same in all slices, so that one of another kind stands out."""
    values = np.concatenate([one.grey[np.isfinite(one.grey)].ravel() for one in slices])
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-9 * max(1.0, abs(low))))


def _colours(classes: int) -> np.ndarray:
    """(C, 4), of which the last is the opacity."""
    if classes < len(COLOURS):
        rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in COLOURS[:classes]]).reshape(-1, 3)
    else:
        rgb = matplotlib.colormaps["hsv"](np.arange(classes) / classes)[:, :3]
    return np.concatenate([rgb, np.full((classes, 1), _OPACITY)], axis=1)


def _painted(classes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8; what is no class is transparent."""
    palette = np.rint(255 * np.concatenate([colours, np.zeros((1, 4))])).astype(np.uint8)
    beyond = len(colours)
    painted: np.ndarray = palette[np.where((classes >= 0) & (classes < beyond), classes, beyond).astype(np.int64)]
    return painted


def _shortened(text: str, letters: int) -> str:
    """Text on one line that fits: of a long one the ends, of a byte that is no text its escape."""
    text = " ".join(text.encode(errors="backslashreplace").decode().split())
    if len(text) <= letters:
        return text
    left = max(1, (letters - 3) // 2)
    return f"{text[:left]} … {text[-left:]}"
