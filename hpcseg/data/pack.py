"""Folders of TIFF slices and labels in, one packed HDF5 file out; a few slices in memory at a time."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcseg.counted import counted
from hpcseg.data import store
from hpcseg.data.classes import (
    LARGEST_LABEL,
    MOST_CLASSES,
    Classes,
    ClassMap,
    named_classes,
    one_class_each,
    outside,
    with_values,
)
from hpcseg.data.grey import check_range, choose_scale
from hpcseg.data.pairs import Hashing, LabelValues, Packing, Pairs, find_pairs
from hpcseg.data.processes import in_processes
from hpcseg.data.writer import create
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.memory import keep_freed_memory
from hpcseg.slices.source import Reading

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
    class_map: ClassMap = ClassMap(),  # noqa: B008
    on_slice: Callable[[int, int], None] = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> store.DatasetInfo:
    """Pack slices and their labels, paired by their numbers.

    Args:
        images: a folder of TIFFs, or a volume of any format: uint8, uint16 or float32 grey values; int8, int16,
            float16 and float64 become float32. A pixel that is NaN has no class, whatever its label.
        labels: the same with a whole number per pixel, of some of the slices at least.
        output: the HDF5 file; replaced if it exists.
        command: what the user typed, for the record.
        how: what the files do not say.
        grey_range: grey values that a model meets as 0 and as 1; None: what fits them, as `grey.choose_scale` says.
        class_map: what label values mean. By default each is a class, in ascending order.
        on_slice: told how many slices of how many are written.
        on_note: told in a sentence each what was passed over in the files, or done as their headers ask.

    Raises:
        DatasetError: what cannot be packed, naming the files.
        ConfigError: the output is one of the slices or labels, the range is none, or no label has one of the classes.
        HpcsegError: the output cannot be written; nothing is left under its name then.
    """
    keep_freed_memory()
    check_range(grey_range)
    pairs = find_pairs(images, labels, how)
    for note in pairs.notes:
        on_note(note)
    files = (*pairs.images.files, *pairs.labels.files)
    if os.path.exists(output) and any(file.samefile(output) for file in files):
        raise ConfigError(f"{output} is one of the slices or labels to pack. Write elsewhere with --output.")
    write = functools.partial(_write, pairs, output=output, command=command, grey_range=grey_range, on_slice=on_slice)
    if class_map.classes is not None:
        try:
            write(named_classes(class_map.classes, class_map.ignored))
        except _UnknownLabelError as error:
            raise DatasetError(_stray(pairs, error.index, class_map)) from None
        return store.read_info(output)
    # Classes are known only when all labels were seen, and reading all of them first takes long. So what a few labels
    # have is taken for all there is; a slice that has more shows itself, and only then the rest is looked at.
    few = pairs[:: max(_LABEL_STEP, -(-len(pairs) // _MOST_LABELS_LOOKED_AT))]
    classes = one_class_each(_all_values(few, class_map.ignored), class_map.ignored)
    if len(classes) < 2:
        classes = _all_classes(pairs, class_map.ignored)
    try:
        write(classes)
    except _UnknownLabelError:
        try:
            write(_all_classes(pairs, class_map.ignored))
        except _UnknownLabelError as error:
            name = pairs.labels.names[error.index]
            raise DatasetError(f"{labels}: {name} was changed while it was packed. Pack again.") from None
    return store.read_info(output)


class _UnknownLabelError(Exception):
    """A label has a value that no class has."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _write(
    pairs: Pairs,
    classes: Classes,
    *,
    output: Path,
    command: str,
    grey_range: tuple[float, float] | None,
    on_slice: Callable[[int, int], None],
) -> None:
    """Write the whole file, if labels have these values and no others; raises _UnknownLabelError otherwise."""
    images, labels = pairs.images, pairs.labels
    with create(output, slices=len(pairs), shape=images.shapes[0], dtype=images.dtype) as writer:
        work, counts = Packing(pairs, classes), np.zeros(len(classes), dtype=np.int64)
        with contextlib.closing(in_processes(work, range(len(pairs)), processes=processes_for(pairs))) as packed:
            for index, (pixels, grey, label) in enumerate(packed):
                if label is None:
                    raise _UnknownLabelError(index)
                writer.add(pixels, grey, label)
                counts += label.class_counts
                on_slice(index + 1, len(pairs))
        if not counts.all():
            name = with_values(classes.values, classes.names)[int(counts.argmin())]
            raise ConfigError(f"--classes has {name}, but no label has a pixel of it. Leave it out.")
        writer.finish(
            numbers=images.numbers,
            image_names=images.names,
            label_names=labels.names,
            classes=classes,
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
    class_map: ClassMap = ClassMap(),  # noqa: B008
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
        class_map: as for `pack`; by default classes may be called anything.
        on_slice: told how many slices of how many are compared.

    Raises:
        DatasetError: the slices or labels cannot be packed at all.
    """
    try:
        info = store.read_info(output)
    except DatasetError:
        return False
    check_range(grey_range)
    if class_map.classes is None:
        classes = one_class_each(info.class_values, class_map.ignored)
    else:
        classes = named_classes(class_map.classes, class_map.ignored)
        if classes.names != info.class_names:
            return False
    if classes.values != info.class_values:
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
    packed, hashing = zip(info.image_sha256, info.label_sha256, strict=True), Hashing(pairs, classes)
    with contextlib.closing(in_processes(hashing, range(len(pairs)), processes=processes_for(pairs))) as found:
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


def _all_classes(pairs: Pairs, ignored: tuple[int, ...]) -> Classes:
    """A class of each value that any label has; raises DatasetError for fewer than two."""
    values = _all_values(pairs, ignored)
    if len(values) < 2:
        have = f"the one value {values.pop()}" if values else "no value"
        besides = f" besides {', '.join(map(str, ignored))}" if ignored else ""
        raise DatasetError(f"All labels in {pairs.labels.path} have {have}{besides}; classes need two.")
    return one_class_each(values, ignored)


def _all_values(pairs: Pairs, ignored: tuple[int, ...]) -> set[int]:
    """All values of these labels where the images have grey values, but those that are ignored."""
    labels, seen = pairs.labels, set[int]()
    with contextlib.closing(
        in_processes(LabelValues(pairs), range(len(pairs)), processes=processes_for(pairs))
    ) as found:
        for name, values in zip(labels.names, found, strict=True):
            seen.update(set(values) - set(ignored))
            if len(seen) > MOST_CLASSES:
                raise DatasetError(
                    f"{labels.path}: with {name} the labels have more than {MOST_CLASSES} different values. "
                    "Labels hold one whole number per class; are these grey values? If they number grains or "
                    'particles, say which are one class: --classes "0=background,1-65535=grain".'
                )
    if max(seen, default=0) > LARGEST_LABEL:
        raise DatasetError(f"Labels in {labels.path} have the value {max(seen)}; at most {LARGEST_LABEL} fits.")
    return seen


def _stray(pairs: Pairs, index: int, class_map: ClassMap) -> str:
    """What a label has that is no class of the map, with what to do."""
    assert class_map.classes is not None
    label, missing = pairs.labels.read(index), outside(pairs.images.read(index))
    values, counts = np.unique(label if missing is None else label[~missing], return_counts=True)
    runs = [run for of in class_map.classes.values() for run in of]
    strays = {
        int(value): int(count)
        for value, count in zip(values, counts, strict=True)
        if int(value) not in class_map.ignored and not any(first <= value <= last for first, last in runs)
    }
    value, count = max(strays.items(), key=lambda item: item[1])
    more = f" and {len(strays) - 1} more such values" if len(strays) > 1 else ""
    return (
        f"{pairs.labels.path}: {pairs.labels.names[index]} has {counted(count, 'pixel')} of the value {value}{more}, "
        f"which no class of --classes has. Name it there, or train on no such pixel: --ignore {value}."
    )
