"""A source of slices in, grey values to segment out, whatever the files are called; of a packed file its slices.

The record of a prediction says what its input was, and later it is compared. A copy has other times, and perhaps
another path. So what is cheap to know says only when there is nothing to ask; where it differs, the slices that were
read then are read again, and compared by the SHA-256 of their pixels. No torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from hpcseg.ahead import OnSlice, ahead
from hpcseg.data.store import is_packed_file, read_info
from hpcseg.errors import ConfigError
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.schema import Input, SaidOfFiles
from hpcseg.slices.hdf5 import PACKED_SLICES, open_hdf5
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, Source, as_grey_values

_MOST_LISTED = 5


def open_volume(path: Path, how: Reading = Reading()) -> Source:  # noqa: B008
    """Find the slices of a volume; reads headers, no pixels.

    Args:
        path: as for `open_source`; names of files need no number where nobody says which.
        how: what its files do not say; of a packed file the slices are meant, where no data set is named.

    Raises:
        DatasetError, ConfigError: as `open_source`; it holds no grey values.
    """
    path = Path(os.path.expanduser(path))
    if how.dataset in (None, PACKED_SLICES) and is_packed_file(path):
        packed = open_hdf5(path, replace(how, dataset=PACKED_SLICES))
        info = read_info(path)
        return as_grey_values(replace(packed, names=info.image_names, numbers=tuple(info.numbers.tolist())))
    return as_grey_values(open_source(path, replace(how, needs_numbers=how.number is not None)), of_any_type=True)


def asked_reading(how: Reading) -> SaidOfFiles | None:
    """What was said of a volume beside its data set, as a record has it; None where nothing was."""
    usual = Reading()
    said = {name: value for name, value in asdict(how).items() if name != "dataset" and value != getattr(usual, name)}
    return SaidOfFiles(**said) if said else None


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


def describe(volume: Source, out: Path) -> Input:
    """What the record in `out` says of the slices that are segmented, and of the whole source that they are of."""
    return Input(
        # Relative, as in a cell's config.json.
        path=os.path.relpath(volume.path.resolve(), out.resolve()),
        form=volume.form,
        dataset=volume.dataset,
        dtype=volume.stored_dtype.name,
        slices=len(volume),
        shapes=[list(shape) for shape in sorted(set(volume.shapes))],
        names=list(volume.names),
        identity=(volume.whole or volume).identity(),
    )


def check_same(folder: OutFolder, before: Input, now: Input, volume: Source, on_slice: OnSlice) -> None:
    """Refuse other slices than those that a prediction was made of: what `describe` said of them before, and says now.

    Raises:
        ConfigError: they are others; the message says which, or what else differs.
        DatasetError: a slice cannot be read.
        IncompleteError: the journal is damaged.
    """
    if now.identity == before.identity:
        return
    different = _facts(before, now) or _pixels(folder, volume, on_slice)
    if different:
        raise ConfigError(
            f"{volume.path} is not what {folder.path} was made of: {'; '.join(different)}. Predict into another folder."
        )


def _facts(before: Input, now: Input) -> list[str]:
    """What headers say otherwise; of a folder also the names, since labels have them."""
    words = {"form": "form", "dtype": "type", "slices": "number of slices", "shapes": "heights and widths"}
    both = [(word, getattr(before, name), getattr(now, name)) for name, word in words.items()]
    different = [f"the {word} was {was} and is {found}" for word, was, found in both if was != found]
    if now.form == "folder":
        for what, names, others in (("gone", before, now), ("new", now, before)):
            if found := sorted(set(names.names) - set(others.names)):
                different.append(f"{what}: {_listed(found)}")
    return different


def _pixels(folder: OutFolder, volume: Source, on_slice: OnSlice) -> list[str]:
    """Which of the slices that were read have other pixels."""
    before = folder.hashes(volume)
    if not all(before.values()):
        return ["its files were copied or written to, and an earlier hpcseg kept no hashes of its pixels"]
    for index, one in folder.done().items():
        # Some of them are segmented later, or never.
        if index < len(volume):
            before |= zip(volume.around(index, len(one.around) // 2), one.around, strict=False)
    different = []
    hashes = ahead(lambda place: sha256_of(volume.read_at(place)), before)
    for count, (place, sha256) in enumerate(zip(before, hashes, strict=True), start=1):
        if sha256 != before[place]:
            different.append((volume.whole or volume).names[place])
        on_slice(count, len(before))
    what = f"{len(different)} of the {len(before)} slices that were read have other pixels now"
    return [f"{what}: {_listed(different)}"] if different else []


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
