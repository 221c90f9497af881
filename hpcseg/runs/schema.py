"""What the records of a run hold: each is written from its type, and read into it. SCHEMA.md says what keys mean.

A key without a default has to be there. One whose default is UNSET is not in every record of today; any other default
stands for a record of before the key was kept. Keys that a type has not are passed over.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from hpcseg.config import NoiseLevel
from hpcseg.sigma import Share

Matrix = list[list[int]]
"""Counts: of a confusion matrix rows are true classes, and columns predicted ones."""
Object = dict[str, Any]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An object of a record."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        plain: dict[str, Any] = msgspec.to_builtins(self, str_keys=True, enc_hook=_as_text)
        return plain


def _as_text(value: Any) -> str:
    """A `Share` of settings, which is a text of a class of its own."""
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(f"{type(value)} has no place in a record")


_Kind = TypeVar("_Kind", bound=Record)


def as_record(kind: type[_Kind], content: Any) -> _Kind:
    """An object of JSON as a type of record.

    Raises:
        ValueError: it lacks a key, or has a value of another type; in words that fit behind a colon.
    """
    try:
        return msgspec.convert(content, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(str(error), content)) from None


def _in_words(complaint: str, content: Any) -> str:
    """What msgspec complains of, with the value in place of its type."""
    if missing := re.search("missing required field `(.+?)`", complaint):
        return f"it has no {missing[1]}"
    # A dictionary's key is not told, so the way ends there.
    path = complaint.partition(" - at `$")[2].rstrip("`").partition("[...]")[0]
    for key, place in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        content = content[key or int(place)]
    return f"{path.lstrip('.') or 'it'} is {reprlib.repr(content)}"


class Coded(Record, frozen=True, kw_only=True):
    """What says which code is behind its numbers: `numerics`, or in the oldest records `code_sha256`."""

    numerics: int | UnsetType = UNSET
    code_sha256: str | UnsetType = UNSET

    def code(self, *, digits: int | None = None) -> str:
        """The code in words; equal for records that may stand side by side.

        Args:
            digits: of a hash that are shown; None: all, without which nothing must be compared.
        """
        if self.numerics is not UNSET:
            return f"numerics {self.numerics}"
        return (
            f"code hash {self.code_sha256[:digits]}, before numerics numbers" if self.code_sha256 else "code not stated"
        )


class Provenance(Coded, frozen=True, kw_only=True):
    """Where, when and with what something was made, as `provenance.collect` tells it."""

    hpcseg_version: str | None = None
    package_sha256: str | None = None
    data_sha256: str | None = None
    commit: str | None = None
    diff_sha256: str | None = None
    command: str | None = None
    python: str | None = None
    torch: str | None = None
    numpy: str | None = None
    host: str | None = None
    cores: int | None = None
    system: str | None = None
    device: str | None = None
    processor: str | UnsetType | None = UNSET
    cuda: str | UnsetType | None = UNSET
    driver: str | UnsetType | None = UNSET
    slurm_job_id: str | None = None
    slurm_restart_count: str | None = None
    time: str | None = None


class Planned(Record, frozen=True, kw_only=True):
    """A cell of grid.json: its id and the sections of its settings."""

    id: str
    data: Object
    train: Object
    evaluate: Object


class Plan(Coded, frozen=True, kw_only=True):
    """grid.json."""

    schema: int
    job: str
    title: str
    hpcseg_version: str
    command: str
    time: str
    data_sha256: str
    commit: str | None = None
    diff_sha256: str | None = None
    needs: Object
    report: Object
    cells: list[Planned]


class CellPlan(Coded, frozen=True, kw_only=True):
    """config.json of a cell."""

    schema: int
    id: str
    job: str | None = None
    data: Object
    train: Object
    evaluate: Object | UnsetType = UNSET
    data_file: str | None = None
    data_sha256: str
    command: str | None = None


class Memory(Record, frozen=True, kw_only=True):
    """The most that a rank has held, in MiB."""

    host: int
    gpu: int | UnsetType = UNSET


class Trained(Record, frozen=True, kw_only=True):
    """training.json."""

    schema: int
    id: str
    epochs: int
    kept_epoch: int | None = None
    steps: int
    train_tiles: int
    train_slices: int | None = None
    train_labelled_pixels: int | None = None
    validation_tiles: int
    grey: Object | None = None
    parameters: int
    precision: str
    world_size: int
    called: str | None = None
    seconds: float
    peak_memory_mib: Memory | None = None
    starts: list[Object] = []
    validation_loss: float
    validation_confusion: Matrix
    split_sha256: str | None = None
    gap_slices: int | None = None
    gap_capped: bool = False
    metrics_sha256: str | None = None
    model_sha256: str
    provenance: Provenance


class Point(Record, frozen=True, kw_only=True):
    """A noise level of evaluation.json or of a baseline."""

    noise: str = "gaussian"
    sigma: float | str
    fraction: float | None = None
    batch_norm_tiles: int | UnsetType = UNSET
    sigma_counts: float | UnsetType = UNSET
    confusion: Matrix

    @property
    def level(self) -> NoiseLevel:
        """Its noise; raises ConfigError where there is no such one."""
        sigma = Share(self.sigma) if isinstance(self.sigma, str) else self.sigma
        return NoiseLevel(sigma, self.noise, self.fraction, self.batch_norm_tiles or 0)


class EvaluatedPoint(Point, frozen=True, kw_only=True):
    """A point of evaluation.json."""

    near_edge: dict[int, Matrix] | UnsetType = UNSET
    interfaces: Matrix | UnsetType = UNSET
    probability: Matrix | UnsetType = UNSET
    uncertainty: Matrix | UnsetType = UNSET
    accuracy: float | UnsetType | None = UNSET
    mean_iou: float | UnsetType | None = UNSET
    iou: list[float | None] | UnsetType = UNSET
    dice: list[float | None] | UnsetType = UNSET


class Evaluated(Record, frozen=True, kw_only=True):
    """evaluation.json."""

    schema: int
    id: str
    settings: Object
    model_sha256: str
    test_tiles: int
    class_values: list[int]
    class_names: list[str] | UnsetType = UNSET
    grey: Object | None = None
    points: list[EvaluatedPoint]
    label_interfaces: Matrix | None = None
    slices_sha256: str | None = None
    pictures_sha256: dict[str, str] = {}
    tile_edge: int | None = None
    precision: str
    world_size: int
    seconds: float
    peak_memory_mib: Memory | None = None
    provenance: Provenance

    @property
    def names(self) -> list[str]:
        """Of the classes: their values, where they have no names."""
        return list(map(str, self.class_values)) if self.class_names is UNSET else self.class_names


class EvaluatedSlice(Record, frozen=True, kw_only=True):
    """A line of slices.jsonl."""

    slice: int
    pixels: int
    right: dict[str, int]
    whole: Matrix | UnsetType = UNSET


class EpochLine(Record, frozen=True, kw_only=True):
    """A line of metrics.jsonl."""

    epoch: int
    step: int = 0
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_confusion: Matrix


class BaselinePoint(Point, frozen=True, kw_only=True):
    """A point of a baseline."""

    noise: str
    baseline: str


class Baseline(Record, frozen=True, kw_only=True):
    """A file of baselines/."""

    schema: int
    data: Object
    data_sha256: str
    evaluate_seed: int
    split_sha256: str
    training_tiles: int = 0
    test_tiles: int = 0
    class_values: list[int]
    grey: Object
    filter: Object
    points: list[BaselinePoint]
    seconds: float | None = None
    provenance: Provenance


class Beat(Record, frozen=True, kw_only=True):
    """progress.json: how far a stage is."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int
    seconds_per_step: float
    host: str
    pid: int
    job_id: str | None = None
    time: float
    note: str = ""

    @property
    def steps_done(self) -> int:
        """Of the stage."""
        return (self.epoch - 1) * self.steps_per_epoch + self.step

    @property
    def steps(self) -> int:
        """That the stage takes."""
        return self.epochs * self.steps_per_epoch

    @property
    def seconds_left(self) -> float:
        """Of the stage."""
        return (self.steps - self.steps_done) * self.seconds_per_step


class Failed(Record, frozen=True, kw_only=True):
    """failure.json."""

    stage: str | None = None
    error: str
    rank: int = 0
    host: str | None = None
    job_id: str | None = None
    time: float | None = None
