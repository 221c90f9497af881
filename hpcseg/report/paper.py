"""The published numbers, each with its table or figure, and the published settings. Knows nothing of our records.

Desvig-Forss, Petersen, Woulhøj Jakobsen: "Automating the Segmentation of X-ray Images with Deep Neural Networks", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcseg.config import CellConfig
from hpcseg.text import shown

NOISE_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The columns of Table 2."""
TABLE_SIGMA = 5_000.0
"""Sigma of Table 2's noisy test set, in counts (from Figure 6's caption)."""


@dataclass(frozen=True, slots=True)
class Published:
    """One accuracy that the paper states: the share of pixels whose class is right.

    Of the set "validation" or "test", of "small" or "large", at a share of noisy training and validation images, 0..1.
    Sigma is that of the test noise in counts; None for validation, which has the noise of training.
    """

    source: str
    dataset: str
    tiles: str
    noise_fraction: float
    sigma: float | None
    accuracy: float


def _row(dataset: str, tiles: str, *accuracies: float) -> tuple[Published, ...]:
    sigma = TABLE_SIGMA if dataset == "test" else None
    return tuple(
        Published("Table 2", dataset, tiles, fraction, sigma, accuracy)
        for fraction, accuracy in zip(NOISE_FRACTIONS, accuracies, strict=True)
    )


TABLE_1 = (
    Published("Table 1", "validation", "small", 0.0, None, 0.990),
    Published("Table 1", "test", "small", 0.0, 0.0, 0.968),
    Published("Table 1", "validation", "large", 0.0, None, 0.991),
    Published("Table 1", "test", "large", 0.0, 0.0, 0.990),
)
"""Baseline, no noise anywhere, in the paper's order."""
TABLE_2 = (
    *_row("test", "small", 0.844, 0.863, 0.841, 0.866, 0.869),
    *_row("validation", "small", 0.987, 0.977, 0.972, 0.970, 0.967),
    *_row("test", "large", 0.545, 0.936, 0.954, 0.957, 0.960),
    *_row("validation", "large", 0.990, 0.982, 0.981, 0.977, 0.977),
)
"""Noise on a share of the training and validation images and on all test images, in the paper's order."""
BATCH_NORM = (
    Published("text", "validation", "small", 0.0, None, 0.990),
    Published("text", "validation", "small", 0.0, None, 0.980),
)
"""The small baseline with and without batch normalisation; stated as "about"."""
FIGURE_8_WEIGHT_DECAY = 1e-2
WEIGHT_DECAY = (
    Published("Table 2", "test", "large", 0.0, TABLE_SIGMA, 0.545),
    Published("Figure 8", "test", "large", 0.0, TABLE_SIGMA, 0.665),
)
"""The large model without noise in training, without and with weight decay, on the noisy test set."""
FIGURE_9_ACCURACY = 0.990
"""Mean accuracy of a model trained on tiles over ten whole slices."""
FIGURE_7 = TABLE_2[12]
"""Figure 7 is the large model of 50 % noise, which is in Table 2, at test sigmas from 0 to `FIGURE_7_SIGMA_MAX`."""
FIGURE_7_SIGMA_MAX = 30_000.0
FIGURE_7_FLAT_UNTIL = 9_000.0
"""Figure 7 is described as flat to about this sigma."""
FIGURE_7_END = 0.49
"""Described as "a little under 0.50"; 0.49 is where that is drawn, not a number of the paper."""

SETTINGS: dict[str, object] = {
    "data.tile_size": 128,
    "data.context": 0,
    "train.width": 64,
    "train.depth": 4,
    "train.batch_norm": True,
    "train.epochs": 15,
    "train.learning_rate": 1e-3,
    "train.weight_decay": 0.0,
    "train.schedule": "constant",
    "train.loss": "cross-entropy",
    "train.class_weights": "none",
    "train.noise_sigma_max": 10_000.0,
    "evaluate.table_sigma": TABLE_SIGMA,
}
"""The paper's settings, under the names of a job file."""
BATCH_SIZE = {"small": 25, "large": 64}
"""The paper's batch size, by tiles."""


def deviations(config: CellConfig) -> list[str]:
    """Where a cell's settings are not the paper's, such as "train.width 16 (paper 64)"."""
    settings = dict(SETTINGS)
    if config.data.tiles in BATCH_SIZE:
        settings["train.batch_size"] = BATCH_SIZE[config.data.tiles]
    found = {
        name: (getattr(getattr(config, name.split(".")[0]), name.split(".")[1]), of) for name, of in settings.items()
    }
    return [f"{name} {shown(ours)} (paper {shown(of)})" for name, (ours, of) in found.items() if ours != of]
