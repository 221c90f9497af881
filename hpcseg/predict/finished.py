"""The folder of a finished prediction in, its slices and what was made of them out, to be read. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.predict.layers import Layer, Target, open_target
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.same_input import check_same, describe
from hpcseg.predict.volume import open_volume, read_reading
from hpcseg.slices.source import Source, choose_slices


@dataclass(frozen=True)
class Finished:
    """What was segmented, and into what."""

    volume: Source
    layers: tuple[Layer, ...]
    target: Target


def open_finished(out: Path) -> Finished:
    """Open a prediction to look at.

    Raises:
        ConfigError: there is none in this folder, or its input is another one now.
        DatasetError: its input cannot be read any more.
        IncompleteError: it is not finished.
    """
    folder = OutFolder(out)
    record = folder.record()
    if record is None:
        raise ConfigError(f"{out} is no folder of a prediction. Make one with `hpcseg predict MODEL SLICES -o {out}`.")
    if record["state"] != "finished":
        raise IncompleteError(f"The prediction in {out} is not finished. The same `hpcseg predict` goes on with it.")
    asked = record["asked"]
    whole = open_volume(out / record["input"]["path"], read_reading(asked))
    volume = choose_slices(
        whole, every=asked.get("every"), slices=asked.get("slices") and (asked["slices"][0], asked["slices"][1])
    )
    check_same(folder, record["input"], describe(volume, whole, out), volume)
    layers = tuple(Layer(name, np.dtype(layer["dtype"]), layer["meaning"]) for name, layer in record["layers"].items())
    return Finished(volume, layers, open_target(out, volume, layers, asked.get("format")))
