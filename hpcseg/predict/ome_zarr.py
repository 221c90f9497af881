"""Labels, probabilities, uncertainties of slices in, an OME-Zarr (0.5, Zarr v3) of one level for each layer out.

A slice is a chunk, and a chunk is a file of its own, so that any number of processes fill one store in any order. zarr
makes the files in memory; they are written like all that matters, each whole or not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcseg.files import write_bytes
from hpcseg.predict.unfinished import is_there, name_finished, unfinished, where
from hpcseg.slices.calibration import ome_unit
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Source

if TYPE_CHECKING:
    from hpcseg.predict.layers import Layer, Target

_LEVEL = "0"
_METADATA = "zarr.json"


def open_ome_zarr(out: Path, volume: Source, layers: Sequence[Layer]) -> Target:
    """A store for each layer, OUT/LAYER.zarr with the array 0; raises ConfigError where zarr is not installed."""
    return _Stores(out, volume, layers)


class _Stores:
    def __init__(self, out: Path, volume: Source, layers: Sequence[Layer]) -> None:
        self._zarr = load_extra("zarr", "zarr", out)
        self._paths = {layer: out / f"{layer.name}.zarr" for layer in layers}
        self._volume = volume
        self._made: dict[str, tuple[Any, dict[str, Any]]] = {}
        """An array in memory and its files, by the layer's name."""

    def prepare(self) -> bool:
        there = True
        for layer, path in self._paths.items():
            if not is_there(path, _METADATA):
                there = False
                _, files = self._make(layer)
                # The array's before the group's, with which all is there. Two that do it at once write the same.
                for name in sorted(files, key=len, reverse=True):
                    write_bytes(unfinished(path) / name, files[name].to_bytes())
        return there

    def has(self, index: int) -> bool:
        return all((where(path) / _chunk(index)).exists() for path in self._paths.values())

    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        for layer, path in self._paths.items():
            if layer.name not in self._made:
                self._made[layer.name] = self._make(layer)
            array, files = self._made[layer.name]
            array[index] = pixels[layer.name].astype(layer.dtype, copy=False)
            write_bytes(where(path) / _chunk(index), files.pop(_chunk(index)).to_bytes())

    def read(self, index: int, layer: Layer) -> np.ndarray:
        return np.asarray(self._zarr.open_array(where(self._paths[layer]) / _LEVEL, mode="r")[index])

    def sync(self) -> None:
        pass

    def finish(self) -> None:
        for path in self._paths.values():
            name_finished(path)

    def files(self) -> list[str]:
        return [f"{path.name}/" for path in self._paths.values()]

    def notes(self) -> list[str]:
        return []

    def _make(self, layer: Layer) -> tuple[Any, dict[str, Any]]:
        """The array of a layer in memory, and the files of its store by their names."""
        height, width = self._volume.shapes[0]
        files: dict[str, Any] = {}
        store = self._zarr.storage.MemoryStore(files)
        array = self._zarr.create_group(store, attributes={"ome": self._ome(layer)}).create_array(
            _LEVEL,
            shape=(len(self._volume), height, width),
            chunks=(1, height, width),
            dtype=layer.dtype,
            dimension_names=("z", "y", "x"),
            # Of nothing but zeros as well: what is not there is not done.
            config={"write_empty_chunks": True},
        )
        return array, files

    def _ome(self, layer: Layer) -> dict[str, Any]:
        voxel = self._volume.voxel
        unit = {} if voxel is None else {"unit": ome_unit(voxel.unit)}
        depth, height, width = (1.0, 1.0, 1.0) if voxel is None else (voxel.depth, voxel.height, voxel.width)
        scale = [depth * self._volume.every, height, width]
        image = {
            "name": layer.name,
            "axes": [{"name": name, "type": "space", **unit} for name in "zyx"],
            "datasets": [{"path": _LEVEL, "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
        }
        return {"version": "0.5", "multiscales": [image], **({"image-label": {}} if layer.name == "labels" else {})}


def _chunk(index: int) -> str:
    """The file of a slice in a store, as Zarr v3 calls it."""
    return f"{_LEVEL}/c/{index}/0/0"
