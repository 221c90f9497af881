"""The files that the layers of a volume go into: what all kinds have in common. Slices are written in any order.

What is filled in by and by has another name until all is there. So a process that is killed leaves the slices that it
has written, and several processes can fill the same files.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.slices.source import Source


@dataclass(frozen=True)
class Layer:
    """One kind of value per pixel."""

    name: str
    dtype: np.dtype
    meaning: str
    """For the record: what a value says."""


class Target(ABC):
    """Where the layers of a volume go: for each a file, or a folder, of its name and a suffix."""

    _last_made = ""
    """The part of a folder that is made last, before any slice."""

    def __init__(self, out: Path, volume: Source, layers: Sequence[Layer], suffix: str = "") -> None:
        self._volume = volume
        self._paths = {layer: out / f"{layer.name}{suffix}" for layer in layers}

    def prepare(self) -> bool:
        """Make what must be there before a slice is written; False where it was not there yet."""
        # In this order: a finish between the two looks moves the one to the other.
        missing = [
            layer
            for layer, path in self._paths.items()
            if not any((name / self._last_made).exists() for name in (unfinished(path), path))
        ]
        for layer in missing:
            self._make(layer)
        return not missing

    def has(self, index: int) -> bool:
        """Whether files for all layers of a slice are there; those of a stack always are."""
        return True

    @abstractmethod
    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        """Write a slice, (H, W) for each layer's name. Called again, it writes the same again."""

    @abstractmethod
    def read(self, index: int, layer: Layer) -> np.ndarray:
        """A slice that was written, (H, W)."""

    def sync(self) -> None:  # noqa: B027
        """Bring to the disk what was written; files of one slice each are there already."""

    def close(self) -> None:  # noqa: B027
        """Let go of what is open, when all is written or nothing can be."""

    def finish(self) -> None:
        """Give the files their names: all slices are there."""
        for path in self._paths.values():
            with contextlib.suppress(FileNotFoundError):  # it has its name
                unfinished(path).replace(path)

    def files(self) -> list[str]:
        """What was written, relative to OUT, once it is finished."""
        return [f"{path.name}/" if path.is_dir() else path.name for path in self._paths.values()]

    def notes(self) -> list[str]:
        """What of the input these files cannot say, a sentence each."""
        return []

    @abstractmethod
    def _make(self, layer: Layer) -> None: ...


def unfinished(path: Path) -> Path:
    """The name of a file or folder until all is there."""
    return path.with_name(f".{path.name}.unfinished")


def where(path: Path) -> Path:
    """Where it is now."""
    return unfinished(path) if unfinished(path).exists() else path
