"""A slice of any size in, its classes and how sure of them the models are out. One slice at a time, on one device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpcseg.data.room import free_bytes
from hpcseg.errors import HpcsegError
from hpcseg.learn.evaluate import scores_of
from hpcseg.learn.folding import folded
from hpcseg.learn.precision import to_device
from hpcseg.segment.geometry import MARGIN, cuts, pad, padded_length
from hpcseg.segment.memory import bytes_per_pixel

_SUMS_OF_A_SLICE = 4
# Of the memory that is free; the rest is for slices on their way, and for other people.
_SHARE_OF_MEMORY = 0.5
_SMALLEST_TILE = 64
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


@dataclass(frozen=True, kw_only=True)
class TrainedUNet:
    """A U-Net on the CPU, as it was trained, and what must be known to use it."""

    network: nn.Module
    classes: int
    width: int
    """Channels of its first block."""
    depth: int
    """How often it halves the resolution."""
    tile_size: int
    """Edge of the tiles that it was trained on, in pixels; a smaller slice is padded to it."""
    precision: str
    """In which it computes, as `autocast` takes it: the training's, unless someone asks for another."""


@dataclass(frozen=True)
class Answer:
    """What the models say about one slice, (H, W) or (C, H, W) on the CPU."""

    classes: np.ndarray
    """(H, W) uint8, class indices."""
    probabilities: np.ndarray | None = None
    """(C, H, W) float32 or uint8: the mean over models and flips."""
    uncertainty: np.ndarray | None = None
    """(H, W): entropy of the probabilities, as a share of the largest there is; 0 sure, 1 nothing known."""
    spread: np.ndarray | None = None
    """(H, W): standard deviation over the models of the probability of the class that was chosen."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of the network beside the classes."""

    probabilities: bool = False
    uncertainty: bool = False
    spread: bool = False
    float16: bool = False
    """Values as float16, 0..1; else as uint8, 0..255."""
    flips: bool = False
    """The mean over the slice, its two mirror images and both at once."""
    tile: int | None = None
    """Edge of tiles in pixels; None: whole slices, or what fits into memory."""


class Network:
    """An ensemble of one or more models on a device.

    Args:
        models: of the same classes.
        wishes: what an answer holds.
        device: where the convolutions are computed.
    """

    def __init__(self, models: Sequence[TrainedUNet], wishes: Wishes, device: torch.device) -> None:
        # Folded where the models are, which is the CPU: on a GPU the last bits may be others.
        self._networks = [(folded(model.network), model.precision) for model in models]
        for network, _ in self._networks:
            to_device(network, device)
        self._wishes, self._device, self._classes = wishes, device, models[0].classes
        # Of all models, since one tile serves them all.
        self._depth = max(model.depth for model in models)
        self._least = max(model.tile_size for model in models)
        self._bytes_per_pixel = max(
            bytes_per_pixel(width=model.width, classes=model.classes, precision=model.precision) for model in models
        )
        # Looked at once, so that all slices of this process are cut in the same way, and its record can say how.
        self._budget = _SHARE_OF_MEMORY * free_bytes(device)

    @property
    def largest_whole(self) -> int | None:
        """Most pixels of a slice that is taken whole; None: tiles of a given edge are asked for."""
        return None if self._wishes.tile is not None else int(self._budget / self._bytes_per_pixel)

    def tile_edge(self, height: int, width: int) -> int | None:
        """Edge of the tiles that a slice is cut into, by the wish for it or by memory; None: it is taken whole."""
        height, width = self._padded(height, width)
        multiple = 2**self._depth
        if self._wishes.tile is not None:
            edge = max(2 * multiple, -(-self._wishes.tile // multiple) * multiple)
        else:
            if height * width * self._bytes_per_pixel <= self._budget:
                return None
            # What is added up over models, flips and tiles is as large as the slice.
            left = self._budget - _SUMS_OF_A_SLICE * self._classes * 4 * height * width
            pixels = max(0, int(left / self._bytes_per_pixel))
            edge = max(_SMALLEST_TILE, 2 * multiple, math.isqrt(pixels) // multiple * multiple)
        return edge if edge < max(height, width) else None

    def answer(self, image: np.ndarray, edge: int | None) -> Answer:
        """Segment one slice.

        Args:
            image: (H, W) float32, grey values as the network takes them; or (channels, H, W).
            edge: of overlapping tiles, from `tile_edge`; None: in one piece.

        Raises:
            HpcsegError: it does not fit into memory.
        """
        try:
            with torch.inference_mode():
                return self._answer(image, edge)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU it is no more than a text
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            smaller = max(_SMALLEST_TILE, (edge or max(image.shape)) // 2)
            raise HpcsegError(
                f"A slice of {image.shape[-2]} x {image.shape[-1]} pixels does not fit into the memory of "
                f"{self._device}. Take smaller tiles: `hpcseg predict` with --tile {smaller}, in another --output; a "
                f"job with --set evaluate.tile={smaller}."
            ) from None

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = (padded_length(length, least=self._least, depth=self._depth) for length in (height, width))
        return rows, columns

    def _answer(self, image: np.ndarray, edge: int | None) -> Answer:
        shape = image.shape[-2:]
        inner = (slice(None), *(slice(MARGIN, MARGIN + length) for length in shape))
        padded = pad(image, *self._padded(*shape))
        pixels = torch.from_numpy(np.ascontiguousarray(padded)).to(self._device)
        pixels = pixels.view(1, -1, *pixels.shape[-2:])
        wishes, squares = self._wishes, None
        if len(self._networks) == 1 and edge is None and not wishes.flips:
            network, precision = self._networks[0]
            scores = scores_of(network, pixels, precision)[0][inner]
            # Not of the softmax, in which two scores may become equal: labels do not depend on what else is asked.
            classes = scores.argmax(0)
            if not (wishes.probabilities or wishes.uncertainty):
                return Answer(classes.byte().cpu().numpy())
            mean = scores.softmax(0)
        else:
            mean, squares = self._mean(pixels, edge)
            mean = mean[inner]
            classes = mean.argmax(0)
        entropy = -(mean * mean.clamp_min(1e-12).log()).sum(0) / math.log(self._classes)
        spread = None
        if squares is not None:
            chosen = squares[inner].gather(0, classes[None])[0]
            spread = (chosen / len(self._networks)).sqrt()
        return Answer(
            classes.byte().cpu().numpy(),
            self._packed(mean) if wishes.probabilities else None,
            self._packed(entropy) if wishes.uncertainty else None,
            None if spread is None else self._packed(spread),
        )

    def _mean(self, pixels: torch.Tensor, edge: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean (C, H, W) of the models' probabilities, and where it is wanted the sum of squares about it."""
        mean: torch.Tensor | None = None
        squares: torch.Tensor | None = None
        for count, (network, precision) in enumerate(self._networks, start=1):
            own = self._flipped(network, precision, pixels, edge)
            if mean is None:
                mean, squares = own, torch.zeros_like(own) if self._wishes.spread else None
                continue
            change = own - mean
            mean += change / count
            if squares is not None:
                squares += change * (own - mean)
        assert mean is not None
        return mean, squares

    def _flipped(self, network: nn.Module, precision: str, pixels: torch.Tensor, edge: int | None) -> torch.Tensor:
        total: torch.Tensor | None = None
        flips = _FLIPS if self._wishes.flips else _FLIPS[:1]
        for axes in flips:
            answer = self._blended(network, precision, pixels.flip(axes), edge).flip(axes)
            total = answer if total is None else total + answer
        assert total is not None
        return total / len(flips)

    def _blended(self, network: nn.Module, precision: str, pixels: torch.Tensor, edge: int | None) -> torch.Tensor:
        """Probabilities (C, H, W) float32 of a padded slice (1, channels, H, W)."""
        if edge is None:
            return scores_of(network, pixels, precision)[0].softmax(0)
        rows, columns = (cuts(length, edge=edge, depth=self._depth) for length in pixels.shape[-2:])
        blended = torch.zeros(self._classes, *pixels.shape[-2:], device=self._device)
        for (down, of_rows), (across, of_columns) in itertools.product(rows, columns):
            weights = torch.from_numpy(of_rows[:, None] * of_columns).to(self._device)
            part = scores_of(network, pixels[..., down, across], precision)[0].softmax(0)
            blended[:, down, across] += part * weights
        return blended

    def _packed(self, values: torch.Tensor) -> np.ndarray:
        values = values.clamp(0, 1)
        packed = values.half() if self._wishes.float16 else (values * 255).round().byte()
        return packed.cpu().numpy()
