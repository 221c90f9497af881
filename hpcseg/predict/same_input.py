"""The input of a prediction in, what is known of it out: and later, whether it is the same input still. No torch.

A copy has other times, and perhaps another path. So what is cheap to know says only when there is nothing to ask; where
it differs, the slices that were read then are read again, and compared by the SHA-256 of their pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError
from hpcseg.predict.ahead import ahead
from hpcseg.predict.outcome import OutFolder
from hpcseg.slices.source import Source

OnSlice = Callable[[int, int], None]
_AHEAD = 4
_MOST_LISTED = 5


def sha256_of(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of a slice, (H, W): of its size, its type and its grey values."""
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype.name} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def noting(volume: Source) -> tuple[Source, dict[int, str]]:
    """The same slices, and the SHA-256 of those that were read, by index, which is filled in as they are."""
    hashes: dict[int, str] = {}

    def decode(index: int) -> np.ndarray:
        pixels = volume.read(index)
        if index not in hashes:
            hashes[index] = sha256_of(pixels)
        return pixels

    return replace(volume, decode=decode), hashes


def describe(volume: Source, whole: Source, out: Path) -> dict[str, Any]:
    """What a record says of the input.

    Args:
        volume: the slices that are segmented.
        whole: the source that they are chosen from.
        out: folder of the prediction.
    """
    return {
        # Relative, as in a cell's config.json.
        "path": os.path.relpath(volume.path.resolve(), out.resolve()),
        "form": volume.form,
        "dataset": volume.dataset,
        "dtype": volume.stored_dtype.name,
        "slices": len(volume),
        "shapes": [list(shape) for shape in sorted(set(volume.shapes))],
        "names": list(volume.names),
        "identity": whole.identity(),
    }


def check_same(
    folder: OutFolder,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    volume: Source,
    on_slice: OnSlice = lambda *_: None,
) -> None:
    """Refuse other slices than those that a prediction was made of.

    Args:
        folder: of the prediction.
        before: what `describe` said when it began.
        now: what it says.
        volume: the slices that are there now.
        on_slice: told how many slices of how many were read again.

    Raises:
        ConfigError: they are others; the message says which, or what else differs.
        DatasetError: a slice cannot be read.
    """
    if now["identity"] == before.get("identity"):
        return
    different = _facts(before, now) or _pixels(folder, volume, on_slice)
    if different:
        raise ConfigError(
            f"{volume.path} is not what {folder.path} was made of: {'; '.join(different)}. Predict into another folder."
        )


def _facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What headers say otherwise; of a folder also the names, since labels have them."""
    words = {"form": "form", "dtype": "type", "slices": "number of slices", "shapes": "heights and widths"}
    different = [
        f"the {word} was {before[name]} and is {now[name]}" for name, word in words.items() if before[name] != now[name]
    ]
    if now["form"] == "folder":
        gone, new = set(before["names"]) - set(now["names"]), set(now["names"]) - set(before["names"])
        different += [f"{what}: {_listed(sorted(names))}" for what, names in (("gone", gone), ("new", new)) if names]
    return different


def _pixels(folder: OutFolder, volume: Source, on_slice: OnSlice) -> list[str]:
    """Which of the slices that were read have other pixels."""
    before = folder.hashes()
    if not all(before.values()):
        return [
            "its files were copied or written to, and an earlier hpcseg kept no hashes to compare their pixels with"
        ]
    different = []
    hashes = ahead(lambda index: sha256_of(volume.read(index)), before, at_most=_AHEAD)
    for count, (index, sha256) in enumerate(zip(before, hashes, strict=True), start=1):
        if sha256 != before[index]:
            different.append(volume.names[index])
        on_slice(count, len(before))
    what = f"{len(different)} of the {len(before)} slices that were read have other pixels now"
    return [f"{what}: {_listed(different)}"] if different else []


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
