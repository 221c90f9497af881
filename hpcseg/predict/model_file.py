"""A trained cell in, one file to keep or to give away out, and back. Safetensors: numbers and text, never code.

FILE.safetensors     the weights as they were trained, and as text beside them the ModelCard
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from msgspec import UNSET
from torch import nn

from hpcseg.data.border import border_of
from hpcseg.data.store import DatasetInfo, read_info
from hpcseg.errors import ConfigError, DatasetError, HpcsegError, IncompleteError
from hpcseg.files import write_bytes
from hpcseg.learn.checkpoint import weights_sha256
from hpcseg.memory import free_host_bytes
from hpcseg.metrics import accuracy
from hpcseg.predict.card import Accuracy, ModelCard, Training, grey_quantiles, read_card
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.grid import Cell, data_file, planned, read_cell
from hpcseg.runs.inputs import load_model, weightless_unet
from hpcseg.runs.record import CHANGED, CHECKSUM, read_as, was_changed, with_checksum
from hpcseg.runs.schema import Evaluated, Trained
from hpcseg.segment.network import TrainedUNet
from hpcseg.slices.source import first_line
from hpcseg.text import shortened

SUFFIX = ".safetensors"
_KEY = "hpcseg"
_WITH_CHECKSUM = 3
"""Cards of this schema and later ones have a checksum of their content, as records have."""
_KINDS = {torch.float32: "F32", torch.int64: "I64"}


@dataclass(frozen=True)
class Model:
    """A trained network on the CPU, as it was trained, and what is known about it."""

    name: str
    """Of the cell, or of the model file's cell."""
    card: ModelCard
    network: nn.Module

    def trained(self, precision: str | None = None) -> TrainedUNet:
        """What a segmentation needs of it; `precision` in place of the training's, where it is given."""
        train = self.card.train
        return TrainedUNet(
            network=self.network,
            classes=len(self.card.class_values),
            width=train.width,
            depth=train.depth,
            tile_size=self.card.data.tile_size,
            precision=precision or self.card.precision,
        )

    def check_takes_slices(self) -> None:
        """Raises ConfigError where grey values meet the network otherwise than by the card's scale alone."""
        # The least and largest value of a slice are not those of a tile, and no slice of a volume is a set.
        if self.card.data.normalise != "full-scale":
            raise ConfigError(
                f'{self.name} was trained with data.normalise = "{self.card.data.normalise}", which says nothing of '
                'whole slices. Take a model that was trained with "full-scale".'
            )


def open_cell(folder: CellFolder, data: Path | None = None) -> Model:
    """The model of a trained cell; `data` is the packed data set that it was trained on, None: where it was then.

    Raises:
        IncompleteError: the cell is not trained, or a record of it is damaged.
        DatasetError: the data set is damaged, or holds other data.
        HpcsegError: the model's file is damaged.
    """
    cell = read_cell(folder)
    if not folder.training_file.exists():
        raise IncompleteError(f"{cell.id} is not trained yet. Run `hpcseg grid` first.")
    record = read_as(Trained, folder.training_file)
    info = open_data(folder, data)
    network, model_sha256 = load_model(cell, len(info.class_values))
    if model_sha256 != record.model_sha256:
        raise HpcsegError(
            f"{folder.model_file} is not the model of training.json. Delete both, then run `hpcseg grid` again."
        )
    card = ModelCard(
        class_values=info.class_values,
        class_names=info.class_names,
        label_dtype=info.label_dtype,
        grey_dtype=info.dtype,
        grey=info.grey,
        grey_quantiles=grey_quantiles(info),
        border=border_of(info),
        data=cell.config.data,
        train=cell.config.train,
        training=_training(cell, record),
        model_sha256=model_sha256,
    )
    return Model(card.training.cell or cell.id, card, network)


def open_data(folder: CellFolder, data: Path | None = None) -> DatasetInfo:
    """The packed data set that a cell was trained on; arguments and errors as `open_cell`."""
    stored = planned(folder)
    path = data or data_file(folder, stored).resolve()
    if not path.exists():
        raise IncompleteError(
            f"{path}, which {folder.id} was trained on, is not there, and it has the values of the labels. Say where "
            "it is with --data FILE."
        )
    info = read_info(path)
    if info.data_sha256 != stored.data_sha256:
        raise DatasetError(
            f"{path} holds other data than {folder.id} was trained on. Say where those are with --data FILE."
        )
    return info


def open_model(path: Path, data: Path | None = None) -> Model:
    """The model of a cell's folder or of a model file; see `open_cell` and `open_file`."""
    return open_cell(CellFolder(path.resolve()), data) if path.is_dir() else open_file(path)


def export(model: Model, file: Path) -> bytes:
    """Write a model file, and return its bytes, the same of the same model; HpcsegError: the file system refuses."""
    content = as_bytes(model)
    write_bytes(file, content)
    return content


def as_bytes(model: Model) -> bytes:
    """What a model file of this model holds."""
    weights = {name: tensor.detach().contiguous() for name, tensor in model.network.state_dict().items()}
    # One entry, since the library keeps several in no order.
    return safetensors.torch.save(weights, {_KEY: json.dumps(with_checksum(model.card.as_dict()), sort_keys=True)})


def open_file(file: Path) -> Model:
    """The model of a file that `export` wrote. Whatever the file holds, nothing of it is run.

    Raises:
        IncompleteError: there is no such file.
        HpcsegError: it is no model file, or damaged, or of a version that this hpcseg does not read.
    """
    _refuse_others(file)
    try:
        with safetensors.safe_open(file, framework="pt") as content:
            card = _read_card(json.loads((content.metadata() or {}).get(_KEY, "null")))
            network = weightless_unet(len(card.class_values), card.data, card.train)
            _check_weights(content, network.state_dict())
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        if weights_sha256(weights) != card.model_sha256:
            raise ValueError("its weights are not those that were exported")
    except OSError as error:
        raise HpcsegError(f"{file} cannot be read: {error.strerror or error}.") from None
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise HpcsegError(
            f"{file} is no model file that can be used: {first_line(error)}. Write it again with `hpcseg export CELL`."
        ) from None
    network.load_state_dict(weights, assign=True)
    return Model(card.training.cell or file.stem, card, network)


def _read_card(content: Any) -> ModelCard:
    """As `read_card`, of a card that is the one that was written."""
    card = read_card(content)
    if was_changed(content) or (content["schema"] >= _WITH_CHECKSUM and CHECKSUM not in content):
        raise ValueError(f"what it says of the model {CHANGED}")
    return card


def _check_weights(content: Any, wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare a file's table of weights with those of a network, before one is loaded; ValueError names the first."""
    names = set(content.keys())
    for name in [*wanted, *sorted(names - wanted.keys())]:
        if name not in names:
            raise ValueError(f"it has no weights {name}")
        if name not in wanted:
            raise ValueError(f"it has weights {shortened(name)}, which the U-Net that it describes has not")
        found, tensor = content.get_slice(name), wanted[name]
        shape, kind = tuple(found.get_shape()), found.get_dtype()
        if (shape, kind) != (tuple(tensor.shape), _KINDS[tensor.dtype]):
            needed = f"{tuple(tensor.shape)} {_KINDS[tensor.dtype]}"
            raise ValueError(f"its weights {name} are {shape} {kind}, and the U-Net that it describes has {needed}")


def _refuse_others(file: Path) -> None:
    """Say what a file is that is no safetensors file, where it is one of those that are met."""
    if not os.path.exists(file):
        raise IncompleteError(f"There is no model file {file}. Write one with `hpcseg export CELL`.")
    if file.suffix == ".onnx":
        raise HpcsegError(
            f"{file} is an ONNX file, which is for other programs. Name the cell, or the .safetensors that "
            "`hpcseg export` wrote beside it."
        )
    if not stat.S_ISREG(file.stat().st_mode):
        raise HpcsegError(f"{file} is no regular file. Name a model file or the folder of a cell.")
    if (size := file.stat().st_size) > (free := free_host_bytes()):
        raise HpcsegError(
            f"{file} has {size / 2**30:.4g} GiB, and {free / 2**30:.4g} GiB of memory are free. No model that `hpcseg "
            "export` writes is so large; take a machine with more memory if it is one."
        )
    with file.open("rb") as opened:
        start = opened.read(9)
    # Eight bytes of length come first, and may be any; then the JSON begins.
    if start[8:] == b"{":
        return
    inside = _names_in_zip(file) if start[:2] == b"PK" else set()
    if "rdf.yaml" in inside:
        raise HpcsegError(
            f"{file} is a package for the BioImage Model Zoo, which is for other programs. Name the cell, or the "
            ".safetensors that `hpcseg export` wrote with it."
        )
    if start[:2] == b"PK" and "data.pkl" not in inside:
        raise HpcsegError(f"{file} is a zip file, and no model file, which `hpcseg export CELL` writes.")
    if start[:2] == b"PK" or start[:1] == b"\x80":
        raise HpcsegError(
            f"{file} is a PyTorch or pickle file, which can hold code, so it is not loaded. Is it the model.pt of a "
            "cell? Then name the cell's folder instead."
        )


def _names_in_zip(file: Path) -> set[str]:
    """What the files in it are called, without their folders; nothing where it is damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return set()


def _training(cell: Cell, record: Trained) -> Training:
    """What the records of a cell say of its training."""
    stored, made, points = planned(cell.folder), record.provenance, []
    if cell.folder.evaluation_file.exists():
        points = read_as(Evaluated, cell.folder.evaluation_file).points
    said = {name: getattr(stored, name) for name in ("job", "command", "data_sha256", "numerics", "code_sha256")}
    said |= {name: getattr(made, name) for name in ("commit", "hpcseg_version", "torch", "device", "time")}
    said |= {name: getattr(record, name) for name in ("epochs", "seconds", "precision", "train_tiles", "split_sha256")}
    return Training(
        cell=stored.id,  # a folder may have been renamed
        **said,
        validation_accuracy=accuracy(np.array(record.validation_confusion)),
        test_accuracy=tuple(
            Accuracy(
                noise=one.noise,
                sigma=one.sigma,
                fraction=one.fraction,
                accuracy=None if one.accuracy is UNSET else one.accuracy,
            )
            for one in points
            # Of the model as it is used: with its running statistics.
            if not one.batch_norm_tiles
        ),
    )
