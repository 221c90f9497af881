"""Names of what is filled in by and by: another one until all is there."""

from __future__ import annotations

import contextlib
from pathlib import Path


def unfinished(path: Path) -> Path:
    """The name until then."""
    return path.with_name(f".{path.name}.unfinished")


def where(path: Path) -> Path:
    """Where it is now."""
    return unfinished(path) if unfinished(path).exists() else path


def is_there(path: Path, part: str = "") -> bool:
    """Whether it is there, or a part of it, under either name."""
    # In this order: a finish between the two looks moves the one to the other.
    return (unfinished(path) / part).exists() or (path / part).exists()


def name_finished(path: Path) -> None:
    """Give it its name, if it has not got it already."""
    with contextlib.suppress(FileNotFoundError):
        unfinished(path).replace(path)
