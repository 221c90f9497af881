"""Which part of a virtual data set a source fills, and which part of the source it takes, as HDF5 counts both."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcseg.hdf5 import h5py

# Of each axis where something begins, and the end behind it.
Box = tuple[tuple[int, int], ...]


def fill(filled: Any, part: Any, shape: tuple[int, ...], number: int | None, length: int | None) -> None:
    """Add what a source fills, which others may fill as well.

    Args:
        filled: of the virtual data set.
        part: what of it the source is for.
        shape: of the virtual data set.
        number: of many sources that are counted up, each of which has a block; None: it is one.
        length: how far a source without an end goes; None: as far as it is wanted.
    """
    if part.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        filled.select_all()
        return
    if not part.is_regular_hyperslab():
        for first, last in part.get_select_hyper_blocklist():
            sides = tuple(end - start + 1 for start, end in zip(first, last, strict=True))
            filled.select_hyperslab(tuple(first), (1,) * len(sides), None, sides, op=h5py.h5s.SELECT_OR)
        return
    start, stride, count, block = ([*of] for of in part.get_regular_hyperslab())
    for axis, size in enumerate(shape):
        left = size - start[axis] if length is None else length
        if block[axis] == h5py.h5s.UNLIMITED:
            block[axis] = left
        elif count[axis] == h5py.h5s.UNLIMITED and number is not None:
            start[axis], count[axis] = start[axis] + number * stride[axis], 1
        elif count[axis] == h5py.h5s.UNLIMITED and length is None:
            count[axis] = -(-left // stride[axis])
        elif count[axis] == h5py.h5s.UNLIMITED:
            count[axis], rest = divmod(left, block[axis])
            if rest:  # of the last block
                last = [start[axis] + count[axis] * stride[axis], 1, 1, rest]
                parts = [
                    [*of[:axis], one, *of[axis + 1 :]]
                    for of, one in zip((start, count, stride, block), last, strict=True)
                ]
                filled.select_hyperslab(*map(tuple, parts), op=h5py.h5s.SELECT_OR)
    if all(count) and all(block):
        filled.select_hyperslab(*map(tuple, (start, count, stride, block)), op=h5py.h5s.SELECT_OR)


def along_unlimited(taken: Any, shape: tuple[int, ...]) -> int | None:
    """How long what is taken of a data set of this shape is, where it has no end of its own; None: it has one."""
    if taken.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not taken.is_regular_hyperslab():
        return None
    for length, start, stride, count, block in zip(shape, *taken.get_regular_hyperslab(), strict=True):
        if block == h5py.h5s.UNLIMITED:
            return max(0, int(length - start))
        if count == h5py.h5s.UNLIMITED:
            whole, rest = divmod(max(0, length - start), stride)
            return int(whole * block + min(rest, block))
    return None


def has_room(shape: tuple[int, ...], source: Any) -> bool:
    """Whether a data set of this shape has all that is taken of it, where it is taken."""
    needed = needed_of(source)
    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        return len(needed) == len(shape) and all(side <= length for side, length in zip(needed, shape, strict=True))
    # All of it is taken pixel by pixel: with rows of another length that were others. Slices may follow the last.
    wanted, there = ([side for side in sides if side != 1] for sides in (needed, shape))
    wanted = [1] * (len(there) - len(wanted)) + wanted
    return there[1:] == wanted[1:] and there[:1] >= wanted[:1]


def taken_of(source: Any, shape: tuple[int, ...]) -> Box | None:
    """Where in a data set of this shape, which has room, all lies that is taken of it; None: anywhere."""
    ends = needed_of(source)
    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        return tuple(zip(source.src_space.get_select_bounds()[0], ends, strict=True))
    # Pixel by pixel from the first.
    return tuple((0, end) for end in ends) if ends[1:] == shape[1:] else None


def needed_of(source: Any) -> tuple[int, ...]:
    """The shape that a source has to have: up to the end of what is taken of it, or, if that is all, what it fills."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        return tuple(end + 1 for end in source.src_space.get_select_bounds()[1])
    filled = source.vspace
    if filled.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        return tuple(filled.shape)
    if filled.is_regular_hyperslab():
        _, _, count, block = filled.get_regular_hyperslab()
        # There is no end to all blocks, and a file has one.
        return tuple(
            side if blocks == h5py.h5s.UNLIMITED else side * blocks for side, blocks in zip(block, count, strict=True)
        )
    corners = np.asarray(filled.get_select_hyper_blocklist())  # (blocks, first and last, axes)
    spans = (np.unique(corners[:, :, axis], axis=0).tolist() for axis in range(corners.shape[2]))
    return tuple(len(set().union(*(range(first, last + 1) for first, last in of))) for of in spans)
