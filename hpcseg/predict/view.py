"""A packed file or a finished prediction in, a scene of lazily read layers for a viewer out. No torch, no viewer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.store import read_info, read_slices
from hpcseg.errors import DatasetError
from hpcseg.predict.finished import open_finished
from hpcseg.slices.source import VoxelSize


@dataclass(frozen=True)
class ShownLayer:
    """A stack that is read slice by slice."""

    name: str
    dtype: np.dtype
    read: Callable[[int], np.ndarray]
    """Of a slice, (H, W)."""
    are_labels: bool = False


@dataclass(frozen=True)
class Scene:
    """Layers of one size over each other."""

    shape: tuple[int, int, int]
    layers: tuple[ShownLayer, ...]
    scale: tuple[float, float, float] | None = None
    """Depth, height and width of a voxel; None: not known."""
    unit: str = ""
    """Of the scale."""


def open_scene(path: Path) -> Scene:
    """What there is to see of a packed file, or of the folder of a finished prediction.

    Raises:
        ConfigError, DatasetError, IncompleteError: there is neither, or it cannot be shown.
    """
    return _prediction(path) if path.is_dir() else _packed(path)


def _packed(path: Path) -> Scene:
    info = read_info(path)
    values = np.array(info.class_values).astype(info.label_dtype)

    @functools.lru_cache(maxsize=1)
    def both(index: int) -> tuple[np.ndarray, np.ndarray]:
        image, classes = read_slices(path, index, index + 1)
        return image[0], values[classes[0]]

    return Scene(
        info.shape,
        (
            ShownLayer("slices", np.dtype(info.dtype), lambda index: both(index)[0]),
            ShownLayer("labels", values.dtype, lambda index: both(index)[1], are_labels=True),
        ),
        *_scale(info.voxel, every=1),
    )


def _prediction(out: Path) -> Scene:
    found = open_finished(out)
    volume, target = found.volume, found.target
    if len(set(volume.shapes)) > 1:
        raise DatasetError(f"The slices of {volume.path} are of several sizes, which are no stack. Look at sheet.png.")
    return Scene(
        (len(volume), *volume.shapes[0]),
        (
            ShownLayer("slices", volume.dtype, volume.read),
            *(
                ShownLayer(
                    layer.name,
                    layer.dtype,
                    functools.partial(target.read, layer=layer),
                    are_labels=layer.name == "labels",
                )
                for layer in found.layers
            ),
        ),
        *_scale(volume.voxel, every=volume.every),
    )


def _scale(voxel: VoxelSize | None, *, every: int) -> tuple[tuple[float, float, float] | None, str]:
    """Depth, height and width of a voxel where every so-manieth slice is shown, and their unit."""
    return (None, "") if voxel is None else ((voxel.depth * every, voxel.height, voxel.width), voxel.unit)
