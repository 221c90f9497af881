"""What a source of slices is, whatever file it came from: numbers, names, sizes, and a way to read one.

A format's module makes a `Source` of a path; `as_grey_values` and `as_labels` say what its pixels are taken for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hpcseg.errors import ConfigError, DatasetError

Form = Literal["folder", "stack", "hdf5", "zarr", "mrc", "raw", "nifti"]
Pixels = Literal["shown", "stored"]
_MOST_FAULTS = 10


@dataclass(frozen=True)
class VoxelSize:
    """Of a volume, in `unit`."""

    depth: float
    height: float
    width: float
    unit: str

    def text(self) -> str:
        """In words."""
        return f"{self.depth:g} x {self.height:g} x {self.width:g} {self.unit} (depth, height, width)"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a user says about a source, where its files do not."""

    dataset: str | None = None
    """The data set of an HDF5 file, array or level of a Zarr store, image of an OME-TIFF; None: the only one."""
    number: str | None = None
    """A regular expression whose first group is the number in a file's name; None: what tells the names apart."""
    first: int = 1
    """The number of the first slice of a stack or data set."""
    needs_numbers: bool = True
    """False: the files of a folder are taken in natural order, whatever they are called."""
    pixels: Pixels | None = None
    """As their headers say that they are shown, or as they are stored; None: as shown, where all say the same."""
    shape: tuple[int, int, int] | None = None
    """Slices, height and width of a raw file."""
    dtype: str | None = None
    """Of a raw file."""
    byteorder: Literal["little", "big"] | None = None
    """Of a raw file; None: as a file beside it says, else little."""
    header: int = 0
    """Bytes before the first pixel of a raw file."""
    label_dtype: str | None = None
    """Of a raw file of labels, whose slices are packed with them; None: they are in no such file, or have a header."""

    def __post_init__(self) -> None:
        if self.pixels not in (None, "shown", "stored") or self.byteorder not in (None, "little", "big"):
            raise ConfigError(
                f"--pixels is {self.pixels!r} and --byteorder {self.byteorder!r}, but these are shown or stored, and "
                "little or big."
            )
        if self.shape is not None and len(self.shape) != 3:
            raise ConfigError(f"--shape is {self.shape}, but it must be SLICES,HEIGHT,WIDTH.")

    def of_labels(self) -> Reading:
        """The same of the labels of slices that are read so: of a raw file's size only where they are in one."""
        if self.label_dtype is None:
            return replace(self, shape=None, dtype=None, header=0)
        return replace(self, dtype=self.label_dtype)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The slices of a folder or file, by ascending number. Can be pickled, so that other processes read them."""

    path: Path
    form: Form
    dataset: str | None = None
    """As `Reading.dataset`, where there are several."""
    names: tuple[str, ...]
    """The files' names; of a stack or a data set its name and the slice, from 1."""
    numbers: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    """Height and width of each; in a folder they may differ."""
    dtypes: tuple[np.dtype, ...]
    """As each is read, in native byte order; in a folder they may differ."""
    converted_from: np.dtype | None = None
    """As the slices are stored, once they are taken for grey values."""
    decode: Callable[[int], np.ndarray]
    """Of an index the pixels, (H, W). Safe to call from several threads."""
    files: tuple[Path, ...]
    """One, or one for each slice."""
    pixels_in: tuple[Path, ...] = ()
    """All files that hold pixels, or the folder of a store that does; empty: `files`."""
    voxel: VoxelSize | None = None
    """None: not known."""
    orientation: int = 1
    """Of TIFFs: the tag that all of them have, and that was applied; 1 where they lie as they are shown."""
    notes: tuple[str, ...] = ()
    """What was passed over or applied, a sentence each."""
    every: int = 1
    """Slices of the source from one of these to the next."""
    of: tuple[int, ...] | None = None
    """Where in the source each of these is, from 0; None: these are all."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype:
        """Of the first slice, and so of all once they are grey values or labels."""
        return self.dtypes[0]

    @property
    def stored_dtype(self) -> np.dtype:
        """As its slices are stored."""
        return self.dtype if self.converted_from is None else self.converted_from

    def place(self, index: int) -> int:
        """Where in the source a slice is, from 0."""
        return index if self.of is None else self.of[index]

    def file_of(self, index: int) -> Path:
        """The file that a slice is in."""
        return self.files[self.place(index)] if len(self.files) > 1 else self.files[0]

    def read(self, index: int) -> np.ndarray:
        """One slice: (H, W), native byte order. NaN is a pixel outside of the field of view.

        Raises:
            DatasetError: it cannot be read, or is not what its header says.
        """
        try:
            pixels = self.decode(index)
        except DatasetError:
            raise
        except Exception as error:  # the libraries of the formats share no base class for damaged files
            raise DatasetError(
                f"{self.path}: the pixels of {self.names[index]} cannot be decoded ({first_line(error)})."
            ) from None
        if pixels.shape != self.shapes[index]:
            shape = self.shapes[index]
            raise DatasetError(
                f"{self.path}: {self.names[index]} decodes to {pixels.shape}, and its header says {shape}."
            )
        return pixels

    def by_number(self) -> dict[int, int]:
        """The index of each slice by its number."""
        return {number: index for index, number in enumerate(self.numbers)}

    def identity(self) -> str:
        """SHA-256 (hex) that changes when a file is written to, replaced or copied, or only touched; reads no pixels.

        The time of a change of the file's entry is among the facts, since no copy and no program can keep that.
        """
        roots = self.pixels_in or self.files
        files = [file for root in roots for file in (sorted(root.rglob("*")) if root.is_dir() else [root])]
        facts = [(status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in map(os.stat, files)]
        return hashlib.sha256(json.dumps([self.names, self.shapes, facts]).encode()).hexdigest()


def choose_slices(source: Source, *, every: int | None = None, slices: tuple[int, int] | None = None) -> Source:
    """Some slices of a source as a source: of those from FIRST to LAST, counted from 1, every so-manieth.

    Raises:
        ConfigError: it has no such slices.
    """
    if every is None and slices is None:
        return source
    first, last = slices or (1, len(source))
    if not 1 <= first <= last <= len(source):
        raise ConfigError(
            f"--slices is {first}-{last}, but {source.path} has the slices 1 to {len(source)}. Name some of them."
        )
    return replace(keep(source, range(first - 1, last, every or 1)), every=every or 1)


def keep(source: Source, indices: Iterable[int]) -> Source:
    """Some slices of a source as a source."""
    chosen = tuple(indices)
    return replace(
        source,
        names=tuple(source.names[index] for index in chosen),
        numbers=tuple(source.numbers[index] for index in chosen),
        shapes=tuple(source.shapes[index] for index in chosen),
        dtypes=tuple(source.dtypes[index] for index in chosen),
        decode=_Some(source.decode, chosen),
        of=tuple(source.place(index) for index in chosen),
    )


@dataclass(frozen=True)
class _Some:
    decode: Callable[[int], np.ndarray]
    of: tuple[int, ...]

    def __call__(self, index: int) -> np.ndarray:
        return self.decode(self.of[index])


def as_grey_values(source: Source, *, of_any_type: bool = False) -> Source:
    """Slices of one type in which they are packed and segmented: int16, int8 and float16 exactly, float64 rounded.

    Args:
        source: of any pixels.
        of_any_type: whole numbers of 32 and 64 bits are left as they are, for whoever maps them.

    Raises:
        DatasetError: they have several types, or one that is not understood; reading one with infinite values.
    """
    first, faults = source.dtypes[0], Faults(source.path)
    for name, dtype in zip(source.names, source.dtypes, strict=True):
        if dtype != first:
            faults.add(f"{name} is {dtype}, but {source.names[0]} is {first}")
    faults.raise_if_any()
    packed = as_packed(first)
    if packed not in (np.dtype("u1"), np.dtype("u2"), np.dtype("f4")) and not (of_any_type and first.kind in "ui"):
        raise DatasetError(
            f"{source.path} holds {first} grey values; uint8, uint16, int8, int16 and float16 to float64 are "
            "understood. Convert the slices first."
        )
    return replace(source, dtypes=(packed,) * len(source), decode=_Grey(source, packed), converted_from=first)


def as_packed(dtype: np.dtype) -> np.dtype:
    """The type in which grey values of a type are packed and segmented."""
    return np.dtype("f4") if dtype in (np.dtype(kind) for kind in ("i1", "i2", "f2", "f8")) else dtype


@dataclass(frozen=True)
class _Grey:
    source: Source
    dtype: np.dtype

    def __call__(self, index: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            pixels = self.source.read(index).astype(self.dtype, copy=False)
        if pixels.dtype.kind == "f" and np.isinf(pixels).any():
            raise DatasetError(
                f"{self.source.path}: {self.source.names[index]} holds infinite values. Replace them first."
            )
        return pixels


def as_labels(source: Source) -> Source:
    """Slices of whole numbers of one type: 1-bit masks as 0 and 1, several types as one that has room for all.

    Floating-point labels are taken where all of a slice's are whole numbers.

    Raises:
        DatasetError: they are no numbers; reading one that has other than whole numbers.
    """
    kinds = {np.dtype("u1") if dtype.kind == "b" else dtype for dtype in source.dtypes}
    if any(dtype.kind not in "uif" for dtype in kinds):
        raise DatasetError(
            f"{source.path} holds {source.dtypes[0]}, but a class is a whole number ({source.names[0]})."
        )
    dtype = np.result_type(*({np.dtype("i4") if dtype.kind == "f" else dtype for dtype in kinds}))
    if dtype.kind == "f":  # of uint64 and a signed type
        raise DatasetError(
            f"{source.path} holds labels of types that have none in common: {', '.join(map(str, kinds))}."
        )
    return replace(source, dtypes=(dtype,) * len(source), decode=_Labels(source, dtype))


@dataclass(frozen=True)
class _Labels:
    source: Source
    dtype: np.dtype

    def __call__(self, index: int) -> np.ndarray:
        pixels = self.source.read(index)
        if pixels.dtype.kind == "f":
            most = np.iinfo(self.dtype).max
            whole = (pixels == np.rint(pixels)) & (abs(pixels) < most)
            if not whole.all():
                raise DatasetError(
                    f"{self.source.path}: {self.source.names[index]} has {np.count_nonzero(~whole)} pixels of no whole "
                    f"number below {most}, such as {pixels[~whole][0]:g}, but a class is one. Were labels smoothed or "
                    "interpolated?"
                )
        return pixels.astype(self.dtype, copy=False)


class Faults:
    """Collects what is wrong with a source, to tell it in one error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """A sentence without its full stop."""
        self._texts.append(text)

    def raise_if_any(self) -> None:
        """Raises DatasetError with all that was added, or ten of it."""
        if not self._texts:
            return
        more = len(self._texts) - _MOST_FAULTS
        shown = "; ".join(self._texts[:_MOST_FAULTS]) + (f"; and {more} more" if more > 0 else "")
        raise DatasetError(f"{self._path} cannot be used: {shown}.")


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__


def stack_facts(name: str, slices: int, first: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and numbers of the slices of one file."""
    return tuple(f"{name}#{index + 1}" for index in range(slices)), tuple(range(first, first + slices))


def voxel_size(sizes: Iterable[object], unit: object) -> VoxelSize | None:
    """Depth, height and width where all are known and positive, else None: what is only copied never ends the work."""
    try:
        depth, height, width = (float(size) for size in sizes)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    known = all(math.isfinite(size) and size > 0 for size in (depth, height, width))
    if not known or not isinstance(unit, str) or not unit or not unit.isprintable():
        return None
    return VoxelSize(depth, height, width, unit)


def size_in_words(shape: Iterable[int]) -> str:
    """As 40 x 48."""
    return " x ".join(map(str, shape))
