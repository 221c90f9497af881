"""What a source of slices is, whatever file it came from: numbers, names, sizes, and a way to read one.

A format's module makes a `Source` of a path; `as_grey_values` and `as_labels` say what its pixels are taken for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpcseg.errors import ConfigError, DatasetError, HpcsegError
from hpcseg.slices.neighbours import neighbours
from hpcseg.slices.sizes import refuse_large
from hpcseg.text import shortened

Form = Literal["folder", "stack", "hdf5", "zarr", "mrc", "raw", "nifti", "npy"]
_MOST_FAULTS = 10
_MOST_SHOWN = 500
# What ImageJ and OME call the unit of an image without one.
_NO_LENGTHS = ("pixel", "pixels", "voxel", "voxels", "reference frame")


@dataclass(frozen=True)
class VoxelSize:
    """Of a volume, in `unit`."""

    depth: float
    height: float
    width: float
    unit: str
    """Empty: none is said, and the sizes are proportions."""
    depth_said: bool = field(default=True, compare=False)
    """False: no depth is said, and the width stands for it."""

    @property
    def sizes(self) -> tuple[float, float, float]:
        """Depth, height and width."""
        return self.depth, self.height, self.width

    def with_unit(self, size: str) -> str:
        """A size, as text, with the unit, or the words that there is none."""
        return f"{size} {self.unit or 'without a unit'}"

    def text(self) -> str:
        """In words."""
        sizes = self.with_unit(f"{self.depth:g} x {self.height:g} x {self.width:g}")
        unsaid = "" if self.depth_said else "; no depth is said, the width stands for it"
        return f"{sizes} (depth, height, width{unsaid})"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a user says about a source, where its files do not."""

    dataset: str | None = None
    """The data set of an HDF5 file, array or level of a Zarr store, image of an OME-TIFF; None: the only one."""
    number: str | None = None
    """A regular expression whose first group is the number in a file's name; None: what tells the names apart."""
    known: Mapping[str, int] | None = None
    """Numbers of slices by the names of their files without suffix, for a folder of their labels."""
    first: int = 1
    """The number of the first slice of a stack or data set."""
    needs_numbers: bool = True
    """False: the files of a folder are taken in natural order, whatever they are called."""
    pixels: Literal["shown", "stored"] | None = None
    """As their headers say that they are shown, or as they are stored; None: as shown, where all say the same."""
    shape: tuple[int, int, int] | None = None
    """Slices, height and width of a raw file."""
    dtype: str | None = None
    """Of a raw file."""
    byteorder: Literal["little", "big"] | None = None
    """Of a raw file; None: as a file beside it says, else little."""
    header: int = 0
    """Bytes before the first pixel of a raw file."""
    are_labels: bool = False
    """They are classes: where a header says that 0 is white, what whoever wrote them takes for their numbers counts."""
    label_dtype: str | None = None
    """Of a raw file of labels, whose slices are packed with them; None: they are in no such file, or have a header."""
    allow_external: bool = False
    """Files that an HDF5 file or an OME-TIFF names may lie outside of its folder."""

    def __post_init__(self) -> None:
        if self.pixels not in (None, "shown", "stored") or self.byteorder not in (None, "little", "big"):
            raise ConfigError(
                f"--pixels is {self.pixels!r} and --byteorder {self.byteorder!r}, but these are shown or stored, and "
                "little or big."
            )
        if self.shape is not None and (
            not isinstance(self.shape, Sequence) or len(self.shape) != 3 or not all(map(_is_whole, self.shape))
        ):
            raise ConfigError(f"--shape is {self.shape}, but it must be SLICES,HEIGHT,WIDTH.")
        for name in ("header", "first"):
            if not _is_whole(getattr(self, name)):
                raise ConfigError(f"--{name} is {getattr(self, name)!r}, but it must be a whole number.")
        for name in ("dataset", "number"):
            if not isinstance(said := getattr(self, name), str | None):
                raise ConfigError(f"--{name} is {said!r}, but it must be a text.")
        for name in ("dtype", "label_dtype"):  # from Python a type may be named by itself
            if (named := getattr(self, name)) is not None and not isinstance(named, str):
                try:
                    object.__setattr__(self, name, np.dtype(named).str)
                except TypeError:
                    option = name.replace("_", "-")
                    raise ConfigError(f"--{option} is {named!r}, which is no type of numbers.") from None

    def of_images(self, raw: bool) -> Reading:
        """The same of slices that are a raw file or, where their labels are, none: what is said then is of the labels.

        Args:
            raw: whether their file is called as raw ones are.
        """
        of_labels = self.label_dtype is not None and self.dtype is None and not raw
        return replace(self, shape=None, header=0, byteorder=None) if of_labels else self

    def of_labels(self, known: Mapping[str, int] | None, shape: tuple[int, int, int]) -> Reading:
        """The same of the labels of slices that are read so, and have a shape: which counts of a raw file alone."""
        if self.label_dtype is None:
            return replace(self, are_labels=True, known=known, shape=None, dtype=None, header=0, byteorder=None)
        order = None if self.label_dtype[:1] in ("<", ">") else self.byteorder
        of = self.shape or shape
        return replace(self, are_labels=True, known=known, dtype=self.label_dtype, shape=of, byteorder=order)


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
    """Ascending; counted from 1 where not `numbered`."""
    shapes: tuple[tuple[int, int], ...]
    """Height and width of each; in a folder they may differ."""
    dtypes: tuple[np.dtype, ...]
    """As each is read, in native byte order; in a folder they may differ."""
    stored_dtype: np.dtype
    """As the first is stored, whatever it is taken for."""
    decode: Callable[[int], np.ndarray]
    """Of an index the pixels, (H, W). Safe to call from several threads."""
    files: tuple[Path, ...]
    """All that hold pixels, or the folder of a store that does; of a folder one for each slice."""
    voxel: VoxelSize | None = None
    """Of some slices that were chosen, as deep as these lie apart; None: not known."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Of a data set of HDF5: what it says beside that, and is true of labels as well."""
    orientation: int = 1
    """Of TIFFs: the tag that all of them have, and that was applied; 1 where they lie as they are shown."""
    lossy: str = ""
    """Of TIFFs: a compression that may have changed values; else empty."""
    points_to: str = ""
    """Of NIfTI: where its axes point to, as "RAS", and of MRC, as "XYZ"; "" where it does not say."""
    begins: tuple[float, ...] | None = None
    """Of NIfTI and OME-Zarr: how many voxels the first one lies from the origin of their space, along its own axes."""
    axes: str = ""
    """Of HDF5 and Zarr: the names of the array's axes, as "x, y, z"; "" where it has none."""
    turned: bool = False
    """Whether pixels were turned to z, y, x, as these say."""
    shown: bool = True
    """Whether pixels are turned and inverted as their headers say."""
    decoded: int = 0
    """Bytes of the largest chunk or tile, which is decoded for a slice as a whole."""
    notes: tuple[str, ...] = ()
    """What was passed over or applied, a sentence each."""
    numbered: bool = True
    """False: the names of a folder's files say no number of each."""
    every: int = 1
    """Slices of the source from one of these to the next."""
    of: tuple[int, ...] | None = None
    """Where in the source each of these is, from 0; None: these are all."""
    whole: Source | None = None
    """The source that some were chosen of for a prediction, which may have their neighbours; None: all are here."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype:
        """Of the first slice, and so of all once they are grey values or labels."""
        return self.dtypes[0]

    def place(self, index: int) -> int:
        """Where in the source a slice is, from 0."""
        return index if self.of is None else self.of[index]

    def file_of(self, index: int) -> Path:
        """The TIFF that a slice is in, or of a stack the first one."""
        return self.files[self.place(index) if self.form == "folder" else 0]

    def read(self, index: int) -> np.ndarray:
        """One slice: (H, W), native byte order. NaN is a pixel outside of the field of view.

        Raises:
            DatasetError: it cannot be read, is not what its header says, or has no room in memory.
            IndexError: there is none.
        """
        index = range(len(self))[index]  # of -1 the last, whatever a format would make of it
        refuse_large(self.path, max(self.decoded, math.prod(self.shapes[index]) * self.dtypes[index].itemsize))
        with refusing(f"{self.path}: the pixels of {self.names[index]} cannot be decoded"):
            pixels = self.decode(index)
            if pixels.shape != self.shapes[index]:
                raise ValueError(f"they are {pixels.shape}, and the header says {self.shapes[index]}")
            return pixels

    def around(self, index: int, context: int) -> list[int]:
        """Where in the source (as `place`) the slices are that are the channels of one, by `neighbours`."""
        return neighbours((self.whole or self).numbers, self.place(index), context)

    def read_at(self, place: int) -> np.ndarray:
        """The slice at a place of the source, which need be none of these; pixels and errors as of `read`."""
        if self.whole is None:
            return self.read(place)
        assert self.of is not None
        return self.read(self.of.index(place)) if place in self.of else self.whole.read(place)

    def identity(self) -> str:
        """SHA-256 (hex) that changes when a file is written to, replaced or copied, or only touched; reads no pixels.

        The time of a change of the file's entry is among the facts, since no copy and no program can keep that.
        """
        files = [file for root in self.files for file in (sorted(below(root)) if root.is_dir() else [root])]
        facts = [(status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in map(os.stat, files)]
        said = [self.axes] if self.turned else []
        return hashlib.sha256(json.dumps([self.names, self.shapes, facts, *said]).encode()).hexdigest()


def below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files and folders in a folder, also behind links to folders; one that leads back is not followed again.

    Args:
        folder: to list.
        above: where the links lead that were followed to it.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(folder, entry.name)
            yield path
            if entry.is_dir():
                led = frozenset({path.resolve()} if entry.is_symlink() else ())
                if not led & above:
                    yield from below(path, above | led)


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
    chosen = range(first - 1, last, every or 1)
    every = chosen.step if len(chosen) > 1 else 1  # one alone is as deep as it is
    voxel = source.voxel and replace(source.voxel, depth=source.voxel.depth * every)
    return replace(keep(source, chosen), every=every, voxel=voxel, whole=source)


def keep(source: Source, indices: Iterable[int]) -> Source:
    """Some slices of a source as a source."""
    chosen = tuple(indices)
    return replace(
        source,
        names=tuple(source.names[index] for index in chosen),
        numbers=tuple(source.numbers[index] for index in chosen),
        shapes=tuple(source.shapes[index] for index in chosen),
        dtypes=tuple(source.dtypes[index] for index in chosen),
        decode=partial(_of_some, source.decode, chosen),
        of=tuple(source.place(index) for index in chosen),
    )


def _of_some(decode: Callable[[int], np.ndarray], chosen: tuple[int, ...], index: int) -> np.ndarray:
    return decode(chosen[index])


def as_grey_values(source: Source, *, of_any_type: bool = False) -> Source:
    """Slices of one type in which they are packed and segmented: int16, int8 and float16 exactly, float64 rounded.

    Args:
        source: of any pixels.
        of_any_type: whole numbers of 32 and 64 bits are left as they are, for whoever maps them.

    Raises:
        DatasetError: they have several types, or one that is not understood; reading one with infinite values.
    """
    first = source.dtypes[0]
    named = zip(source.names, source.dtypes, strict=True)
    others = [f"{name} is {dtype}, but {source.names[0]} is {first}" for name, dtype in named if dtype != first]
    raise_faults(source.path, others)
    packed = np.dtype("f4") if first.name in ("int8", "int16", "float16", "float64") else first
    if packed.name not in ("uint8", "uint16", "float32") and not (of_any_type and first.kind in "ui"):
        raise DatasetError(
            f"{source.path} holds {first} grey values; uint8, uint16, int8, int16 and float16 to float64 are "
            "understood. Convert the slices first."
        )
    return replace(source, dtypes=(packed,) * len(source), decode=partial(_grey, source, packed))


def _grey(source: Source, dtype: np.dtype, index: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        pixels = source.read(index).astype(dtype, copy=False)
    if dtype.kind == "f" and np.isinf(pixels).any():
        raise DatasetError(
            f"{source.path}: {source.names[index]} holds infinite values, or such beyond float32. Replace them first."
        )
    return pixels


def as_labels(source: Source) -> Source:
    """Slices of whole numbers of one type: 1-bit masks as 0 and 1, several types as one that has room for all.

    Floating-point labels are taken where all of a slice's are whole numbers.

    Raises:
        DatasetError: they are no numbers; reading one that has other than whole numbers.
    """
    as_whole: dict[str, np.dtype] = {"b": np.dtype("u1"), "f": np.dtype("i4")}
    dtype = np.result_type(*{as_whole.get(dtype.kind, dtype) for dtype in source.dtypes})
    if dtype.kind not in "ui":  # as of uint64 and a signed type
        types = ", ".join(sorted(set(map(str, source.dtypes))))
        raise DatasetError(f"{source.path} holds {types}, but classes are whole numbers of one type.")
    return replace(source, dtypes=(dtype,) * len(source), decode=partial(_label, source, dtype))


def _label(source: Source, dtype: np.dtype, index: int) -> np.ndarray:
    pixels = source.read(index)
    if pixels.dtype.kind == "f":
        most, pixels = np.iinfo(dtype).max, pixels.astype(np.float64, copy=False)
        whole = (pixels == np.rint(pixels)) & (abs(pixels) < most)
        if not whole.all():
            other = pixels[~whole]
            way = "Were labels smoothed or interpolated?"
            if np.isnan(other).all():
                way = "Write a number of its own where nobody has labelled, such as 255, and pack with --ignore 255."
            raise DatasetError(
                f"{source.path}: {source.names[index]} has {other.size} pixels of no whole number below {most}, such "
                f"as {other[0]:g}, but a class is one. {way}"
            )
    return pixels.astype(dtype, copy=False)


def raise_faults(path: Path, faults: Sequence[str]) -> None:
    """Raises DatasetError with all faults of a source, or ten of them, if it has any; each lacks its full stop."""
    if faults:
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise DatasetError(f"{path} cannot be used: {'; '.join(faults[:_MOST_FAULTS])}{more}.")


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Tells as DatasetError, in one sentence, whatever a format's library raises; they have no class in common."""
    try:
        yield
    except HpcsegError:
        raise
    except Exception as error:
        raise DatasetError(f"{what} ({first_line(error)}).") from None


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name; not all of it where it has a long text of a file."""
    return shortened((str(error).splitlines() or [""])[0], _MOST_SHOWN) or type(error).__name__


def voxel_size(sizes: Iterable[object], unit: object) -> VoxelSize | None:
    """Depth, height and width where they are known and positive, else None: what is only copied never ends the work.

    A depth of None is not said, and the width stands for it. Without a unit (""), as many writers leave it, the sizes
    are proportions, and ones are what is written where nobody knows any.
    """
    try:
        said, *across = sizes
        depth, height, width = (float(size) for size in (across[-1] if said is None else said, *across))  # type: ignore[arg-type]
    except (TypeError, ValueError, LookupError):
        return None
    known = all(math.isfinite(size) and size > 0 for size in (depth, height, width))
    if not known or not isinstance(unit, str) or not unit.isprintable() or unit.casefold() in _NO_LENGTHS:
        return None
    if not unit and {depth, height, width} == {1.0}:
        return None
    return VoxelSize(depth, height, width, unit, said is not None)


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def size_in_words(shape: Iterable[int]) -> str:
    """As 40 x 48."""
    return " x ".join(map(str, shape))
