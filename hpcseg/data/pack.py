"""Folders of TIFF slices and labels in, one packed HDF5 file out; a few slices in memory at a time."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hpcseg.data import store
from hpcseg.data.classes import MOST_CLASSES, names_of
from hpcseg.data.grey import check_range, choose_scale
from hpcseg.data.pairs import Hashing, LabelValues, Packing, Pairs, find_pairs
from hpcseg.data.processes import in_processes
from hpcseg.data.writer import create
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.memory import keep_freed_memory
from hpcseg.slices.source import Reading

_LARGEST_LABEL = int(np.iinfo(np.int64).max)  # class values are kept as int64
_LABEL_STEP, _MOST_LABELS_LOOKED_AT = 16, 32
_BYTES_IN_FLIGHT = 512 * 2**20
_MOST_PROCESSES = 8  # of 40 MB without a slice; together they keep more than one disk busy
_PIXELS_PER_PROCESS = 2**24  # what is done by the time that a process has started


def pack(
    images: Path,
    labels: Path,
    output: Path,
    *,
    command: str,
    how: Reading = Reading(),  # noqa: B008
    grey_range: tuple[float, float] | None = None,
    class_names: Mapping[int, str] | None = None,
    on_slice: Callable[[int, int], None] = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> store.DatasetInfo:
    """Pack slices and their labels, paired by their numbers.

    Args:
        images: a folder of TIFFs, or a volume of any format: uint8, uint16 or float32 grey values; int8, int16,
            float16 and float64 become float32. A pixel that is NaN has no class, whatever its label.
        labels: the same with a whole number per pixel; sorted, these values become classes 0, 1, ...
        output: the HDF5 file; replaced if it exists.
        command: what the user typed, for the record.
        how: what the files do not say.
        grey_range: grey values that a model meets as 0 and as 1; None: what fits them, as `grey.choose_scale` says.
        class_names: by the values of the labels; a class without a name is called by its value.
        on_slice: told how many slices of how many are written.
        on_note: told in a sentence each what was passed over in the files, or done as their headers ask.

    Raises:
        DatasetError: what cannot be packed, naming the files.
        ConfigError: the output is one of the slices or labels, the range is none, or a name is of no label's value.
        HpcsegError: the output cannot be written; nothing is left under its name then.
    """
    keep_freed_memory()
    check_range(grey_range)
    pairs = find_pairs(images, labels, how)
    for note in dict.fromkeys((*pairs.images.notes, *pairs.labels.notes)):
        on_note(note)
    files = (*pairs.images.files, *pairs.labels.files)
    if os.path.exists(output) and any(file.samefile(output) for file in files):
        raise ConfigError(f"{output} is one of the slices or labels to pack. Write elsewhere with --output.")
    # Classes are known only when all labels were seen, and reading all of them first takes long. So what a few labels
    # have is taken for all there is; a slice that has more shows itself, and only then the rest is looked at.
    few = pairs[:: max(_LABEL_STEP, -(-len(pairs) // _MOST_LABELS_LOOKED_AT))]
    values, names = _all_values(few), class_names or {}
    if len(values) < 2 or set(names) - set(values.tolist()):
        values = _all_values(pairs)
        if len(values) < 2:
            raise DatasetError(f"All labels in {labels} have the one value {values[0]}; classes need two.")
    write = functools.partial(_write, pairs, output=output, command=command, grey_range=grey_range, on_slice=on_slice)
    try:
        write(values, names_of(values.tolist(), names))
    except _UnknownLabelError:
        try:
            values = _all_values(pairs)
            write(values, names_of(values.tolist(), names))
        except _UnknownLabelError as error:
            raise DatasetError(f"{labels}: {error} was changed while it was packed. Pack again.") from None
    return store.read_info(output)


class _UnknownLabelError(Exception):
    """The name of a label that has a value which no class has."""


def _write(
    pairs: Pairs,
    values: np.ndarray,
    class_names: tuple[str, ...],
    *,
    output: Path,
    command: str,
    grey_range: tuple[float, float] | None,
    on_slice: Callable[[int, int], None],
) -> None:
    """Write the whole file, if labels have these values and no others; raises _UnknownLabelError otherwise."""
    images, labels = pairs.images, pairs.labels
    with create(output, slices=len(pairs), shape=images.shapes[0], dtype=images.dtype) as writer:
        work = Packing(pairs, values)
        with contextlib.closing(in_processes(work, range(len(pairs)), processes=processes_for(pairs))) as packed:
            for index, (pixels, grey, label) in enumerate(packed):
                if label is None:
                    raise _UnknownLabelError(labels.names[index])
                writer.add(pixels, grey, label)
                on_slice(index + 1, len(pairs))
        writer.finish(
            numbers=images.numbers,
            image_names=images.names,
            label_names=labels.names,
            class_values=values,
            class_names=class_names,
            source_dtype=images.stored_dtype,
            label_dtype=labels.dtype,
            voxel=images.voxel,
            grey_range=grey_range,
            command=command,
        )


def is_packed(
    images: Path,
    labels: Path,
    output: Path,
    *,
    how: Reading = Reading(),  # noqa: B008
    grey_range: tuple[float, float] | None = None,
    class_names: Mapping[int, str] | None = None,
    on_slice: Callable[[int, int], None] = lambda *_: None,
) -> bool:
    """Whether a file holds exactly these slices and labels, in this grey range; stops at the first difference.

    File names and compression do not count, and neither does damage to the packed pixels: that is `store.verify`.

    Args:
        images: as for `pack`.
        labels: as for `pack`.
        output: the file; one that hpcseg cannot read holds something else.
        how: as for `pack`.
        grey_range: as for `pack`.
        class_names: as for `pack`; None: whatever they are called.
        on_slice: told how many slices of how many are compared.

    Raises:
        DatasetError: the slices or labels cannot be packed at all.
    """
    try:
        info = store.read_info(output)
    except DatasetError:
        return False
    check_range(grey_range)
    if class_names and names_of(info.class_values, class_names) != info.class_names:
        return False
    quantiles = info.grey.quantiles
    if quantiles or grey_range:
        scale = choose_scale(np.dtype(info.dtype), info.full_scale, quantiles or (0.0, 0.0), grey_range)
        if (scale.low, scale.high) != (info.grey.low, info.grey.high):
            return False
    pairs = find_pairs(images, labels, how)
    dtypes = (pairs.images.dtype.name, pairs.labels.dtype.name)
    if (list(pairs.images.numbers), pairs.images.shapes[0], *dtypes) != (
        info.numbers.tolist(),
        info.shape[1:],
        info.dtype,
        info.label_dtype,
    ):
        return False
    packed = zip(info.image_sha256, info.label_sha256, strict=True)
    with contextlib.closing(in_processes(Hashing(pairs), range(len(pairs)), processes=processes_for(pairs))) as found:
        for done, (hashes, wanted) in enumerate(zip(found, packed, strict=True), start=1):
            if hashes != wanted:
                return False
            on_slice(done, len(pairs))
    return True


def processes_for(pairs: Pairs) -> int:
    """How many are worth their start, and have room for a slice as it was read, while it is worked on and sent, and for
    those that wait to be written."""
    pixels = math.prod(pairs.images.shapes[0])
    room = _BYTES_IN_FLIGHT // (5 * pixels * (pairs.images.dtype.itemsize + pairs.labels.dtype.itemsize))
    worth = len(pairs) * pixels // _PIXELS_PER_PROCESS
    return min(len(os.sched_getaffinity(0)), _MOST_PROCESSES, room, worth)


def _all_values(pairs: Pairs) -> np.ndarray:
    """All values of these labels where the images have grey values, ascending."""
    labels, seen = pairs.labels, set[int]()
    with contextlib.closing(
        in_processes(LabelValues(pairs), range(len(pairs)), processes=processes_for(pairs))
    ) as found:
        for name, values in zip(labels.names, found, strict=True):
            seen.update(values)
            if len(seen) > MOST_CLASSES:
                raise DatasetError(
                    f"{labels.path}: with {name} the labels have more than {MOST_CLASSES} different values. "
                    "Labels hold one whole number per class; are these grey values?"
                )
    if max(seen, default=0) > _LARGEST_LABEL:
        raise DatasetError(f"Labels in {labels.path} have the value {max(seen)}; at most {_LARGEST_LABEL} fits.")
    return np.array(sorted(seen), dtype=labels.dtype)
