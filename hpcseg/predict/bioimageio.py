"""A model in, a package of the BioImage Model Zoo out, after bioimageio.core has found the declared answer in it.

FILE.zip     rdf.yaml, README.md, weights.onnx, test_input.npy, test_output.npy, cover.png
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from matplotlib.image import imsave

from hpcseg import __version__
from hpcseg.data.store import DatasetInfo, read_slices
from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.files import write_bytes
from hpcseg.learn.folding import folded
from hpcseg.predict.model_file import Model
from hpcseg.predict.onnx_file import export_onnx, padding
from hpcseg.segment.geometry import reach
from hpcseg.slices.extras import load_extra
from hpcseg.slices.neighbours import neighbours

_FORMAT_VERSION = "0.5.12"
# Of probabilities: so many times what was measured here, and no less; another processor sums in another order.
_TIMES_MEASURED, _LEAST_TOLERANCE = 10, 1e-4
_LONGEST_NAME = 64
_MOST_OF_COVER = 256
_UNET = {
    "text": "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015",
    "doi": "10.1007/978-3-319-24574-4_28",
}
_TAGS = ["x-ray-microscopy", "tomography", "2d", "pytorch", "unet", "semantic-segmentation", "hpcseg"]


def load(file: Path) -> Any:
    """The package bioimageio.core; raises ConfigError, with the command that installs it, where it is missing."""
    core = load_extra("bioimageio.core", "bioimageio", file)
    # It tells on stderr of every step, and the outcome is all that matters here.
    load_extra("loguru", "bioimageio", file).logger.disable("bioimageio")
    return core


def export_package(
    model: Model, info: DatasetInfo, file: Path, *, authors: Sequence[str] = (), license_id: str | None = None
) -> float:
    """Write a package that takes grey values (B, channels, H, W) and answers with probabilities (B, C, H, W) float32.

    What it is tested with are grey values of the middle of the data set, so some of its pixels are in the package. The
    zoo asks for `authors` and for a license, as SPDX writes it, where there are none.

    Returns:
        The tolerance that it declares: the largest difference of a probability.

    Raises:
        ConfigError: a package of the extra is missing, the model takes no slices, or the zoo takes no such description.
        HpcsegError: its answer is not ours, or the file system refuses; then nothing is written.
    """
    model.check_takes_slices()
    core = load(file)
    spec = load_extra("bioimageio.spec", "bioimageio", file)
    with (
        tempfile.TemporaryDirectory() as name,
        spec.ValidationContext(root=Path(name), log_warnings=False) as context,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the library leaves files open
        folder = Path(name)
        tolerance = max(_TIMES_MEASURED * export_onnx(model, folder / "weights.onnx"), _LEAST_TOLERANCE)
        given = _example(model, info)
        with torch.inference_mode():
            answer = folded(model.network)(torch.from_numpy(model.card.grey.normalised(given))).softmax(1)
        imsave(
            folder / "cover.png",
            _cover(model, given[0, model.card.data.context], answer[0].argmax(0).numpy()),
            cmap="gray",
        )
        np.save(folder / "test_input.npy", given)
        np.save(folder / "test_output.npy", answer.numpy())
        (folder / "README.md").write_text(_documentation(model, info), encoding="utf-8")
        onnx = load_extra("onnx", "bioimageio", file).load(folder / "weights.onnx")
        opset = next(opset.version for opset in onnx.opset_import if not opset.domain)
        content = _description(model, tolerance, opset, authors, license_id)
        described = spec.build_description(content, context=context)
        if isinstance(described, spec.InvalidDescr):
            first = described.validation_summary.errors[0]
            part = first.loc[0] if first.loc else "description"
            raise ConfigError(f"{file} was not written, since the zoo takes no such {part}: {shorten(first.msg, 100)}.")
        package = spec.save_bioimageio_package(described, output_path=folder / "package.zip")
        # Where the tolerance was measured.
        tested = core.test_model(package, devices=["CPUExecutionProvider"])
        if tested.status != "passed":
            found = shorten("; ".join(error.msg for error in tested.errors), 300)
            raise HpcsegError(
                f"{file} was not written: bioimageio.core {core.__version__} does not find this model's answer in it: "
                f"{found} Use the safetensors file."
            )
        write_bytes(file, package.read_bytes())
    return tolerance


def _halo(model: Model) -> int:
    """Pixels round a block that its answer depends on; a multiple of 2**depth, as all starts of blocks must be."""
    multiple: int = 2**model.card.train.depth
    return -(-reach(model.card.train.depth) // multiple) * multiple


def _example(model: Model, info: DatasetInfo) -> np.ndarray:
    """(1, channels, E, E) grey values of the middle of the middle slice, mirrored at its edges where it is smaller."""
    card, step = model.card, 2**model.card.train.depth
    edge = max(2 * _halo(model) + step, -(-card.data.tile_size // step) * step)
    places = neighbours(info.numbers, info.shape[0] // 2, card.data.context)
    image = card.grey.limited(np.stack([read_slices(info.path, place, place + 1)[0][0] for place in places]))
    for axis, length in enumerate(info.shape[1:], start=1):
        start = max(0, (length - edge) // 2)
        image = image.take(range(start, min(start + edge, length)), axis)
    image = np.pad(image, [(0, 0), *((0, edge - length) for length in image.shape[1:])], mode="reflect")
    return np.ascontiguousarray(image[None])


def _cover(model: Model, image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(E, 2 E), 0 to 1: grey values (E, E) beside their classes, of every so many pixels."""
    step = -(-len(image) // _MOST_OF_COVER)
    grey = np.interp(image, model.card.grey_range, (0, 1))
    return np.hstack([grey, classes / (len(model.card.class_values) - 1)])[::step, ::step]


def _description(
    model: Model, tolerance: float, opset: int, authors: Sequence[str], license_id: str | None
) -> dict[str, Any]:
    card, halo, step = model.card, _halo(model), 2**model.card.train.depth

    def axes(channels: Sequence[str], sizes: dict[str, Any], **of_space: Any) -> list[dict[str, Any]]:
        spaces = [{"type": "space", "id": axis, "size": size, **of_space} for axis, size in sizes.items()]
        return [{"type": "batch"}, {"type": "channel", "channel_names": list(channels)}, *spaces]

    given = {
        "id": "slices",
        "description": "Grey values as they were packed.",
        "axes": axes(_channels(model), {axis: {"min": 2 * halo + step, "step": step} for axis in "yx"}),
        "data": {"type": card.grey_dtype},
        "pad": {"mode": "reflect"},
        "preprocessing": _preprocessing(model),
        "test_tensor": {"source": "test_input.npy"},
    }
    answer: dict[str, Any] = {
        "id": "probabilities",
        "description": "Of each class.",
        "axes": axes(card.class_names, {axis: {"tensor_id": "slices", "axis_id": axis} for axis in "yx"}, halo=halo),
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
        "test_tensor": {"source": "test_output.npy"},
    }
    exact = {"absolute_tolerance": tolerance, "relative_tolerance": 0.0, "mismatched_elements_per_million": 0}
    return {
        "type": "model",
        "format_version": _FORMAT_VERSION,
        "name": re.sub(r"[^A-Za-z0-9_+\- ()]", "-", f"hpcseg {model.name}")[:_LONGEST_NAME],
        "description": f"U-Net of width {card.train.width} and depth {card.train.depth} that tells "
        f"{len(card.class_values)} classes apart in grey slices of a tomogram.",
        "authors": [{"name": author} for author in authors],
        "license": license_id,
        "cite": [_UNET],
        "tags": _TAGS,
        "documentation": {"source": "README.md"},
        "covers": [{"source": "cover.png"}],
        "inputs": [given],
        "outputs": [answer],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": opset}},
        "config": {"bioimageio": {"reproducibility_tolerance": [exact]}},
    }


def _channels(model: Model) -> list[str]:
    """What the slices are called that the network takes to label the one that is called grey."""
    context = model.card.data.context
    return [f"slice{away:+d}" if away else "grey" for away in range(-context, context + 1)]


def _preprocessing(model: Model) -> list[dict[str, Any]]:
    """What `GreyScale.limited` and `GreyScale.normalised` do, but for NaN."""
    grey, kind = model.card.grey, np.dtype(model.card.grey_dtype)
    steps: list[dict[str, Any]] = []
    if grey.limits is not None:
        ends = (-np.inf, np.inf) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
        low, high = grey.limited(np.array(ends, dtype=kind)).tolist()
        steps.append({"id": "clip", "kwargs": {"min": low, "max": high}})
    # Two steps, since a gain and an offset of a narrow scale far from 0 would cancel each other's digits.
    if grey.low:
        steps.append({"id": "scale_linear", "kwargs": {"gain": 1.0, "offset": -grey.low}})
    if grey.high - grey.low != 1:
        steps.append({"id": "scale_linear", "kwargs": {"gain": 1 / (grey.high - grey.low), "offset": 0.0}})
    number = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    return [number, *steps, number]


def _documentation(model: Model, info: DatasetInfo) -> str:
    """The page of the model in the zoo."""
    card, grey, training = model.card, model.card.grey, model.card.training
    (low, high), step = card.grey_range, 2**card.train.depth
    classes = [f"| {name} | {value} |" for name, value in zip(card.class_names, card.class_values, strict=True)]
    tests = [
        f"| {point.noise}, sigma {point.sigma}"
        + (f", in {point.fraction:.0%} of the tiles" if point.fraction else "")
        + f" | {point.accuracy:.4f} |"
        for point in training.test_accuracy
    ]
    channels = _channels(model)
    between = (
        f"\nIt takes each slice together with its neighbours, as the channels {', '.join(channels)}; the last slice of "
        "a stack stands for those beyond.\n"
        if card.data.context
        else ""
    )
    tables = {"classes": "\n".join(classes), "tests": "\n".join(tests)}
    return f"""# {model.name}

A U-Net that labels slices of a tomogram, trained and written by hpcseg. It takes grey values ({card.grey_dtype}) as
they are, where the training slices had {low:g} to {high:g} (0.1 to 99.9 %). {grey.low:g} meets the network as 0 and
{grey.high:g} as 1. What has no grey value (NaN) is to be {grey.low:g}.
{between}
Its channels are the probabilities of

| class | value in the labels |
|---|---|
{tables["classes"]}

## Sizes

{padding(model)}

That is true of weights.onnx. bioimageio.core adds {_halo(model)} mirrored pixels by itself all around, and takes
multiples of {step} from {2 * _halo(model) + step} on: pad other slices to one by mirroring. So the network meets the
slice at other places of its pooling: few labels may differ from those of `hpcseg predict`, where two classes are
nearly as probable, and near an edge more.

## Training

- cell: {training.cell}
- training tiles: {training.train_tiles} of {card.data.tile_size} x {card.data.tile_size} pixels
- epochs: {training.epochs}
- precision: {card.precision} (this package: fp32)
- voxel: {info.voxel.text() if info.voxel else "not known"}
- data SHA-256: {training.data_sha256}
- weights SHA-256: {card.model_sha256}
- hpcseg: {__version__}, commit {training.commit} at the training

## Validation

Share of right pixels on the validation tiles: {training.validation_accuracy:.4f}. On test tiles:

| noise | right pixels |
|---|---|
{tables["tests"]}

To validate it on data of your own, compare its labels with some that a person drew, on slices that it has not seen.
What it has not seen it labels with confidence all the same.
"""
