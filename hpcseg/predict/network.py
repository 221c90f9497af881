"""A slice of any size in, its classes and how sure of them the models are out. One slice at a time, on one device."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpcseg.errors import HpcsegError
from hpcseg.learn.evaluate import folded
from hpcseg.learn.precision import autocast, to_device
from hpcseg.predict.geometry import MARGIN, pad, padded_length, tiles
from hpcseg.predict.model_file import Model

# Values that a pass holds at its fullest, per pixel and channel of the first block (measured on a CPU: 3.9 to 4.8 on
# 1024 x 1024 pixels and more), and besides them per class.
_VALUES_PER_CHANNEL = 6
_FLOATS_PER_CLASS = 8
_SUMS_OF_A_SLICE = 4
# Of the memory that is free; the rest is for slices on their way, and for other people.
_SHARE_OF_MEMORY = 0.5
_SMALLEST_TILE = 64
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


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
        precision: "bf16" or "fp32".
    """

    def __init__(self, models: Sequence[Model], wishes: Wishes, device: torch.device, precision: str) -> None:
        card = models[0].card
        self._networks = [folded(model.network) for model in models]
        for network in self._networks:
            to_device(network, device)
        self._wishes, self._device, self._precision = wishes, device, precision
        self._classes = len(card.class_values)
        # Of all models, since one tile serves them all.
        self._depth = max(model.card.train.depth for model in models)
        self._least = card.data.tile_size
        self._bytes_per_pixel = max(_bytes_per_pixel(model, precision) for model in models)
        # Looked at once, so that all slices of this process are cut in the same way, and its record can say how.
        self._budget = _SHARE_OF_MEMORY * _free_bytes(device)

    @property
    def largest_whole(self) -> int | None:
        """Most pixels of a slice that is taken whole; None: tiles of a given edge are asked for."""
        return None if self._wishes.tile is not None else int(self._budget / self._bytes_per_pixel)

    def answer(self, image: np.ndarray) -> Answer:
        """Segment one slice.

        Args:
            image: (H, W) float32, grey values as the network takes them.

        Raises:
            HpcsegError: it does not fit into memory.
        """
        try:
            return self._answer(image)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU it is no more than a text
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            edge = self.tile_edge(*image.shape) or max(image.shape)
            raise HpcsegError(
                f"A slice of {image.shape[0]} x {image.shape[1]} pixels does not fit into the memory of "
                f"{self._device}. Take smaller tiles: --tile {max(_SMALLEST_TILE, edge // 2)}, in another --output."
            ) from None

    def _answer(self, image: np.ndarray) -> Answer:
        inner = (slice(None), *(slice(MARGIN, MARGIN + length) for length in image.shape))
        padded = pad(image, *(padded_length(length, least=self._least, depth=self._depth) for length in image.shape))
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(padded)).to(self._device)[None, None]
            wishes, edge = self._wishes, self.tile_edge(*padded.shape)
            if (
                len(self._networks) == 1
                and edge is None
                and not (wishes.flips or wishes.probabilities or wishes.uncertainty)
            ):
                # The softmax would not change which is the largest.
                return Answer(self._scores(self._networks[0], pixels)[inner].argmax(0).byte().cpu().numpy())
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

    def tile_edge(self, height: int, width: int) -> int | None:
        """Edge of the tiles for a padded slice; None: it is taken whole."""
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

    def _mean(self, pixels: torch.Tensor, edge: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean (C, H, W) of the models' probabilities, and where it is wanted the sum of squares about it."""
        mean: torch.Tensor | None = None
        squares: torch.Tensor | None = None
        for count, network in enumerate(self._networks, start=1):
            own = self._flipped(network, pixels, edge)
            if mean is None:
                mean, squares = own, torch.zeros_like(own) if self._wishes.spread else None
                continue
            change = own - mean
            mean += change / count
            if squares is not None:
                squares += change * (own - mean)
        assert mean is not None
        return mean, squares

    def _flipped(self, network: nn.Module, pixels: torch.Tensor, edge: int | None) -> torch.Tensor:
        total: torch.Tensor | None = None
        flips = _FLIPS if self._wishes.flips else _FLIPS[:1]
        for axes in flips:
            answer = self._blended(network, pixels.flip(axes), edge).flip(axes)
            total = answer if total is None else total + answer
        assert total is not None
        return total / len(flips)

    def _blended(self, network: nn.Module, pixels: torch.Tensor, edge: int | None) -> torch.Tensor:
        """Probabilities (C, H, W) float32 of a padded slice (1, 1, H, W)."""
        if edge is None:
            return self._scores(network, pixels).softmax(0)
        height, width = pixels.shape[-2:]
        blended = torch.zeros(self._classes, height, width, device=self._device)
        for tile in tiles(height, width, edge=edge, depth=self._depth):
            weights = torch.from_numpy(tile.weight_rows[:, None] * tile.weight_columns).to(self._device)
            part = self._scores(network, pixels[..., tile.window[0], tile.window[1]]).softmax(0)
            blended[:, tile.window[0], tile.window[1]] += part * weights
        return blended

    def _scores(self, network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        with autocast(self._precision, self._device):
            scores: torch.Tensor = network(pixels.contiguous(memory_format=torch.channels_last))
        return scores[0].float()

    def _packed(self, values: torch.Tensor) -> np.ndarray:
        values = values.clamp(0, 1)
        packed = values.half() if self._wishes.float16 else (values * 255).round().byte()
        return packed.cpu().numpy()


def _bytes_per_pixel(model: Model, precision: str) -> float:
    size = 2 if precision == "bf16" else 4
    return _VALUES_PER_CHANNEL * model.card.train.width * size + _FLOATS_PER_CLASS * len(model.card.class_values) * 4


def _free_bytes(device: torch.device) -> float:
    """Memory that this process may still take: of its GPU, or of the host and of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return min(_limits(), default=4 * 2.0**30)


def _limits() -> Iterator[float]:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            # What the last slice took is kept for the next one.
            yield float(line.split()[1]) * 1024 + _resident_bytes()
    for line in _lines(Path("/proc/self/cgroup")):
        group = line.split(":", 2)[-1].lstrip("/")
        # The group itself and those that it is in; Slurm sets its limit on the job's or the step's.
        for folder in (Path("/sys/fs/cgroup", group), *Path("/sys/fs/cgroup", group).parents):
            for text in _lines(folder / "memory.max"):
                if text.strip().isdigit():
                    yield float(text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []


def _resident_bytes() -> int:
    words = " ".join(_lines(Path("/proc/self/statm"))).split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0
