"""A finished prediction in, a picture of some of its slices with their labels over them out."""

from __future__ import annotations

import numpy as np

from hpcseg import sheet
from hpcseg.data.classes import IGNORED, with_values
from hpcseg.data.evenly import evenly
from hpcseg.files import write_bytes
from hpcseg.predict.request import Prediction
from hpcseg.predict.target import Target

_SHOWN = ("labels", "uncertainty")


def write_sheet(prediction: Prediction, target: Target) -> None:
    """Write a dozen slices, evenly spread over the volume, with the uncertainty where it was asked for.

    Raises:
        DatasetError: a slice cannot be read any more.
        HpcsegError: the picture cannot be written.
    """
    volume, folder = prediction.volume, prediction.folder
    layers = {layer.name: layer for layer in prediction.layers}
    card = prediction.models[0].card
    values, named = np.array(card.class_values), with_values(card.class_values, card.class_names)

    def seen(index: int) -> sheet.Seen:
        thinned = (slice(None, None, sheet.step(*volume.shapes[index])),) * 2
        read = {name: target.read(index, layer)[thinned] for name, layer in layers.items() if name in _SHOWN}
        pixels = volume.read(index)
        unsure, image = read.get("uncertainty"), pixels[thinned].copy()
        found = np.searchsorted(values, read["labels"])
        if (missing := prediction.outside(pixels)) is not None:
            found[missing[thinned]] = IGNORED
        return sheet.Seen(
            f"slice {volume.place(index) + 1}: {volume.names[index]}",
            image,
            found,
            # Shares as 0 to 1, whichever type they were written as.
            None if unsure is None else unsure / np.float32(255 if unsure.dtype == np.uint8 else 1),
        )

    chosen = evenly(len(volume), sheet.MOST_SLICES).tolist()
    counts = np.sum([one.counts for one in prediction.done().values()], axis=0)
    classes = [f"{name}: {share:.1%}" for name, share in zip(named, counts / max(1, counts.sum()), strict=True)]
    more = f" and {len(prediction.models) - 1} more" if len(prediction.models) > 1 else ""
    heading = f"{volume.path.name}: {len(chosen)} of {len(volume)} slices, labels by {prediction.models[0].name}{more}"
    if "uncertainty" in layers:
        heading += "; uncertainty from 0 (black) to 1 (bright)"
    write_bytes(folder.sheet_file, sheet.draw([seen(index) for index in chosen], classes, heading))
