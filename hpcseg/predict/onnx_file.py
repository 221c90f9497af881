"""A model in, an ONNX file for other programs out, after its answers were compared with ours."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from hpcseg.errors import HpcsegError
from hpcseg.files import write_bytes
from hpcseg.learn.folding import folded
from hpcseg.predict.model_file import Model
from hpcseg.segment.geometry import MARGIN
from hpcseg.slices.extras import load_extra

# Of scores, which are of the order of 10; float32 in another order of summation.
_MOST_DIFFERENCE = 1e-3


def require(file: Path) -> None:
    """Refuse where a package for ONNX is missing, before any work is done: ConfigError says how to get it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        load_extra(name, "onnx", file)


def export_onnx(model: Model, file: Path) -> float:
    """Write `file` with the input "images" (B, channels, H, W) float32 and the output "scores" (B, C, H, W).

    Images are grey values on the card's grey scale, (value - low) / (high - low). H and W may be any multiples of
    2**depth; channels are the slice, with `data.context` between its neighbours. The card is in the file's metadata,
    under "hpcseg", and its description says how slices of other sizes are padded: `padding`.

    Returns:
        The largest difference of a score between ONNX Runtime and ours, on random images of several sizes.

    Raises:
        ConfigError: a package for ONNX is missing.
        HpcsegError: the file's answers are not ours, or the file system refuses; then nothing is written.
    """
    require(file)
    lean = folded(model.network)
    content = _convert(lean, model)
    difference = _compare(lean, content, model.card.data.channels, 2**model.card.train.depth)
    if not difference <= _MOST_DIFFERENCE:
        raise HpcsegError(
            f"{file} was not written: in ONNX Runtime its scores differ by up to {difference:.2g} from this model's. "
            "Use the safetensors file."
        )
    write_bytes(file, content)
    return difference


def padding(model: Model) -> str:
    """What `geometry.pad` does to a slice before the network, for who does it in another program."""
    multiple = 2**model.card.train.depth
    least = -(-model.card.data.tile_size // multiple) * multiple
    return (
        f"Heights and widths must be multiples of {multiple}. `hpcseg predict` mirrors each slice at its edges, "
        f'without the outermost pixels themselves (numpy.pad, mode="reflect"): by {MARGIN} pixels above and to the '
        f"left; below and to the right by {MARGIN}, and by as many more as it takes to a multiple of {multiple} that "
        f"is no less than {least}. What was added is cut off the answer. Padded so and in one piece, slices get the "
        "labels of `hpcseg predict --precision fp32`; otherwise those near the edges differ."
    )


def _convert(lean: torch.nn.Module, model: Model) -> bytes:
    import onnx

    multiple = 2**model.card.train.depth
    # Of more than one image and no square, so that no length is taken for a constant or for another.
    example = torch.zeros(2, model.card.data.channels, 4 * multiple, 6 * multiple)
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    shapes = {"images": {0: torch.export.Dim("batch", min=1), 2: multiple * rows, 3: multiple * columns}}
    # The exporter prints, warns and logs about its own affairs.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            program = torch.onnx.export(
                lean, (example,), input_names=["images"], output_names=["scores"], dynamic_shapes=shapes, dynamo=True
            )
        finally:
            logging.disable(level)
    assert program is not None
    whole = program.model_proto
    whole.doc_string = padding(model)
    whole.metadata_props.add(key="hpcseg", value=json.dumps(model.card.as_dict(), sort_keys=True))
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString())


def _compare(lean: torch.nn.Module, content: bytes, channels: int, multiple: int) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    worst = 0.0
    for batch in (1, 3):
        for height, width in ((1, 1), (5, 3), (9, 16)):
            images = rng.random((batch, channels, multiple * height, multiple * width), dtype=np.float32)
            with torch.inference_mode():
                ours = lean(torch.from_numpy(images)).numpy()
            (theirs,) = session.run(["scores"], {"images": images})
            worst = max(worst, float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf"))
    return worst
