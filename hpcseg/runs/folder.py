"""The files of a run: their names.

    RUN/grid.json                      the cells that belong to the run, the data and the code behind them
    RUN/code-HASH.diff                 what was changed in the checkout, where it was not clean
    RUN/code/HASH/                     the package as it was at a submission; its jobs run this copy
    RUN/submissions.jsonl              one line per job that was handed out, here or to Slurm
    RUN/resources.json                 what a cell's job asked of Slurm last
    RUN/template.sh                    the job script of --submit-with, where that submitted last
    RUN/logs/                          logs, sbatch scripts and pickles of submitit
    RUN/report/                        what `hpcseg report` builds
    RUN/tensorboard/                   what `hpcseg tensorboard` writes
    RUN/baselines/NAME-DIGEST.json     what a filter reaches on the test tiles of some cells
    RUN/cells/CELL/config.json         all settings of the cell, written before anything runs
                   metrics.jsonl       one line per epoch; the same bits for the same cell
                   events.jsonl        what happened when: starts, resumes, stops, seconds per epoch
                   progress.json       heartbeat of a cell that runs
                   checkpoint.pt       where a killed training goes on
                   checkpoint-previous.pt   the one before, should that be damaged
                   evaluation-checkpoint.pt where a killed evaluation goes on
                   model.pt            the trained weights
                   training.json       exists when the training is finished
                   evaluation.json     exists when the evaluation is finished
                   slices.jsonl        right pixels and whole slices' confusion matrices, one line per test slice
                   examples.npz        pictures of some test tiles and of a slice, where the cell keeps them
                   extremes.npz        pictures of the best and of the worst test slice, of a bounded size
                   failure.json        why the last attempt ended, if it failed

The small files of a cell are a complete record: `hpcseg report --publish` copies exactly them. grid.json, config.json,
training.json, evaluation.json and the baselines carry a checksum of their own content; training.json has that of
metrics.jsonl, evaluation.json those of slices.jsonl and of the pictures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.errors import IncompleteError

RUNS = Path("runs")
"""Where the folders of runs lie, of whom nothing else is said."""
PREDICTION = "prediction.json"
"""The record of a prediction, whose folder has files of these names too where it was submitted."""


class Inside:
    """A file or a folder of one name in whatever folder it is asked of."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: Any, of: type) -> Path:
        path: Path = folder.path / self._name
        return path


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell; owns the names of all its files."""

    path: Path
    config_file = Inside("config.json")
    metrics_file = Inside("metrics.jsonl")
    events_file = Inside("events.jsonl")
    progress_file = Inside("progress.json")
    checkpoint_file = Inside("checkpoint.pt")
    previous_checkpoint_file = Inside("checkpoint-previous.pt")
    evaluation_checkpoint_file = Inside("evaluation-checkpoint.pt")
    model_file = Inside("model.pt")
    training_file = Inside("training.json")
    evaluation_file = Inside("evaluation.json")
    slices_file = Inside("slices.jsonl")
    examples_file = Inside("examples.npz")
    extremes_file = Inside("extremes.npz")
    failure_file = Inside("failure.json")
    cancel_file = Inside("cancel.json")
    lock_file = Inside("lock")

    @property
    def id(self) -> str:
        """The cell's id is the folder's name."""
        return self.path.name

    def checkpoint_files(self) -> tuple[Path, ...]:
        """What a finished cell does not need."""
        return self.checkpoint_file, self.previous_checkpoint_file, self.evaluation_checkpoint_file

    def record_files(self) -> tuple[Path, ...]:
        """The small files that make up the cell's published record."""
        return (
            *(self.config_file, self.metrics_file, self.events_file, self.training_file),
            *(self.evaluation_file, self.slices_file, self.examples_file, self.extremes_file),
        )


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run of a job."""

    path: Path
    grid_file = Inside("grid.json")
    submissions_file = Inside("submissions.jsonl")
    resources_file = Inside("resources.json")
    template_file = Inside("template.sh")
    lock_file = Inside("lock")
    logs = Inside("logs")
    codes = Inside("code")
    """Where the frozen copies of the package are."""
    report = Inside("report")
    tensorboard = Inside("tensorboard")
    baselines = Inside("baselines")
    cells = Inside("cells")

    def is_prediction(self) -> bool:
        """Whether the folder is that of a prediction and no run's: it has the record of one."""
        # Path.is_file raises where a name is too long.
        return os.path.isfile(self.path / PREDICTION) and not os.path.exists(self.grid_file)

    def diff_file(self, diff_sha256: str) -> Path:
        """What was changed in the checkout since its commit, when the run was planned."""
        return self.path / f"code-{diff_sha256[:8]}.diff"

    def code(self, package_sha256: str) -> Path:
        """The frozen copy of the package with this hash; this folder is what has to be on the path of Python."""
        return self.codes / package_sha256[:16]

    def baseline_file(self, name: str) -> Path:
        """What needs no network on one test set, by the name that `runs.baseline` gives it."""
        return self.baselines / f"{name}.json"

    def cell(self, cell_id: str) -> CellFolder:
        """The folder of a cell by its id."""
        return CellFolder(self.cells / cell_id)

    def cell_folders(self) -> list[CellFolder]:
        """All cell folders that exist, sorted by id, whether or not the grid still lists them."""
        return [CellFolder(path) for path in sorted(self.cells.glob("*/")) if path.is_dir()]


def newest_run(runs: Path) -> RunFolder:
    """The run under `runs` whose grid was planned last.

    Raises:
        IncompleteError: there is no run.
    """
    grids = sorted(runs.glob("*/grid.json"), key=lambda path: path.stat().st_mtime)
    if not grids:
        none = f"There is no run under {runs}/{closed_to_user(runs)}."
        raise IncompleteError(f"{none} Start one with `hpcseg grid`, or name one with --run.")
    return RunFolder(grids[-1].parent)


def closed_to_user(runs: Path) -> str:
    """Which folder with runs the user may not look into, as the end of a sentence; empty where there is none."""
    for folder in (runs, *runs.glob("*/")):
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
            return f" that you may read: {folder} is closed to you"
    return ""
