"""Folders of small slices and labels for the tests of `hpcseg pack`, and the command itself."""

from __future__ import annotations

import numpy as np
import tifffile
from typer.testing import CliRunner

from hpcseg.cli.app import app


def hpcseg(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_image(folder, number, value=1000, shape=(40, 48), dtype="uint16"):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pixels = (np.arange(np.prod(shape)).reshape(shape) % 50 + value).astype(dtype)
    tifffile.imwrite(folder / "data" / f"image{number}.tif", pixels)


def write_label(folder, number, values=(0, 128, 255), shape=(40, 48), dtype="uint8"):
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    pixels = np.resize(np.array(values, dtype=dtype), shape)
    tifffile.imwrite(folder / "labels" / f"label{number}.tif", pixels)


def refused(good, output, *options, code=3):
    """The message of a pack that must fail, having left nothing behind."""
    result = hpcseg("pack", good, "-o", output, *options)
    assert result.exit_code == code, result.output
    assert list(output.parent.iterdir()) == []
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr
