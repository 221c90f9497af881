"""A volume and models in, the models with the statistics of that volume in their batch normalisation out.

The weights stay as they were trained. What is estimated is kept in the folder of the prediction, so that each of its
parts and starts segments with the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from scipy import ndimage
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
# Of places in a slice, until one has no pixel outside; and what share of a tile may be.
_TRIES, _MOST_OUTSIDE = 32, 0.5
# Multiples of the square and the cube of the plastic number's inverse, modulo 1, fill a square evenly (Roberts 2018).
_STEPS = (0.7548776662466927, 0.5698402909980532)


Outside = Callable[[np.ndarray], np.ndarray | None]
"""(H, W) bool of a slice of grey values: the pixels that get no class; None where all get one."""


def adapt(
    models: Sequence[Model],
    volume: Source,
    mapping: Mapping,
    outside: Outside,
    *,
    file: Path,
    anew: bool,
    on_slice: OnSlice,
) -> Statistics | None:
    """Give the networks of models the statistics of a volume: those in a file, which is written where it is missing.

    Args:
        models: of one data set.
        volume: to segment.
        mapping: of its grey values.
        outside: whose pixels are in no statistic.
        file: of the statistics.
        anew: whatever lies there.
        on_slice: told how many tiles of how many were read.

    Returns:
        By what they were estimated; None: the file was there.

    Raises:
        DatasetError: a slice cannot be read, is too small for statistics, or none has enough grey values.
        HpcsegError: the file is damaged, or the file system refuses.
    """
    by = None
    if anew or not file.exists():
        images, by = _tiles(volume, mapping, outside, models, on_slice)
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
    return by


def places(volume: Source, edge: int) -> list[list[tuple[int, slice, slice]]]:
    """Slice, rows and columns of the tiles that a volume is judged by: all of one shape, evenly spaced, no lot drawn.

    At most `MOST_TILES`, and no more than lie side by side; each has other places in its slice behind its own. They
    have `edge` pixels a side, or as many as the largest slice; slices that have fewer are passed over.
    """
    height, width = (min(edge, length) for length in max(volume.shapes, key=math.prod))
    roomy = [index for index, of in enumerate(volume.shapes) if of[0] >= height and of[1] >= width]
    count = min(MOST_TILES, sum((volume.shapes[at][0] // height) * (volume.shapes[at][1] // width) for at in roomy))
    found = []
    for number in range(count):
        index, tries = roomy[(2 * number + 1) * len(roomy) // (2 * count)], []
        for at in range(number, number + _TRIES * MOST_TILES, MOST_TILES):
            top, left = (
                int(((at + 1) * step) % 1 * (length - size + 1))
                for step, length, size in zip(_STEPS, volume.shapes[index], (height, width), strict=True)
            )
            tries.append((index, slice(top, top + height), slice(left, left + width)))
        found.append(tries)
    return found


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


def _tiles(
    volume: Source, mapping: Mapping, outside: Outside, models: Sequence[Model], on_slice: OnSlice
) -> tuple[torch.Tensor, Statistics]:
    """(N, channels, H, W) float32, the tiles at `places` as the networks take them, and what they are.

    A pixel outside says nothing of the volume, and a network would meet it as a grey value. So tiles lie where there is
    none, as far as there are such places; else they are mirrored into there, if they are no more than half.

    Raises:
        DatasetError: a slice cannot be read, or all tiles are more than half outside.
    """
    wanted, card = places(volume, max(model.card.data.tile_size for model in models)), models[0].card

    def read(tries: list[tuple[int, slice, slice]]) -> np.ndarray | None:
        slices = [volume.read_at(place) for place in volume.around(tries[0][0], card.data.context)]
        around = [(pixels, outside(pixels)) for pixels in slices]
        least, best = _MOST_OUTSIDE, None
        for _, *at in tries:
            tile = [(pixels[*at], np.zeros(0, bool) if missing is None else missing[*at]) for pixels, missing in around]
            if (share := max(np.count_nonzero(missing) / pixels.size for pixels, missing in tile)) <= least:
                least, best = share, tile
            if not share:
                break
        return None if best is None else np.stack([mapping.apply(_mirrored(*one), card.grey) for one in best])

    images, used = list[np.ndarray](), set[int]()
    for done, (tries, tile) in enumerate(zip(wanted, ahead(read, wanted), strict=True), start=1):
        if tile is not None:
            images.append(tile)
            used.add(tries[0][0])
        on_slice(done, len(wanted))
    if not images:
        raise DatasetError(
            f"--adapt-norm needs tiles of grey values, and more than half of each that {volume.path} has is outside of "
            "the field of view (NaN), or in a border that is left out. Leave it out."
        )
    found = np.stack(images)
    by = Statistics(tiles=len(found), tiles_per_batch=TILES_PER_BATCH, shape=list(found.shape[2:]), slices=len(used))
    return torch.from_numpy(found), by


def _mirrored(pixels: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """(H, W) grey values, in place of missing ones those as far on the other side of the nearest that is there, or its.

    Of none that are missing the mask may be empty.
    """
    if not missing.any():
        return pixels
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    beyond = np.clip(2 * nearest - np.indices(pixels.shape), 0, np.reshape(pixels.shape, (2, 1, 1)) - 1)
    found: np.ndarray = pixels[tuple(np.where(missing[tuple(beyond)], nearest, beyond))]
    return found


def _names(network: nn.Module) -> list[str]:
    """Of all statistics in its state."""
    return [name for name in network.state_dict() if name.endswith((".running_mean", ".running_var"))]
