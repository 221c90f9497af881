"""A packed file or a finished prediction in, a scene of lazily read layers for a viewer out. No torch, no viewer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.store import is_packed_file, read_info, read_slices
from hpcseg.errors import ConfigError, DatasetError, IncompleteError
from hpcseg.predict.layers import open_target
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.schema import Finished
from hpcseg.predict.target import Layer
from hpcseg.predict.volume import check_same, describe, open_volume
from hpcseg.slices.source import VoxelSize, choose_slices


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
    voxel: VoxelSize | None
    """None: not known."""


def open_scene(path: Path) -> Scene:
    """What there is to see of a packed file, or of the folder of a finished prediction.

    Raises:
        ConfigError: there is neither, or the input of the prediction is another one now.
        DatasetError: it cannot be read any more, or its slices are of several sizes.
        IncompleteError: the prediction is not finished.
    """
    if path.is_dir():
        return _prediction(path)
    if path.suffix not in (".h5", ".hdf5") and not is_packed_file(path):  # which is missed, or damaged, by its name
        raise ConfigError(
            f"{path} is no packed file and no folder of a prediction. `hpcseg pack` and `hpcseg predict` make these."
        )
    return _packed(path)


def _packed(path: Path) -> Scene:
    info = read_info(path)
    values = np.array(info.class_values).astype(info.label_dtype)

    @functools.lru_cache(maxsize=1)
    def both(index: int) -> tuple[np.ndarray, np.ndarray]:
        image, classes = read_slices(path, index, index + 1)
        return image[0], values[classes[0]]

    slices = ShownLayer("slices", np.dtype(info.dtype), lambda index: both(index)[0])
    labels = ShownLayer("labels", values.dtype, lambda index: both(index)[1], are_labels=True)
    return Scene(info.shape, (slices, labels), info.voxel)


def _prediction(out: Path) -> Scene:
    folder = OutFolder(out)
    if not folder.record_file.exists() or (record := folder.record()) is None:
        raise ConfigError(f"{out} is no folder of a prediction. `hpcseg predict MODEL SLICES -o OUT` makes one.")
    if not isinstance(record, Finished):
        raise IncompleteError(f"The prediction in {out} is not finished. The same `hpcseg predict` goes on with it.")
    asked = record.asked
    whole = open_volume(out / record.input.path, asked.how)
    volume = choose_slices(whole, every=asked.every or None, slices=asked.slices or None)
    check_same(folder, record.input, describe(volume, out), volume, lambda *_: None)
    if len(set(volume.shapes)) > 1:
        raise DatasetError(f"The slices of {volume.path} are of several sizes, which are no stack. Look at sheet.png.")
    layers = [Layer(name, np.dtype(layer.dtype), layer.meaning) for name, layer in record.layers.items()]
    target = open_target(out, volume, layers, asked.format or None)
    shown = [
        ShownLayer(layer.name, layer.dtype, functools.partial(target.read, layer=layer), layer.name == "labels")
        for layer in layers
    ]
    slices = ShownLayer("slices", volume.dtype, volume.read)
    return Scene((len(volume), *volume.shapes[0]), (slices, *shown), volume.voxel)
