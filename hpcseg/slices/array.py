"""An array of equal slices in, a source of them out: what all formats but TIFF have in common."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.sizes import refuse_many
from hpcseg.slices.source import Form, Reading, Source
from hpcseg.text import shortened

_MOST_LISTED = 10
# What an array's attributes may say of its pixels, and the values that change nothing.
_OF_PIXELS = {
    "scale_factor": 1,
    "add_offset": 0,
    "scaling": 1,
    "scaling_factor": 1,
    "offset": 0,
    "IMAGE_WHITE_IS_ZERO": 0,
    "_FillValue": None,
    "missing_value": None,
}
# What else axes are called.
_AXES = {
    **dict.fromkeys(("depth", "plane", "slice"), "z"),
    **dict.fromkeys(("height", "row"), "y"),
    **dict.fromkeys(("width", "column", "col"), "x"),
    "channel": "c",
    "time": "t",
}
# Of a picture in colour, whose last axis they are: no slice is so narrow.
_COLOURS = (3, 4)
_MOST_BYTES_KEPT = 256 * 2**20
_LOCK = threading.Lock()


def array_source(
    path: Path,
    form: Form,
    how: Reading,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    load: Callable[..., np.ndarray],
    of: tuple[Any, ...],
    name: str = "",
    axis_names: Sequence[str] = (),
    certain: bool = False,
    together: int = 1,
    chunks: tuple[int, ...] | None = None,
    files: tuple[Path, ...] = (),
    **more: Any,
) -> Source:
    """The source of an array of slices.

    Args:
        path: of its file or store.
        form: of it.
        how: `first` counts, and `pixels`: stored ones are what they are, and in no colour.
        shape: as `slice_axes` understands it.
        dtype: in any byte order.
        load: of what is in `of`, a first slice and the one behind the last: their pixels, (N, H, W) or (H, W) of one.
        of: what `load` needs; can be pickled and hashed.
        name: what its slices are called after; empty: the file.
        axis_names: as `slice_axes` understands them.
        certain: as `slice_axes` understands it.
        together: slices that are decoded together.
        chunks: of the array, where it has any: what is decoded together follows from them.
        files: as of `Source`; empty: `path`.
        more: other fields of `Source`.

    Raises:
        DatasetError: it has other dimensions, no pixels or no numbers, or too many slices.
    """
    where = f"{path}::{more['dataset']}" if more.get("dataset") else path
    axes = slice_axes(shape, axis_names, certain=certain or how.pixels == "stored")
    if axes is None or dtype.kind not in "uifb":
        named = f" of the axes {', '.join(axis_names)}" if any(axis_names) else ""
        raise no_slices(where, f"{shape} {dtype}{named}", shape=shape)
    turned = list(axes) != sorted(axes)
    if turned:
        note = f"the axes are {', '.join(axis_names)}, as the file says, and the pixels were turned to z, y, x."
        more["notes"] = (*more.get("notes", ()), note)
        # So that labels of it, which lie as its slices do, say how.
        more["attributes"] = {**more.get("attributes", {}), "DIMENSION_LABELS": ["z", "y", "x"]}
    native = dtype.newbyteorder("=")
    size, slices = (int(shape[axes[-2]]), int(shape[axes[-1]])), int(shape[axes[0]]) if len(axes) > 2 else 1
    refuse_many(where, slices)
    if chunks is not None:
        together = chunks[axes[0]] if len(axes) > 2 else 1
        more["decoded"] = math.prod(chunks) * dtype.itemsize
    together = max(1, min(together, _MOST_BYTES_KEPT // (size[0] * size[1] * dtype.itemsize)))
    return Source(
        path=path,
        form=form,
        names=tuple(f"{name or path.name}#{number}" for number in range(1, slices + 1)),
        numbers=tuple(range(how.first, how.first + slices)),
        shapes=(size,) * slices,
        dtypes=(native,) * slices,
        stored_dtype=native,
        decode=_Slices(load, of, size, native, together, time.monotonic_ns()),
        files=files or (path,),
        axes=", ".join(axis_names) if are_axes(axis_names, shape) else "",
        turned=turned,
        **more,
    )


def slice_axes(shape: tuple[int, ...], names: Sequence[str] = (), *, certain: bool = False) -> tuple[int, ...] | None:
    """Which axes of an array are slices, height and width, or of one slice height and width; None: it is no volume.

    They are those that are called z (or t, without a z or where it has the length 1), y and x. Where nothing is called
    so, they are the last three of those that there are, but for a channel of length 1 behind them, as ilastik has it.
    All others must have the length 1: of times, or of channels, one would be taken for slices. A last axis of 3 or 4
    behind longer ones is one of colours.

    Args:
        shape: of the array.
        names: of its axes, as its file has them; they count if they are z, y, x, c for channels and t for times, each
            once at most.
        certain: three axes are slices, height and width, whatever their lengths.
    """
    if are_axes(names, shape):
        apart = [name for name in "zt" if name in names]
        meant = [*[*[name for name in apart if shape[names.index(name)] > 1], *apart][:1], "y", "x"]
        others = [length for name, length in zip(names, shape, strict=True) if name not in meant]
        return tuple(map(names.index, meant)) if 0 not in shape and math.prod(others) == 1 else None
    axes = tuple(range(len(shape)))
    if shape[-1:] == (1,) and len(axes) > (3 if certain else 2):
        axes = axes[:-1]
    if len(axes) > 2 and len(names) == len(shape) and names[axes[-3]] == "c" and shape[axes[-3]] > 1:
        return None
    if len(axes) < 2 or 0 in shape or math.prod(shape[axis] for axis in axes[:-3]) != 1:
        return None
    in_colour = not certain and len(axes) > 2 and shape[axes[-1]] in _COLOURS and shape[axes[-2]] > max(_COLOURS)
    return None if in_colour and shape[axes[-3]] > max(_COLOURS) else axes[-3:]


def axis_name(said: object) -> str:
    """What a file calls an axis, as `slice_axes` knows it: z, y, x, c or t for words that mean them."""
    name = str(said).strip().casefold()
    return _AXES.get(name.removesuffix("s"), name)


def are_axes(names: Sequence[str], shape: tuple[int, ...]) -> bool:
    """Whether names are those of the axes of an array, as `slice_axes` has them."""
    return {"y", "x"} <= set(names) <= set("tczyx") and len(set(names)) == len(names) == len(shape)


def slab(array: Any, axes: tuple[int, ...], first: int, last: int) -> np.ndarray:
    """Pixels of some slices of an array whose axes are these, by `slice_axes`: (N, H, W), or (H, W) of one."""
    chosen: list[Any] = [slice(None) if axis in axes else 0 for axis in range(array.ndim)]
    if len(axes) > 2:
        chosen[axes[0]] = slice(first, last)
    return np.asarray(array[tuple(chosen)]).transpose([sorted(axes).index(axis) for axis in axes])


def passed_over(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on what an array's attributes say of its pixels and nobody applies: of netCDF, NeXus and HDF5's images."""
    said = []
    for name, usual in _OF_PIXELS.items():
        with contextlib.suppress(Exception):  # there is none, or of a type that is no number
            value = float(np.asarray(attributes[name]).item())
            said += [f"{name} {value:g}"] if value != usual and not math.isnan(value) else []
    return (f"what it says of its pixels is passed over: {' and '.join(said)}.",) if said else ()


def no_such(path: Path, asked: str | None, found: Mapping[str, Any]) -> ConfigError:
    """What to raise where a name is asked for, or one has to be; `found` are all there are, which have a shape."""
    listing = _listed(found)
    several = asked is None and found
    what = "has several data sets" if several else f"has no data set {asked or 'to read'} of slices"
    return ConfigError(f"{path} {what}. It has {listing}. Name one as {path.name}::NAME.")


def no_slices(
    where: Path | str, what: str, found: Mapping[str, Any] | None = None, *, shape: tuple[int, ...] = ()
) -> DatasetError:
    """What to raise of an array that is named, or that its file calls its data; `found` are those of slices."""
    longer = tuple(length for length in shape if length > 1)
    alone = f", and slices with an axis of length 1 in the middle without it, as {longer}"
    way = alone if len(longer) == 3 < len(shape) and 1 in shape[1:-2] else ""
    others = f" Another is named as FILE::NAME: there is {_listed(found)}." if found else ""
    return DatasetError(
        f"{where} is {what}, and slices of grey values are (slices, height, width) numbers. Of several channels or "
        f"times, save the one to segment{way}.{others}"
    )


def none_of_slices(path: Path, found: Mapping[str, str]) -> ConfigError:
    """What to raise of a file that has no slices; `found` says what there is instead, by name."""
    of = "has no data set to read of slices, which are (slices, height, width) numbers"
    listing = ", ".join([f"{shortened(name)} {what}" for name, what in found.items()][:_MOST_LISTED])
    return ConfigError(f"{path} {of}. It has {listing or 'none'}.")


def _listed(found: Mapping[str, Any]) -> str:
    shown = [f"{shortened(name) or 'the array itself'} {array.shape}" for name, array in found.items()]
    return ", ".join(shown[:_MOST_LISTED]) or "none"


def no_parts(path: Path) -> ConfigError:
    """What to raise where a name is asked for in a file that has no such parts."""
    return ConfigError(
        f"What ::NAME or --dataset names is a part of an HDF5, Zarr or OME file, and {path} is none. Leave it out."
    )


@dataclass(frozen=True)
class _Slices:
    """Reads a slice; those that are decoded together are kept until others are wanted."""

    load: Callable[..., np.ndarray]
    of: tuple[Any, ...]
    size: tuple[int, int]
    dtype: np.dtype
    together: int
    opened_ns: int
    """When, so that what is kept of one opening is not taken for what the file holds at a later one."""

    def __call__(self, index: int) -> np.ndarray:
        if self.together == 1:
            return self.slab(index).reshape(self.size)
        with _LOCK:  # else each thread would read the same slab
            slab = _kept_slab(self, index // self.together)
        pixels: np.ndarray = slab[index % self.together]
        return pixels

    def slab(self, number: int) -> np.ndarray:
        first = number * self.together
        pixels = np.asarray(self.load(*self.of, first, first + self.together))
        return pixels.astype(self.dtype, copy=False).reshape(-1, *self.size)


_kept_slab = functools.lru_cache(maxsize=2)(_Slices.slab)
