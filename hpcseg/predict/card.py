"""What must be known about a model to use it: what it takes, what it answers, how it was made. No torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType

from hpcseg import __version__
from hpcseg.config import PRECISIONS, DataConfig, TrainConfig
from hpcseg.data.border import Border
from hpcseg.data.classes import MOST_CLASSES
from hpcseg.data.evenly import evenly
from hpcseg.data.grey import QUANTILES as SPAN
from hpcseg.data.grey import GreyScale, count_quantiles, without_border
from hpcseg.data.store import DatasetInfo
from hpcseg.errors import ConfigError
from hpcseg.hdf5 import h5py
from hpcseg.runs.schema import Object, Record, as_record
from hpcseg.tables import build_config
from hpcseg.text import has_controls

FORMAT = "hpcseg-model"
SCHEMA = 3
"""1 had a full scale in place of the grey scale, and before 3 there was no checksum."""
QUANTILES = 1001
"""Of the training slices' grey values, evenly spaced from 0 to 100 %."""
# Evenly spaced slices are enough for the quantiles of a volume, and a large one is not read again for them.
_SLICES_LOOKED_AT = 64
# "auto" is a wish; what came of it is in the record of the training.
_PRECISIONS = tuple(name for name in PRECISIONS if name != "auto")


class Accuracy(Record, frozen=True, kw_only=True):
    """Share of right pixels on test tiles with a noise."""

    noise: str | UnsetType | None = UNSET
    sigma: float | str | None
    fraction: float | UnsetType | None = UNSET
    accuracy: float | None


class Training(Record, frozen=True, kw_only=True):
    """The record of a training in a few lines; no path of the machine."""

    cell: str | UnsetType = UNSET
    job: str | UnsetType | None = UNSET
    command: str | UnsetType | None = UNSET
    data_sha256: str | UnsetType | None = UNSET
    numerics: int | UnsetType | None = UNSET
    code_sha256: str | UnsetType | None = UNSET
    commit: str | UnsetType | None = UNSET
    hpcseg_version: str | UnsetType | None = UNSET
    torch: str | UnsetType | None = UNSET
    device: str | UnsetType | None = UNSET
    time: str | UnsetType | None = UNSET
    epochs: int | UnsetType | None = UNSET
    seconds: float | UnsetType | None = UNSET
    precision: str
    train_tiles: int | UnsetType | None = UNSET
    split_sha256: str | UnsetType | None = UNSET
    validation_accuracy: float | UnsetType | None = UNSET
    test_accuracy: tuple[Accuracy, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """All of a model file but its weights."""

    class_values: tuple[int, ...]
    """Value in the training labels of class 0, 1, ..."""
    class_names: tuple[str, ...]
    """What each is called; its value, where it has no name."""
    label_dtype: str
    """Of the training labels."""
    grey_dtype: str
    """Of the training slices."""
    grey: GreyScale
    """How grey values meet the model."""
    grey_quantiles: tuple[float, ...]
    """(1001,) of the training slices' grey values without noise, in counts, at 0, 0.1, ... 100 %. Without padded
    borders, where `border` is known."""
    border: Border | None = None
    """Of the training slices: whether they have padded borders of one value, and these labels; None: a file of before
    this was looked at."""
    data: DataConfig
    """The tiles that the model was trained on."""
    train: TrainConfig
    """How it was trained: the network's settings are among these."""
    training: Training
    model_sha256: str
    """Of names, types, shapes and values of the weights."""

    @property
    def precision(self) -> str:
        """What the model was trained and evaluated in."""
        return self.training.precision

    @property
    def grey_range(self) -> tuple[float, float]:
        """Where the grey values of the training slices lie, in counts, without noise: all but 0.1 % at either end."""
        return self.quantile(100 * SPAN[0]), self.quantile(100 * SPAN[1])

    def quantile(self, per_cent: float) -> float:
        """The grey value of the training slices below which so many per cent of the pixels lie."""
        return float(np.interp(per_cent, np.linspace(0, 100, QUANTILES), self.grey_quantiles))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a model file."""
        plain = {**dataclasses.asdict(self), "training": self.training.as_dict()}
        return {"format": FORMAT, "schema": SCHEMA, **plain}


class _Stored(Record, frozen=True, kw_only=True):
    """A card as it stands in a model file."""

    class_values: tuple[int, ...]
    class_names: tuple[str, ...] | UnsetType = UNSET
    label_dtype: str
    grey_dtype: str
    grey: GreyScale | None = None
    full_scale: float | UnsetType = UNSET
    grey_quantiles: tuple[float, ...]
    border: Border | UnsetType | None = UNSET
    data: Object
    train: Object
    training: Training
    model_sha256: str


def read_card(content: Any) -> ModelCard:
    """The card whose `as_dict` was stored.

    Raises:
        ValueError: it is none, or none that this version understands; in words that fit behind a colon.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("it was not written by `hpcseg export`")
    if content.get("schema") not in range(1, SCHEMA + 1):
        raise ValueError(f"its schema is {content.get('schema')!r}, and this hpcseg {__version__} reads up to {SCHEMA}")
    stored = as_record(_Stored, content)
    grey = GreyScale(0.0, stored.full_scale) if content["schema"] == 1 and stored.full_scale else stored.grey
    if grey is None:
        raise ValueError("it has no grey")
    try:
        card = ModelCard(
            class_values=stored.class_values,
            class_names=tuple(map(str, stored.class_values)) if stored.class_names is UNSET else stored.class_names,
            label_dtype=np.dtype(stored.label_dtype).name,
            grey_dtype=np.dtype(stored.grey_dtype).name,
            grey=grey,
            grey_quantiles=stored.grey_quantiles,
            border=stored.border or None,
            data=build_config(DataConfig, stored.data, "data"),
            train=build_config(TrainConfig, stored.train, "train"),
            training=stored.training,
            model_sha256=stored.model_sha256,
        )
        _check(card)
    except (TypeError, SyntaxError, ConfigError) as error:  # the second of a type that is none
        raise ValueError(str(error).rstrip(".")) from None
    return card


def grey_quantiles(info: DatasetInfo) -> tuple[float, ...]:
    """(1001,) grey values of evenly spaced slices of a packed file, without padded borders, at 0, 0.1, ... 100 %.

    The ends are of all slices.
    """
    chosen, shares = evenly(info.shape[0], _SLICES_LOOKED_AT), np.linspace(0, 1, QUANTILES)
    with h5py.File(info.path, "r") as file:
        values = count_quantiles(
            lambda: (without_border(file["slices"][index]) for index in chosen), np.dtype(info.dtype), shares
        )
    values[0], values[-1] = info.grey_min.min(), info.grey_max.max()
    return tuple(values.tolist())


def _check(card: ModelCard) -> None:
    """Refuse values that no export writes, before anything is made from them."""
    values, label, grey = card.class_values, np.dtype(card.label_dtype), np.dtype(card.grey_dtype)
    if any(map(has_controls, (*card.class_names, card.training.cell or ""))):
        raise ValueError("its names have control characters")
    if len(card.class_names) != len(values):
        raise ValueError(f"its {len(values)} classes have {len(card.class_names)} names")
    if not 2 <= len(values) <= MOST_CLASSES or list(values) != sorted(set(values)):
        raise ValueError(f"its class values are {values[:9]}")
    if label.kind not in "ui" or values[0] < np.iinfo(label).min or values[-1] > np.iinfo(label).max:
        raise ValueError(f"its label type {label} does not hold its class values")
    if grey not in (np.dtype("u1"), np.dtype("u2"), np.dtype("f4")):
        raise ValueError(f"its grey values are {grey}")
    if card.precision not in _PRECISIONS:
        raise ValueError(f"its precision is {card.precision!r}, not one of {', '.join(_PRECISIONS)}")
    quantiles = np.array(card.grey_quantiles)
    if len(quantiles) != QUANTILES or not np.isfinite(quantiles).all() or np.any(np.diff(quantiles) < 0):
        raise ValueError("its grey values are no ascending quantiles")
