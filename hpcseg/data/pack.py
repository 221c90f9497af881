"""Slices and labels of any format in, one packed HDF5 file out; a few slices in memory at a time."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shlex
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.data import store
from hpcseg.data.classes import LARGEST_LABEL, MOST_CLASSES, Classes, no_pixel_of, outside, with_values
from hpcseg.data.grey import check_range, choose_scale
from hpcseg.data.pairs import Pairs, encode_pair, find_pairs, has_label, hash_pair, label_values
from hpcseg.data.processes import in_processes
from hpcseg.data.writer import create
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.files import left_of, remove_left
from hpcseg.memory import keep_freed_memory
from hpcseg.slices.source import Reading, size_in_words
from hpcseg.text import counted

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
    class_map: Classes = Classes(),  # noqa: B008
    force: bool = True,
    on_slice: Callable[[int, int], None] = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> store.DatasetInfo:
    """Pack slices and their labels, paired by their numbers; arguments that are not named here as of `hpcseg.api.pack`.

    Args:
        images: a folder of TIFFs or PNGs, or a volume of any format: uint8, uint16 or float32 grey values; int8, int16,
            float16 and float64 become float32. A pixel that is NaN has no class, whatever its label.
        labels: the same with a whole number per pixel, of some of the slices at least.
        output: the HDF5 file.
        command: what the user typed, for the record.
        class_map: what label values mean. By default each is a class, in ascending order.
        force: replace an output that exists; else it is left as it is if it holds just these slices, labels and classes
            in this grey range, whatever the files were called and however they were compressed.

    Raises:
        DatasetError: what cannot be packed, naming the files.
        ConfigError: the output is one of the slices or labels, or holds something else and is not to be replaced; the
            range is none, or no label has one of the classes.
        HpcsegError: the output cannot be written; nothing is left under its name then.
    """
    keep_freed_memory()
    check_range(grey_range)
    pairs = find_pairs(images, labels, how)
    class_map = class_map.within(pairs.labels.dtype)
    for note in pairs.notes:
        on_note(note)
    if os.path.isdir(output):
        raise ConfigError(
            f"{output} is a folder. Name the file to write: -o {shlex.quote(str(output / 'dataset.h5'))}."
        )
    if os.path.islink(output):  # as to a larger disk
        output = Path(os.path.realpath(output))
    if os.path.exists(output) and any(output.samefile(file) for file in (*pairs.images.files, *pairs.labels.files)):
        raise ConfigError(f"{output} is one of the slices or labels to pack. Write elsewhere with --output.")
    remove_left(left_of(output))
    pairs = _apart(_labelled(pairs, class_map, on_note), on_note)
    if not force and os.path.exists(output):
        if not (different := _difference(output, pairs, class_map, grey_range, on_slice)):
            info, voxel = store.read_info(output), pairs.images.voxel
            if voxel is not None and voxel != info.voxel:
                before = info.voxel.text() if info.voxel else "of unknown size"
                on_note(f"voxels are {voxel.text()}, and {before} in {output}; --force packs the slices again.")
            return info
        raise ConfigError(
            f"{output} exists already and does not hold these slices: {different}. "
            f"`hpcseg info {shlex.quote(str(output))}` shows what it holds. Write elsewhere with -o OTHER.h5: models "
            "that were trained on this file need it for predict and export. Or `hpcseg export` them, then replace it "
            "with --force."
        )
    # Classes without a map are known only when all labels were seen, and reading all of them first takes long. So what
    # a few labels have is taken for all there is; a slice that has more shows itself, and only then the rest is read.
    step = max(_LABEL_STEP, -(-len(pairs) // _MOST_LABELS_LOOKED_AT))
    few = pairs.only(range(0, len(pairs), step))
    for looked_at in (pairs,) if class_map.runs else (few, pairs):
        classes = class_map if class_map.runs else _classes_of(looked_at, class_map)
        if len(classes) < 2 and looked_at is few:
            continue
        try:
            _write(pairs, classes, output, command=command, grey_range=grey_range, on_slice=on_slice)
        except _UnknownLabelError as error:
            (unknown,) = error.args
        else:
            return store.read_info(output)
    raise DatasetError(_stray(pairs, unknown, class_map))


class _UnknownLabelError(Exception):
    """The label of a slice, whose index is the argument, has a value that no class has."""


def _write(
    pairs: Pairs,
    classes: Classes,
    output: Path,
    *,
    command: str,
    grey_range: tuple[float, float] | None,
    on_slice: Callable[[int, int], None],
) -> None:
    """Write the whole file, if labels have these values and no others; raises _UnknownLabelError otherwise."""
    if len(classes) < 2:
        have = f"the one value {classes.names[0]}" if classes.names else "no value"
        besides = f" besides {', '.join(map(str, classes.ignored))}" if classes.ignored else ""
        raise DatasetError(f"All labels in {pairs.labels.path} have {have}{besides}; classes need two.")
    images = pairs.images
    with create(output, slices=len(pairs), shape=images.shapes[0], dtype=images.dtype) as writer:
        there = np.zeros(len(classes), dtype=bool)
        with _each(pairs, encode_pair, classes, writer.pixels) as packed:
            for index, encoded in enumerate(packed):
                if encoded is None:
                    raise _UnknownLabelError(index)
                writer.add(encoded)
                there |= encoded.row["class_counts"] > 0
                on_slice(index + 1, len(pairs))
        if not there.all():
            raise no_pixel_of(classes.values[there.argmin()], classes.names[there.argmin()])
        writer.finish(pairs, classes, grey_range=grey_range, command=command)


def _labelled(pairs: Pairs, class_map: Classes, on_note: Callable[[str], None]) -> Pairs:
    """Those of them whose label has a pixel that is not ignored, which is noted; raises DatasetError where none has."""
    if not class_map.ignored:
        return pairs
    with _each(pairs, has_label, class_map.ignored) as found:
        having = list(found)
    if not any(having):
        named = ", ".join(map(str, class_map.ignored))
        raise DatasetError(f"No label in {pairs.labels.path} has a pixel of another value than {named}.")
    left_out = [name for name, there in zip(pairs.images.names, having, strict=True) if not there]
    if not left_out:
        return pairs
    of = f"{len(left_out)} of {len(pairs)} slices"
    on_note(f"{of} have no label on any pixel and are left out, such as {left_out[0]}.")
    return pairs.only(index for index, there in enumerate(having) if there)


def _apart(pairs: Pairs, on_note: Callable[[str], None]) -> Pairs:
    """The same, with the depth of a voxel as these slices lie apart, of which others in between may be left out."""
    images = pairs.images
    steps = {step / pairs.step for step in np.diff(images.numbers).tolist()}
    if images.voxel is None or steps <= {1.0}:
        return pairs
    if len(steps) > 1:
        depth = images.voxel.with_unit(f"{images.voxel.depth:g}")
        on_note(f"the slices lie unevenly apart: the depth of a voxel, {depth}, stays that of {images.path.name}.")
        return pairs
    voxel = replace(images.voxel, depth=images.voxel.depth * steps.pop())
    return replace(pairs, images=replace(images, voxel=voxel))


def _difference(
    output: Path,
    pairs: Pairs,
    class_map: Classes,
    grey_range: tuple[float, float] | None,
    on_slice: Callable[[int, int], None],
) -> str:
    """In words the first thing in which a file is not what would be packed; "" where it is just that.

    Without a map classes may be called anything. Damage to the packed pixels does not count: that is `store.verify`.
    """
    try:
        info = store.read_info(output)
    except DatasetError:
        return "no packed slices that can be read"
    classes, quantiles = class_map.of_each(info.class_values), info.grey.quantiles
    if classes.values != info.class_values or (class_map.runs and classes.names != info.class_names):
        ours = (classes.values, classes.names)
        there, here = (", ".join(with_values(*one)) for one in ((info.class_values, info.class_names), ours))
        return f"its classes are {there}, and these are {here}"
    if class_map.ignored != info.ignored_values:
        there, here = (" and ".join(map(str, values)) or "none" for values in (info.ignored_values, class_map.ignored))
        return f"the label values that it ignores are {there}, and these are {here}"
    if quantiles or grey_range:
        scale = choose_scale(np.dtype(info.dtype), info.full_scale, quantiles or (0.0, 0.0), grey_range)
        if (scale.low, scale.high) != (info.grey.low, info.grey.high):
            there = f"{info.grey.low:g} to {info.grey.high:g}"
            return f"its grey range is {there}, and this would be {scale.low:g} to {scale.high:g}"
    numbers, of_file = pairs.images.numbers, info.numbers.tolist()
    for what, one, other in (("is in it and not here", of_file, numbers), ("is here and not in it", numbers, of_file)):
        if gone := sorted(set(one) - set(other)):
            return f"slice {gone[0]} {what}" + (f", and so are {len(gone) - 1} more" if len(gone) > 1 else "")
    facts = {
        "sizes": (size_in_words(info.shape[1:]), size_in_words(pairs.images.shapes[0])),
        "grey values": (info.dtype, pairs.images.dtype.name),
        "labels": (info.label_dtype, pairs.labels.dtype.name),
    }
    for what, (there, here) in facts.items():
        if there != here:
            return f"its {what} are {there}, and these are {here}"
    # Which values are one class is not in the file, but names are.
    mapped = bool(class_map.runs) or info.class_names != tuple(map(str, info.class_values))
    with _each(pairs, hash_pair, classes) as found:
        for index, (image, label) in enumerate(found):
            for source, has, one, other in (
                (pairs.images, "other pixels", image, info.image_sha256[index]),
                (pairs.labels, f"other pixels{', or other classes' * mapped}", label, info.label_sha256[index]),
            ):
                if one != other:
                    return f"{source.path.name}: {source.names[index]} has {has}"
            on_slice(index + 1, len(pairs))
    return ""


def processes_for(pairs: Pairs) -> int:
    """How many are worth their start, and have room for a slice as it was read and while it is worked on."""
    pixels = math.prod(pairs.images.shapes[0])
    room = _BYTES_IN_FLIGHT // (5 * pixels * (pairs.images.dtype.itemsize + pairs.labels.dtype.itemsize))
    worth = len(pairs) * pixels // _PIXELS_PER_PROCESS
    return min(len(os.sched_getaffinity(0)), _MOST_PROCESSES, room, worth)


def _each(pairs: Pairs, work: Callable[..., Any], *more: Any) -> contextlib.closing[Generator[Any, None, None]]:
    """What `work(pairs, *more, index)` makes of each slice, in order; the end of the block ends the processes."""
    call = functools.partial(work, pairs, *more)
    found = in_processes(call, range(len(pairs)), processes=processes_for(pairs))
    return contextlib.closing(found)


def _classes_of(pairs: Pairs, class_map: Classes) -> Classes:
    """A class of each value that these labels have where the images have grey values."""
    labels, seen = pairs.labels, set[int]()
    with _each(pairs, label_values) as found:
        for name, values in zip(labels.names, found, strict=True):
            seen.update(set(values) - set(class_map.ignored))
            if len(seen) > MOST_CLASSES:
                raise DatasetError(
                    f"{labels.path}: with {name} the labels have more than {MOST_CLASSES} different values. "
                    "Labels hold one whole number per class; are these grey values? If they number grains or "
                    'particles, say which are one class: --classes "0=background,1-65535=grain".'
                )
    if max(seen, default=0) > LARGEST_LABEL:
        raise DatasetError(f"Labels in {labels.path} have the value {max(seen)}; at most {LARGEST_LABEL} fits.")
    return class_map.of_each(seen)


def _stray(pairs: Pairs, index: int, class_map: Classes) -> str:
    """What a label has that is no class, with what to do."""
    name = f"{pairs.labels.path}: {pairs.labels.names[index]}"
    if not class_map.runs:
        return f"{name} was changed while it was packed. Pack again."
    pixels, label = pairs.read(index)
    missing = outside(pixels)
    values, counts = np.unique(label if missing is None else label[~missing], return_counts=True)
    strays = [number for number, value in enumerate(values) if class_map.indices(np.array([value])) is None]
    worst = strays[int(counts[strays].argmax())]
    more = f" and {len(strays) - 1} more such values" if len(strays) > 1 else ""
    return (
        f"{name} has {counted(int(counts[worst]), 'pixel')} of the value {values[worst]}{more}, which no class of "
        f"--classes has. Name it there, or train on no such pixel: --ignore {values[worst]}."
    )
