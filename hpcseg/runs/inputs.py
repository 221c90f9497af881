"""What a stage of a cell starts from: the planned tiles and arithmetic, and the trained model."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hpcseg.config import DataConfig, TrainConfig
from hpcseg.data.batches import TileSource, open_source
from hpcseg.errors import ConfigError, DatasetError, HpcsegError, IncompleteError
from hpcseg.learn import checkpoint
from hpcseg.learn.ranks import Ranks
from hpcseg.learn.unet import UNet
from hpcseg.runs import provenance
from hpcseg.runs.grid import Cell, check_numerics, data_file, planned
from hpcseg.runs.machine import device_facts
from hpcseg.runs.schema import Provenance

_REMEDY = "Delete it, then run `hpcseg grid` again."


def planned_source(cell: Cell) -> TileSource:
    """The tiles of a cell, as they were planned.

    Raises:
        DatasetError: the packed file holds other data than was planned, or cannot be used.
        HpcsegError: this hpcseg computes otherwise.
    """
    stored = planned(cell.folder)
    path = data_file(cell.folder, stored).resolve()
    source = open_source(path, cell.config.data)
    if source.info.data_sha256 != stored.data_sha256:
        raise DatasetError(
            f"{path.name} holds other data than when the cell {cell.id} was planned. Run `hpcseg grid` again: it "
            "plans new cells for the new data and leaves the old ones alone."
        )
    check_numerics(stored.numerics or None, f"The cell {cell.id}")
    return source


@dataclass
class Handed:
    """Weights on their way from a cell's training to its evaluation in the same process; none, they are in a file."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """On the CPU."""
    sha256: str = ""


def load_model(cell: Cell, classes: int, handed: Handed | None = None) -> tuple[nn.Module, str]:
    """A cell's trained U-Net on the CPU, and the SHA-256 of its weights.

    Args:
        cell: that is trained.
        classes: which the data set has.
        handed: by its training, and taken from there; without weights the cell's file is read.

    Raises:
        IncompleteError: the cell is not trained.
        HpcsegError: the file is damaged, or holds another model.
    """
    model = weightless_unet(classes, cell.config.data, cell.config.train)
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    if handed and handed.weights:
        weights, handed.weights, sha256 = handed.weights, {}, handed.sha256
    else:
        weights = _read_weights(cell)
        sha256 = checkpoint.weights_sha256(weights)
    if {name: _form(tensor) for name, tensor in weights.items()} != wanted:
        raise HpcsegError(f"{cell.folder.model_file} does not hold the U-Net that config.json describes. {_REMEDY}")
    # Laid out as a new network has them, by which the kernels are chosen; also where a layout of channels last passes
    # for that. to_empty comes to the same, but for it torch loads its symbolic algebra.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    model.load_state_dict(own, assign=True)
    return model, sha256


def weightless_unet(classes: int, data: DataConfig, train: TrainConfig) -> UNet:
    """The U-Net that settings describe, without memory for its weights, so that settings that lie cost nothing."""
    with torch.device("meta"):
        return UNet(
            classes=classes,
            channels=data.channels,
            width=train.width,
            depth=train.depth,
            batch_norm=train.batch_norm,
        )


def _read_weights(cell: Cell) -> dict[str, Any]:
    if not cell.folder.model_file.exists():
        raise IncompleteError(f"{cell.id} has no trained model yet. Run `hpcseg grid` first.")
    try:
        return checkpoint.load(cell.folder.model_file)
    except HpcsegError as error:
        raise HpcsegError(f"{error} {_REMEDY}") from None


def _form(tensor: Any) -> Any:
    return (tensor.shape, tensor.dtype) if isinstance(tensor, torch.Tensor) else None


def planned_provenance(cell: Cell, ranks: Ranks) -> Provenance:
    """Where what this process makes comes from, with the data and the command of the plan."""
    stored = planned(cell.folder)
    device = device_facts(ranks.device)
    facts = provenance.collect(device=device, command=stored.command or "", data_sha256=stored.data_sha256)
    return Provenance(**facts)


def seconds_between_checkpoints() -> float:
    """HPCSEG_CHECKPOINT_SECONDS, 30 where it is not set; it decides no number, so it is no setting of a cell."""
    wish = os.environ.get("HPCSEG_CHECKPOINT_SECONDS", "30")
    try:
        return max(0.0, float(wish))
    except ValueError:
        raise ConfigError(f'HPCSEG_CHECKPOINT_SECONDS is "{wish}", but it must be a number of seconds.') from None
