"""Labels of other slices than their own, or of none, and turned ones: `hpcseg pack` says so, and of no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from slice_folder import hpcseg

MIRRORED = "its own slice, mirrored from"
OPPOSITE = "the slice as far from the other end of the stack"
MOVED = {
    "one too high": (
        lambda labels: np.roll(labels, 1, 0),
        "the slice before its own better",
        "numbers of the labels too high?",
    ),
    "two too high": (
        lambda labels: np.roll(labels, 2, 0),
        "the slice before its own better",
        "numbers of the labels too high?",
    ),
    "one too low": (
        lambda labels: np.roll(labels, -1, 0),
        "the slice after its own better",
        "numbers of the labels too low?",
    ),
    "last first": (lambda labels: labels[::-1], f"{OPPOSITE} better", "in the opposite order?"),
    "upside down": (lambda labels: labels[:, ::-1], f"{MIRRORED} top to bottom, better", "turn them?"),
    "left to right": (lambda labels: labels[:, :, ::-1], f"{MIRRORED} left to right, better", "turn them?"),
    "half": (lambda labels: labels[:, ::-1, ::-1], "its own slice, turned by half, better", "turn them?"),
    "transposed": (lambda labels: labels.transpose(0, 2, 1), "its own slice, transposed, better", "turn them?"),
    "quarter": (lambda labels: np.rot90(labels, 1, (1, 2)), "turned by a quarter to the left, better", "turn them?"),
    "last first, upside down": (
        lambda labels: labels[::-1, ::-1],
        f"{OPPOSITE}, mirrored from top to bottom, better",
        "order?",
    ),
}


def sample(slices: int = 24, height: int = 64, width: int = 64, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Blobs in three phases, (N, H, W) float32 grey values with noise, and uint8 labels."""
    rng = np.random.default_rng(4)
    smooth = ndimage.gaussian_filter(rng.standard_normal((slices, height, width)), (3, 5, 5))
    labels = np.digitize(smooth, np.quantile(smooth, [0.5, 0.8])).astype(np.uint8)
    return (labels + noise * rng.standard_normal(labels.shape)).astype(np.float32), labels


def packed(folder: Path, images: np.ndarray, labels: np.ndarray, *options: str) -> str:
    """What `hpcseg pack` says of them."""
    tifffile.imwrite(folder / "images.tif", images)
    tifffile.imwrite(folder / "labels.tif", labels)
    done = hpcseg(
        "pack", "--images", folder / "images.tif", "--labels", folder / "labels.tif", "-o", folder / "p.h5", *options
    )
    assert done.exit_code == 0, done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("moved", MOVED)
def test_labels_of_other_slices_or_turned_ones_are_noted(tmp_path, moved):
    move, fits, asks = MOVED[moved]
    images, labels = sample()
    said = packed(tmp_path, images, move(labels))
    assert fits in said and asks in said


def test_slices_that_are_not_square_can_be_mirrored_but_not_transposed(tmp_path):
    images, labels = sample(height=48, width=80)
    assert f"{MIRRORED} top to bottom" in packed(tmp_path, images, labels[:, ::-1])


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_labels_of_their_own_slices_are_not_noted(tmp_path, noise):
    assert "labels that were compared" not in packed(tmp_path, *sample(noise=noise))


@pytest.mark.parametrize(
    "others",
    [
        lambda labels: np.random.default_rng(5).integers(0, 3, labels.shape, dtype=np.uint8),
        lambda labels: labels.transpose(1, 0, 2),
        lambda labels: labels.transpose(2, 1, 0),
        lambda labels: np.roll(labels, 20, (0, 1)),
    ],
    ids=["drawn by lot", "rows are slices", "columns are slices", "of another part"],
)
def test_labels_that_fit_no_slice_are_noted(tmp_path, others):
    images, labels = sample(48, 48, 48)
    said = packed(tmp_path, images, others(labels))
    assert "labels that were compared fit their own slice no better" in said and "another axis" in said


def test_slices_that_are_all_the_same_are_not_noted(tmp_path):
    images, labels = sample()
    same = (np.broadcast_to(of[:1], of.shape) for of in (images, labels))
    assert "labels that were compared" not in packed(tmp_path, *same)


def test_strokes_on_some_pixels_and_a_field_of_view_are_enough(tmp_path):
    images, labels = sample()
    rows, columns = np.indices(labels.shape[1:])
    images[:, (rows - 32) ** 2 + (columns - 32) ** 2 > 30**2] = np.nan
    strokes = np.where(np.random.default_rng(6).random(labels.shape) < 0.1, labels, 255).astype(np.uint8)
    assert "labels that were compared" not in packed(tmp_path, images, strokes, "--ignore", "255")
    turned = packed(tmp_path, images, strokes[:, ::-1], "--ignore", "255", "--force")
    assert f"{MIRRORED} top to bottom" in turned


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_a_field_of_view_that_is_not_in_the_middle_is_no_reason(tmp_path, noise):
    images, labels = sample(noise=noise)
    images[:, :, :16] = np.nan
    assert "labels that were compared" not in packed(tmp_path, images, labels)
    turned = packed(tmp_path, images, labels[:, ::-1], "--force")
    assert (f"{MIRRORED} top to bottom" in turned) == (noise < 1)


def test_few_slices_say_nothing(tmp_path):
    images, labels = sample(slices=7)
    assert "labels that were compared" not in packed(tmp_path, images, labels[:, ::-1])
