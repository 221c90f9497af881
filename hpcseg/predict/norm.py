"""A volume and models in, the models with the statistics of that volume in their batch normalisation out.

The weights stay as they were trained. What is estimated is kept in the folder of the prediction, so that each of its
parts and starts segments with the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from hpcseg.ahead import OnSlice, ahead
from hpcseg.errors import DatasetError, HpcsegError
from hpcseg.files import write_bytes
from hpcseg.learn.precision import to_device
from hpcseg.predict.mapping import Mapping
from hpcseg.predict.model_file import Model
from hpcseg.predict.schema import Statistics
from hpcseg.slices.source import Source

MOST_TILES = 128
TILES_PER_BATCH = 16
# Multiples of the square and the cube of the plastic number's inverse, modulo 1, fill a square evenly (Roberts 2018).
_STEPS = (0.7548776662466927, 0.5698402909980532)


def adapt(models: Sequence[Model], volume: Source, mapping: Mapping, *, file: Path, on_slice: OnSlice) -> None:
    """Give the networks of models the statistics of a volume: those in a file, which is written where it is missing.

    `mapping` is of the volume's grey values, and `on_slice` is told how many tiles of how many were read.

    Raises:
        DatasetError: a slice cannot be read, or is too small for statistics.
        HpcsegError: the file is damaged, or the file system refuses.
    """
    if not file.exists():
        images = _tiles(volume, mapping, models, on_slice)
        found = {
            f"{model.card.model_sha256}.{name}": tensor
            for model in models
            for name, tensor in estimate(model.network, images).items()
        }
        write_bytes(file, safetensors.torch.save(found))
    try:
        kept = safetensors.torch.load_file(file)
        for model in models:
            own = {name: kept[f"{model.card.model_sha256}.{name}"] for name in _names(model.network)}
            model.network.load_state_dict({**model.network.state_dict(), **own})
    except (OSError, safetensors.SafetensorError, KeyError, RuntimeError):
        raise HpcsegError(
            f"{file} does not hold the statistics of these models. Delete it and ask again: they are estimated "
            "once more."
        ) from None


def places(volume: Source, edge: int) -> list[tuple[int, slice, slice]]:
    """Slice, rows and columns of the tiles that a volume is judged by: all of one shape, evenly spaced, no lot drawn.

    At most `MOST_TILES`, and no more than lie side by side. They have `edge` pixels a side, or as many as all slices.
    """
    height, width = (min(edge, *(shape[axis] for shape in volume.shapes)) for axis in (0, 1))
    count = min(MOST_TILES, sum((rows // height) * (columns // width) for rows, columns in volume.shapes))
    found = []
    for number in range(count):
        index = (2 * number + 1) * len(volume) // (2 * count)
        rows, columns = volume.shapes[index]
        top, left = (
            int(((number + 1) * step) % 1 * (length - size + 1))
            for step, length, size in zip(_STEPS, (rows, columns), (height, width), strict=True)
        )
        found.append((index, slice(top, top + height), slice(left, left + width)))
    return found


def describe(volume: Source, models: Sequence[Model]) -> Statistics:
    """By what the statistics are estimated."""
    wanted = places(volume, _edge(models))
    _, rows, columns = wanted[0]
    return Statistics(
        tiles=len(wanted),
        tiles_per_batch=TILES_PER_BATCH,
        shape=[rows.stop - rows.start, columns.stop - columns.start],
        slices=len({index for index, _, _ in wanted}),
    )


def estimate(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Means and variances for the batch normalisations of a network, by the names that they have in its state.

    The network meets batches as in training, normalised by their own statistics, and these are averaged over the
    batches with equal weight. Always in fp32 on a CPU, so that the jobs' hardware decides nothing.

    Args:
        network: left as it is.
        images: (N, channels, H, W) float32 as the network takes them. Every batch has tiles of the whole range.

    Raises:
        DatasetError: a batch has one value of a kind, which has no variance.
    """
    learning = copy.deepcopy(network)
    to_device(learning, images.device)
    number = -(-len(images) // TILES_PER_BATCH)
    batches = (images[first::number].contiguous(memory_format=torch.channels_last) for first in range(number))
    try:
        update_bn(batches, learning)
    except ValueError:  # torch's, of a channel with one value
        raise DatasetError(
            f"--adapt-norm needs more than the {len(images)} tiles of {images.shape[2]} x {images.shape[3]} pixels "
            "that this volume has: in the lowest level of the network that is one pixel, which has no statistics. "
            "Leave it out."
        ) from None
    state = learning.state_dict()
    return {name: state[name] for name in _names(learning)}


def _tiles(volume: Source, mapping: Mapping, models: Sequence[Model], on_slice: OnSlice) -> torch.Tensor:
    """(N, channels, H, W) float32, the tiles at `places` as the networks take them."""
    wanted, card = places(volume, _edge(models)), models[0].card

    def read(place: tuple[int, slice, slice]) -> np.ndarray:
        index, rows, columns = place
        around = map(volume.read_at, volume.around(index, card.data.context))
        return np.stack([mapping.apply(pixels[rows, columns], card.grey) for pixels in around])

    images = []
    for done, image in enumerate(ahead(read, wanted), start=1):
        images.append(image)
        on_slice(done, len(wanted))
    return torch.from_numpy(np.stack(images))


def _names(network: nn.Module) -> list[str]:
    """Of all statistics in its state."""
    return [name for name in network.state_dict() if name.endswith((".running_mean", ".running_var"))]


def _edge(models: Sequence[Model]) -> int:
    """Of the tiles, for all models the same."""
    return max(model.card.data.tile_size for model in models)
