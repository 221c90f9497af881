"""The settings of a cell and of a job as frozen dataclasses, made from tables. Knows nothing of files or torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from hpcseg.errors import ConfigError
from hpcseg.sigma import Share, Sigma, amount, in_words
from hpcseg.text import shortened, shown

SPLITS = ("shuffled", "blocked")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
NOISE_MODELS = ("gaussian", "uniform", "poisson", "salt-and-pepper", "offset", "blurred", "stripes")
NORMALISATIONS = ("full-scale", "tile", "set")
OUT_OF_RANGE = ("keep", "clip", "wrap")
KEPT_EPOCHS = ("last", "best")
SCHEDULES = ("constant", "cosine", "one-cycle")
LOSSES = ("cross-entropy", "cross-entropy+dice")
TEST_STATISTICS = ("running", "running+batch")
AUTO: Literal["auto"] = "auto"
"""A number that hpcseg chooses, as the setting says."""
AUGMENTATIONS = ("none", "flips", "symmetries", "exposure", "flips+exposure", "symmetries+exposure")
_TILE_GRID = re.compile(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})")
_WEIGHT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# Settings that came after the first cell ids. At their defaults they are left out of what an id is made of, so that
# trainings of before have the ids and checkpoints that they had.
_LATER = frozenset(
    {"data.slices", "data.normalise", "data.out_of_range", "data.label_share", "data.context"}
    | {"train.keep", "train.schedule", "train.loss", "train.class_weights", "train.order_seed", "train.epoch_steps"}
)
# Of the 255 that a file system has, with the hash behind it, and room for a suffix.
_LONGEST_NAME = 224
_MORE = "and-more"
_MOST_SWEPT = 10_000
_MOST_CHANNELS = 4_096
_MOST_CONTEXT = 2


OrAuto = int | Literal["auto"]
"""A whole number, or `AUTO`."""
# Of a shuffled split, which has no gap: what the ids and records of all cells began with.
_NO_GAP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which tiles of the packed slices are used, and how they are divided into sets."""

    tiles: str = "small"
    """"small" (upper-left tile), "large" (3 x 3 from the upper left), any grid as "ROWSxCOLUMNS", or "cover": as few
    tiles as cover whole slices, which overlap where they must."""
    tile_size: int = 128
    """Edge of a tile in pixels."""
    split: str = "shuffled"
    """"shuffled" (the paper's: single tiles at random, or slices where tiles overlap, so that no pixel is in two sets)
    or "blocked" (contiguous runs of slices)."""
    split_seed: int = 0
    """Seed of the split alone, so that cells with other training seeds share their test set: of a blocked split the
    position of its blocks, of which several are repetitions."""
    gap_slices: OrAuto = AUTO
    """Slice numbers between two sets of a blocked split, whose slices are left out; "auto": as many as `hpcseg pack`
    found to be alike, at most a tenth of the stack, and of few slices as many as leave one for each set. Means nothing
    in a shuffled split, where it is 2 whatever is written."""
    train_slices: int = 0
    """Train on the tiles of this many slices only; 0: of all. The same slices are in every larger number."""
    label_share: float = 1.0
    """Train on the labels of this share of each training slice only, in squares of 16 x 16 pixels. The same squares are
    in every larger share. Validation and test keep all labels."""
    context: int = 0
    """Slices on each side (0, 1 or 2) that the network takes as channels beside the one that it labels (2.5-D); where
    the stack ends, or its numbers have a hole, the last one again. For a blocked split alone, whose gap grows by twice
    as many, so that no slice is an input of two sets: in a shuffled one the training would see test slices. With noise,
    each channel has noise of its own, as strong as that of the tile."""
    slices: int = 0
    """Use only so many slices of the file for all three sets, its first ones; 0: all. The grey scale is the file's."""
    normalise: str = "full-scale"
    """What becomes 0 and 1 before the network: "full-scale" (the ends of the data's grey scale, as in `hpcseg info`),
    "tile" (the least and the largest value of each tile), or "set" (those of all training, of all validation or of all
    test tiles, of these anew at each noise level); the last two after the noise."""
    out_of_range: str = "keep"
    """What becomes of values that noise brings out of the range of the data's type: "keep", "clip" (its nearest end) or
    "wrap" (rounded, then 65536 is 0, as where floats are stored as uint16). Not for data of floats."""

    def __post_init__(self) -> None:
        _check(self.tile_size >= 8, "data.tile_size", self.tile_size, "at least 8 pixels")
        self.tile_grid(0, 0)
        _check_one_of(SPLITS, "data.split", self.split)
        _check(self.split_seed >= 0, "data.split_seed", self.split_seed, "0 or more")
        rule = f'"{AUTO}", or at least 1, or neighbours would meet'
        _check(_auto_or(self.gap_slices, 1), "data.gap_slices", self.gap_slices, rule)
        _check(self.train_slices >= 0, "data.train_slices", self.train_slices, "0 (all) or more")
        _check(0 < self.label_share <= 1, "data.label_share", self.label_share, "over 0, and at most 1 (all)")
        _check(self.slices >= 0, "data.slices", self.slices, "0 (all) or more")
        _check_one_of(NORMALISATIONS, "data.normalise", self.normalise)
        _check_one_of(OUT_OF_RANGE, "data.out_of_range", self.out_of_range)
        _check(0 <= self.context <= _MOST_CONTEXT, "data.context", self.context, "0, 1 or 2 slices on each side")
        if self.context and self.split != "blocked":
            raise ConfigError(
                f'data.context is {self.context}, but data.split is "{self.split}", in which neighbours of training '
                'slices are tested on, so the training would have them as inputs. Set data.split to "blocked".'
            )
        if self.split == "shuffled":
            object.__setattr__(self, "gap_slices", _NO_GAP)  # or cells that are one would have several ids

    @property
    def channels(self) -> int:
        """Slices that the network takes to label one."""
        return 2 * self.context + 1

    def tile_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tile grid on slices of a size in pixels; raises ConfigError for a spec that is none.

        The size matters for "cover" alone.
        """
        if self.tiles == "cover":
            return -(-height // self.tile_size), -(-width // self.tile_size)
        if self.tiles in ("small", "large"):
            return (1, 1) if self.tiles == "small" else (3, 3)
        spec = _TILE_GRID.fullmatch(self.tiles)
        if spec is None:
            raise ConfigError(
                f'data.tiles is "{shortened(self.tiles)}", but it must be "small", "large", "cover" or a grid like '
                '"2x3" (rows x columns, at most 999 each).'
            )
        return int(spec[1]), int(spec[2])


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How one U-Net is trained. Defaults are the paper's (its section on model and training)."""

    width: int = 64
    """Channels of the first block; each level down doubles them."""
    depth: int = 4
    """How often the U-Net halves the resolution."""
    batch_norm: bool = True
    """Batch normalisation after each 3 x 3 convolution."""
    epochs: int = 15
    """Passes over the training set, or each some of them (`epoch_steps`)."""
    epoch_steps: int = 0
    """Steps of an epoch at least: of few training tiles it goes through them as often as that takes; 0: once."""
    batch_size: int = 25
    """Tiles per optimizer step, summed over all ranks."""
    learning_rate: float = 1e-3
    """Adam's step size; of a schedule the largest."""
    schedule: str = "constant"
    """How the step size changes: "constant", "cosine" (down to nothing along half a cosine), or "one-cycle" (up in
    three tenths of all steps, from a 25th, and down)."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient (Adam's classic form, not AdamW's)."""
    loss: str = "cross-entropy"
    """What is minimised: "cross-entropy", or "cross-entropy+dice", with 1 minus the mean Dice of the classes of each
    batch. The losses in records are the cross-entropy, whichever it is."""
    class_weights: str = "none"
    """What the cross-entropy of a class's pixels counts: "none" (all the same), "frequency" (each class as much as any
    other), or a number for each class in the order of the label values, as "1+4+1", of which only the ratios matter."""
    noise_fraction: float = 0.0
    """Share of training and validation tiles that get noise, 0..1: the columns of Table 2."""
    noise_sigma_max: Sigma = 10_000.0
    """Upper end of the uniform distribution of a noisy tile's sigma: counts, or a share of the grey values' span as
    "33 %"."""
    noise_model: str = "gaussian"
    """"gaussian", "uniform", "poisson" (shot noise), "salt-and-pepper", "offset" (one number for a whole tile),
    "blurred" (Gaussian, neighbours alike) or "stripes" (one number for each column), or several as "gaussian+poisson":
    each noisy tile has one of them, by lot."""
    noise_each_epoch: bool = False
    """Draw the noise of the training tiles anew in every epoch. The paper's is drawn once (our reading)."""
    augment: str = "none"
    """"none", "flips" (each tile mirrored by lot, up-down and left-right) or "symmetries" (these and quarter turns),
    "exposure" (the grey values of each tile as of another scan of the sample: gain, offset, gamma and sharpness), or
    both as "flips+exposure" and "symmetries+exposure", drawn anew in every epoch."""
    keep: str = "last"
    """Which epoch's weights are the model: "last", or "best", the earliest of the highest validation accuracy."""
    seed: int = 0
    """Decides initial weights, epoch order and noise."""
    order_seed: OrAuto = AUTO
    """Decides the epoch order alone, so that it can be another with the same initial weights; "auto": `train.seed`
    does."""
    precision: str = "auto"
    """"fp32" (also in convolutions), "tf32" (GPUs from Ampere on), "bf16" or "fp16" (autocast), or "auto": bf16 where
    the hardware multiplies in it, else fp16 on a GPU and fp32 on a CPU. Decided at a training's first start."""

    def __post_init__(self) -> None:
        _check(1 <= self.width <= _MOST_CHANNELS, "train.width", self.width, f"between 1 and {_MOST_CHANNELS} channels")
        _check(1 <= self.depth <= 8, "train.depth", self.depth, "between 1 and 8")
        _check(self.epochs >= 1, "train.epochs", self.epochs, "at least 1")
        _check(self.epoch_steps >= 0, "train.epoch_steps", self.epoch_steps, "0 or more")
        _check(self.batch_size >= 1, "train.batch_size", self.batch_size, "at least 1 tile")
        _check(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        _check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        _check_one_of(SCHEDULES, "train.schedule", self.schedule)
        _check_one_of(LOSSES, "train.loss", self.loss)
        rule = 'none, frequency, or numbers such as 4 or 0.5 for the classes, not all 0, as "1+4+1"'
        _check(_are_weights(self.class_weights), "train.class_weights", self.class_weights, rule)
        if not 0.0 <= self.noise_fraction <= 1.0:
            raise ConfigError(
                f"train.noise_fraction is {self.noise_fraction:g}, but it is a share between 0 and 1. "
                f"For per cent write {self.noise_fraction / 100:g}."
            )
        _check_sigma("train.noise_sigma_max", self.noise_sigma_max)
        noise_models(self.noise_model, "train.noise_model")
        _check_one_of(AUGMENTATIONS, "train.augment", self.augment)
        _check_one_of(KEPT_EPOCHS, "train.keep", self.keep)
        _check(self.seed >= 0, "train.seed", self.seed, "0 or more")
        _check(_auto_or(self.order_seed, 0), "train.order_seed", self.order_seed, f'"{AUTO}", or 0 or more')
        _check_one_of(PRECISIONS, "train.precision", self.precision)

    @property
    def moves(self) -> str:
        """The symmetries among the augmentations: "flips", "symmetries", or "" for none."""
        first = self.augment.split("+")[0]
        return first if first in ("flips", "symmetries") else ""

    @property
    def exposures(self) -> bool:
        """Whether grey values are among them."""
        return "exposure" in self.augment.split("+")

    @property
    def order(self) -> int:
        """The seed of the epoch order."""
        return self.order_seed if isinstance(self.order_seed, int) else self.seed

    def passes(self, tiles: int) -> int:
        """How often an epoch goes through so many training tiles."""
        return max(1, -(-self.epoch_steps * self.batch_size // max(1, tiles)))

    def steps(self, tiles: int) -> int:
        """Of an epoch over so many training tiles; its last batch may be smaller."""
        return -(-self.passes(tiles) * tiles // self.batch_size)

    def used_sigmas(self) -> list[tuple[str, Sigma]]:
        """The settings that say how strong noise is, as far as there is any."""
        return [("train.noise_sigma_max", self.noise_sigma_max)] if self.noise_fraction else []


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """The noise of one version of the test set."""

    sigma: Sigma
    """Standard deviation, in the middle of the grey scale where it depends on the grey value."""
    model: str = "gaussian"
    """One of `NOISE_MODELS`."""
    fraction: float | None = None
    """None: every tile has noise of `sigma`. Else this share of the tiles has noise, each of its own U(0, sigma)."""
    norm_tiles: int = 0
    """0: batch normalisation takes its running statistics. Else those of each batch of so many test tiles."""

    @property
    def mixed(self) -> bool:
        """Whether clean and noisy tiles stand side by side."""
        return self.fraction is not None

    @property
    def key(self) -> str:
        """Names the level in records: "gaussian-5000", "gaussian-21 %", or "gaussian-10000-p0.5" for a mixed one.

        With the statistics of batches "-batch-norm-8" stands behind it.
        """
        sigma = self.sigma if isinstance(self.sigma, Share) else f"{self.sigma:g}"
        fraction = f"-p{self.fraction:g}" if self.fraction is not None else ""
        return f"{self.model}-{sigma}{fraction}" + (f"-batch-norm-{self.norm_tiles}" if self.norm_tiles else "")

    def as_record(self) -> dict[str, Any]:
        """What a point of a record says of its level."""
        stated = {"noise": self.model, "sigma": self.sigma, "fraction": self.fraction}
        return {**stated, "batch_norm_tiles": self.norm_tiles} if self.norm_tiles else stated


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """At which noise levels a trained model meets the test set, and what else is looked at.

    Each sigma is a number of counts, or a share of the grey values' span as "33 %".
    """

    table_sigma: Sigma = 5_000.0
    """Sigma of the noisy test set of Table 2."""
    sweep_max: Sigma = 0.0
    """Last sigma of the sweep of Figure 7; 0: no sweep."""
    sweep_step: Sigma = 1_000.0
    """Distance between two sigmas of the sweep, in the unit of `sweep_max`."""
    other_sigmas: str = ""
    """Further sigmas at which tables show the noisy test sets, as "3000+10000"; `other_noise` has them too."""
    other_noise: str = ""
    """Further models of noise that all test tiles meet at `table_sigma`, as "uniform+poisson"."""
    batch_norm: str = "running"
    """"running" (batch normalisation takes the statistics that it has from the training), or "running+batch": all that
    tables show is measured once more with the statistics of each batch of test tiles, as of a model that was left in
    training mode."""
    batch_size: int = 8
    """Test tiles of one such batch, one behind the other in the order of the test set; the last batch has the rest."""
    mixed_fraction: float = 0.0
    """Share of noisy tiles in a further test set of clean and noisy ones; 0: no such set."""
    mixed_sigma_max: Sigma = 10_000.0
    """Upper end of the uniform distribution of sigma in that set."""
    whole_slices: bool = False
    """Segment the whole slices that test tiles come from as well (Figure 9), without noise."""
    tile: int = 0
    """Edge in pixels of the overlapping tiles that these are cut into; 0: not at all, or what fits into memory."""
    examples: bool = False
    """Keep some pictures for Figures 1, 4, 5, 6, 8 and 9: test tiles, and with `whole_slices` a slice."""
    seed: int = 0
    """Seed of the test noise alone, so that all cells meet the same noisy test set."""

    def __post_init__(self) -> None:
        _check_sigma("evaluate.table_sigma", self.table_sigma)
        _check_sigma("evaluate.sweep_max", self.sweep_max)
        _check_sigma("evaluate.sweep_step", self.sweep_step, above_0=True)
        _check_sigma("evaluate.mixed_sigma_max", self.mixed_sigma_max, above_0=True)
        if self.sweep_max and isinstance(self.sweep_max, Share) != isinstance(self.sweep_step, Share):
            raise ConfigError(
                f"evaluate.sweep_max is {in_words(self.sweep_max)}, and evaluate.sweep_step "
                f"{in_words(self.sweep_step)}, but a sweep has one unit. Write both as counts, or both as shares."
            )
        finest = amount(self.sweep_max) / _MOST_SWEPT
        rule = f"at least {finest:g}, for a sweep of at most {_MOST_SWEPT} levels"
        _check(not self.sweep_max or amount(self.sweep_step) >= finest, "evaluate.sweep_step", self.sweep_step, rule)
        if self.other_noise:
            others = noise_models(self.other_noise, "evaluate.other_noise")
            rule = "of other models than gaussian, which is always there"
            _check("gaussian" not in others, "evaluate.other_noise", self.other_noise, rule)
        self._table_sigmas()
        _check_one_of(TEST_STATISTICS, "evaluate.batch_norm", self.batch_norm)
        _check(self.batch_size >= 1, "evaluate.batch_size", self.batch_size, "at least 1 tile")
        _check(0 <= self.mixed_fraction < 1, "evaluate.mixed_fraction", self.mixed_fraction, "0, or a share below 1")
        _check(self.tile >= 0, "evaluate.tile", self.tile, "0, or an edge in pixels")
        _check(self.seed >= 0, "evaluate.seed", self.seed, "0 or more")

    def sigmas(self) -> tuple[Sigma, ...]:
        """All sigmas, ascending within a unit: 0, the tables', and the sweep from 0 to its last point."""
        step = amount(self.sweep_step)
        points = int(amount(self.sweep_max) / step + 1e-9) + 1 if self.sweep_max else 0
        swept = [number * step for number in range(1, points)]
        shares = isinstance(self.sweep_max, Share)
        found = {0.0, *self._table_sigmas(), *(Share(f"{value:g} %") if shares else value for value in swept)}
        return tuple(sorted(found, key=lambda sigma: (isinstance(sigma, Share), amount(sigma))))

    def _table_sigmas(self) -> tuple[Sigma, ...]:
        """Those of noise that tables show, each once: `table_sigma` first."""
        others = self.other_sigmas.split("+") if self.other_sigmas else []
        found = [_other_sigma(text, self.other_sigmas) for text in others]
        return tuple(dict.fromkeys((self.table_sigma, *found)))

    def used_sigmas(self) -> list[tuple[str, Sigma]]:
        """The settings that say how strong noise is, as far as there is any."""
        used = [("evaluate.table_sigma", self.table_sigma)]
        used += [("evaluate.other_sigmas", sigma) for sigma in self._table_sigmas()[1:]]
        if self.sweep_max:
            used.append(("evaluate.sweep_max", self.sweep_max))
        if self.mixed_fraction:
            used.append(("evaluate.mixed_sigma_max", self.mixed_sigma_max))
        return used

    def mixed(self) -> NoiseLevel | None:
        """The test set of clean and noisy tiles, where there is one."""
        return NoiseLevel(self.mixed_sigma_max, fraction=self.mixed_fraction) if self.mixed_fraction else None

    def others(self) -> tuple[NoiseLevel, ...]:
        """The test sets with another model of noise."""
        names = noise_models(self.other_noise, "evaluate.other_noise") if self.other_noise else ()
        return tuple(NoiseLevel(sigma, name) for name in names for sigma in self._table_sigmas())

    def levels(self) -> tuple[NoiseLevel, ...]:
        """All versions of the test set: Gaussian at `sigmas()`, `others()`, `mixed()`, then with batches' statistics.

        Of the last there is one for each level before that tables show.
        """
        mixed = self.mixed()
        gaussian = tuple(NoiseLevel(sigma) for sigma in self.sigmas())
        levels = (*gaussian, *self.others(), *((mixed,) if mixed else ()))
        if self.batch_norm == "running":
            return levels
        again = (level for level in levels if self._in_tables(level))
        return (*levels, *(dataclasses.replace(level, norm_tiles=self.batch_size) for level in again))

    def headline_levels(self) -> tuple[NoiseLevel, ...]:
        """The levels that tables are made of: all but those that only the sweep has."""
        return tuple(level for level in self.levels() if self._in_tables(level))

    def _in_tables(self, level: NoiseLevel) -> bool:
        return level.mixed or level.model != "gaussian" or level.sigma in (0.0, *self._table_sigmas())


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedsConfig:
    """What one cell needs from a cluster. How a site spells it is a profile's matter."""

    gpus: int = 1
    """GPUs per node; one rank each."""
    nodes: int = 1
    """Nodes per cell."""
    minutes: int = 60
    """Time limit of one cell's job in minutes; a cell that reaches it goes on in a requeued job."""
    memory_gib: float = 16.0
    """Host memory per node in GiB."""
    cpus_per_task: int = 4
    """Cores per rank."""

    def __post_init__(self) -> None:
        _check(self.gpus >= 0, "needs.gpus", self.gpus, "0 or more")
        for name in ("nodes", "minutes", "cpus_per_task"):
            _check(getattr(self, name) >= 1, f"needs.{name}", getattr(self, name), "at least 1")
        _check(self.memory_gib > 0, "needs.memory_gib", self.memory_gib, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What `hpcseg report` builds from the records of this job."""

    tables: tuple[str, ...] = ("axes", "resources")
    """Names of tables; a name that is none is answered with all that there are."""
    figures: tuple[str, ...] = ("epochs", "best_and_worst")
    """Names of figures; a name that is none is answered with all that there are."""
    questions: tuple[str, ...] = ()
    """Names of the answers that open the report; none: all that belong to its tables. Anything else is a question in
    the job's own words, which stands before them."""
    cells: tuple[str, ...] = ()
    """Settings that the cells of the paper's tables and figures have, as "train.width=16", where several cells could be
    meant. What is not named is the paper's: batch normalisation, no weight decay, Gaussian noise that is drawn once, no
    augmentation, all slices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellConfig:
    """All settings of one cell: one training and the evaluation of its model."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        if self.evaluate.whole_slices and self.data.normalise != "full-scale":
            raise ConfigError(
                f'data.normalise is "{self.data.normalise}", for which a whole slice is neither a tile nor a set. '
                "Set evaluate.whole_slices to false."
            )
        if self.evaluate.batch_norm != "running" and not self.train.batch_norm:
            raise ConfigError(
                f'evaluate.batch_norm is "{self.evaluate.batch_norm}", but the model has no batch normalisation, since '
                'train.batch_norm is false. Set evaluate.batch_norm to "running".'
            )
        if self.evaluate.batch_norm != "running" and self.data.tile_size <= 2**self.train.depth:
            raise ConfigError(
                f'evaluate.batch_norm is "{self.evaluate.batch_norm}", but tiles of {self.data.tile_size} pixels that '
                f"are halved {self.train.depth} times are one pixel, which has no statistics. Set data.tile_size to "
                f"more than {2**self.train.depth}."
            )

    def name(self) -> str:
        """The readable part of the cell's id, such as `large-shuffled-p050-w64-s0`.

        Depends on this cell alone, so that a job which grows another axis keeps the ids of its cells. Settings
        without a fixed place appear when they differ from their default, so cells that differ have other names; but
        no more of them than a file's name has room for.
        """
        parts = list(self.name_parts().values())
        if len("-".join(parts)) > _LONGEST_NAME:
            while len("-".join((*parts, _MORE))) > _LONGEST_NAME:
                parts.pop()
            parts.append(_MORE)
        return "-".join(parts)

    def name_parts(self) -> dict[str, str]:
        """What `name` consists of, by the setting's name in a job file: "train.width" is "w64"."""
        data, train = self.data, self.train
        per_cent = shown(round(100 * train.noise_fraction, 10)).zfill(3)
        parts = {
            "data.tiles": data.tiles,
            "data.split": data.split,
            "train.noise_fraction": f"p{per_cent}",
            "train.width": f"w{train.width}",
            "train.seed": f"s{train.seed}",
        }
        placed = frozenset(parts)
        for section, settings in (("data", data), ("train", train)):
            for item in dataclasses.fields(settings):
                name, value = f"{section}.{item.name}", getattr(settings, item.name)
                unused = item.name == "gap_slices" and data.split == "shuffled"
                if name not in placed and value != item.default and not unused:
                    parts[name] = f"{item.name}-{shown(value)}"
        return {name: _spelled(text) for name, text in parts.items()}

    def cell_id(self, *, data_sha256: str, numerics: int) -> str:
        """`name()` and eight hex digits of everything that decides the trained model.

        Evaluation settings are left out: they are stored with the evaluation, so that a longer sweep does not
        train the model again.
        """
        decides = {**self.decisive(), "data_sha256": data_sha256, "numerics": numerics}
        return f"{self.name()}-{digest(decides)[:8]}"

    def decisive(self) -> dict[str, dict[str, Any]]:
        """The settings of data and training that decide the model, those that came later only where they are set."""
        return {
            section: {
                item.name: getattr(settings, item.name)
                for item in dataclasses.fields(settings)
                if f"{section}.{item.name}" not in _LATER or getattr(settings, item.name) != item.default
            }
            for section, settings in (("data", self.data), ("train", self.train))
        }


def noise_models(names: str, where: str) -> tuple[str, ...]:
    """The models in "gaussian+poisson", each once; raises ConfigError with `where` for anything else."""
    found = tuple(names.split("+"))
    for name in found:
        if name not in NOISE_MODELS or found.count(name) > 1:
            raise ConfigError(
                f'{where} is "{shortened(names)}", but it must be one of {", ".join(NOISE_MODELS)}, or several of them '
                'joined by "+".'
            )
    return found


def _are_weights(text: str) -> bool:
    if text in ("none", "frequency"):
        return True
    # As they are written they are part of a cell's name, and so of a folder's.
    weights = text.split("+")
    return all(map(_WEIGHT.fullmatch, weights)) and any(map(float, weights))


def _spelled(text: str) -> str:
    """A setting without the characters that a name has not."""
    text = re.sub(r"(\d)e\+(\d)", r"\1e\2", text)
    return text.replace("_", "-").replace("+", "-and-").replace(" %", "-per-cent").lower()


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-like value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _other_sigma(text: str, whole: str) -> Sigma:
    """One sigma of `evaluate.other_sigmas`, which are written in one text."""
    try:
        sigma = Share(text) if "%" in text else float(text)
    except (ConfigError, ValueError):
        sigma = math.nan
    rule = 'sigmas above 0 joined by "+", as "3000+10000" or "12 %+42 %"'
    _check(0 < amount(sigma) < math.inf, "evaluate.other_sigmas", whole, rule)
    return sigma


def _check(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        shown = f'"{shortened(value)}"' if isinstance(value, str) else value
        raise ConfigError(f"{name} is {shown}, but it must be {rule}.")


def _check_one_of(names: tuple[str, ...], name: str, value: str) -> None:
    _check(value in names, name, value, f"one of {', '.join(names)}")


def _auto_or(value: OrAuto, least: int) -> bool:
    return value == AUTO or (isinstance(value, int) and value >= least)


def _check_sigma(name: str, sigma: Sigma, *, above_0: bool = False) -> None:
    rule = "above 0 counts" if above_0 else "0 counts or more"
    _check(amount(sigma) > 0 if above_0 else amount(sigma) >= 0, name, sigma, f"{rule}, or a share of the span")
