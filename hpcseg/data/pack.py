"""Folders of TIFF slices and labels in, one packed HDF5 file out; a few slices in memory at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from hpcseg.data import store
from hpcseg.data.tiff import Page, check_images, find_pages, pair
from hpcseg.errors import ConfigError, DatasetError

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_MOST_CLASSES = 256
_LARGEST_LABEL = int(np.iinfo(np.int64).max)  # class values are kept as int64


def pack(
    images: Path, labels: Path, output: Path, *, command: str, on_slice: Callable[[int, int], None] = lambda *_: None
) -> store.DatasetInfo:
    """Pack slices and their labels, paired by the number in their names.

    Args:
        images: a folder of single-page TIFFs, or one stack: uint8, uint16 or float32 grey values.
        labels: the same with a whole number per pixel; sorted, these values become classes 0, 1, ...
        output: the HDF5 file; replaced if it exists.
        command: what the user typed, for the record.
        on_slice: told how many slices of how many are written.

    Raises:
        DatasetError: what cannot be packed, naming the files.
        ConfigError: the output is one of the slices or labels.
        HpcsegError: the output cannot be written; nothing is left under its name then.
    """
    pairs = _find_pairs(images, labels)
    if os.path.exists(output) and any(page.path.samefile(output) for pages in pairs for page in pages):
        raise ConfigError(f"{output} is one of the slices or labels to pack. Write elsewhere with --output.")
    values = _label_values([label for _, label in pairs])
    first, dtype = pairs[0][0], pairs[0][0].dtype
    with store.create(output) as file:
        writer = store.Writer(file, values, len(pairs), (first.shape[0], first.shape[1]), dtype)
        for done, ((_, page), (image, label)) in enumerate(zip(pairs, _ahead(_read_pair, pairs), strict=True), start=1):
            if not np.isin(label, values).all():
                raise DatasetError(f"{page.path}: {page.name} was changed while it was packed. Pack again.")
            writer.add(image, label)
            on_slice(done, len(pairs))
        table = writer.table(
            [image.number for image, _ in pairs],
            [image.name for image, _ in pairs],
            [label.name for _, label in pairs],
        )
        store.finish(
            file,
            table,
            class_values=values,
            label_dtype=pairs[0][1].dtype,
            full_scale=_full_scale(dtype, table),
            command=command,
        )
    return store.read_info(output)


def is_packed(
    images: Path, labels: Path, output: Path, *, on_slice: Callable[[int, int], None] = lambda *_: None
) -> bool:
    """Whether a file holds exactly these slices and labels; stops at the first difference.

    File names and compression do not count, and neither does damage to the packed pixels: that is `store.verify`.

    Args:
        images: as for `pack`.
        labels: as for `pack`.
        output: the file; one that hpcseg cannot read holds something else.
        on_slice: told how many slices of how many are compared.

    Raises:
        DatasetError: the slices or labels cannot be packed at all.
    """
    try:
        info = store.read_info(output)
    except DatasetError:
        return False
    pairs = _find_pairs(images, labels)
    image, label = pairs[0]
    numbers = [page.number for page, _ in pairs]
    if (numbers, image.shape, image.dtype.name, label.dtype.name) != (
        info.numbers.tolist(),
        info.shape[1:],
        info.dtype,
        info.label_dtype,
    ):
        return False
    packed = zip(info.image_sha256, info.label_sha256, strict=True)
    for done, (pixels, hashes) in enumerate(zip(_ahead(_read_pair, pairs), packed, strict=True), start=1):
        if (store.pixels_sha256(pixels[0]), store.pixels_sha256(pixels[1])) != hashes:
            return False
        on_slice(done, len(pairs))
    return True


def _find_pairs(images: Path, labels: Path) -> list[tuple[Page, Page]]:
    image_pages, label_pages = find_pages(images), find_pages(labels)
    check_images(image_pages)
    return pair(image_pages, label_pages)


def _read_pair(pages: tuple[Page, Page]) -> tuple[np.ndarray, np.ndarray]:
    return pages[0].read(), pages[1].read()


def _label_values(pages: list[Page]) -> np.ndarray:
    """All label values, ascending. Takes a pass of its own: classes are known only when all labels were seen."""
    seen: set[int] = set()
    for page, values in zip(pages, _ahead(_unique, pages), strict=True):
        seen.update(values)
        if len(seen) > _MOST_CLASSES:
            raise DatasetError(
                f"{page.path}: with {page.name} the labels have more than {_MOST_CLASSES} different values. "
                "Labels hold one whole number per class; are these grey values?"
            )
    if max(seen) > _LARGEST_LABEL:
        raise DatasetError(
            f"Labels in {pages[0].path.parent} have the value {max(seen)}; at most {_LARGEST_LABEL} fits."
        )
    if len(seen) < 2:
        raise DatasetError(f"All labels in {pages[0].path.parent} have the one value {min(seen)}; classes need two.")
    return np.array(sorted(seen), dtype=pages[0].dtype)


def _unique(page: Page) -> list[int]:
    values: list[int] = np.unique(page.read()).tolist()
    return values


def _full_scale(dtype: np.dtype, table: store.SliceTable) -> float:
    """What grey values are divided by: the largest of the dtype, or of the data where the dtype has no natural end."""
    if dtype.kind == "u":
        return float(np.iinfo(dtype).max)
    largest = float(max(np.abs(table.grey_min).max(), np.abs(table.grey_max).max()))
    return largest or 1.0


def _ahead(read: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """Results of `read` in order, computed by a thread per core at most two items per thread ahead."""
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
