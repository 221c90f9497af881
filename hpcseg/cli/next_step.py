"""What each verb proposes next: the command that fits these slices, this run and this machine."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.runs.command import command_that_runs
from hpcseg.runs.finding import OWN_JOB, is_the_papers, run_option
from hpcseg.runs.names import short_names

if TYPE_CHECKING:
    from hpcseg.cluster.states import RunStatus
    from hpcseg.data.store import DatasetInfo
    from hpcseg.records.collect import Records
    from hpcseg.records.row import Row

# A tile that is halved four times has whole pixels still.
_TILE_STEP = 16
# Nobody waits for a proposal.
_SECONDS_FOR_SLURM = 3.0
WIDEST_ON_CPUS = 16
"""A wider network takes hours per cell without a GPU."""


def after_pack(info: DatasetInfo, option: str) -> str:
    """What to do with packed slices.

    Args:
        info: of the packed file.
        option: with a space before it, names the file to `hpcseg grid`; empty where it finds it alone.
    """
    from hpcseg.runs import gpus

    if is_the_papers(info.data_sha256):
        on_gpus = shutil.which("sbatch") is not None or gpus.count()
        return f"Next: hpcseg grid --job {'paper' if on_gpus else 'paper-cpu'}{option}"
    try:
        settings = _settings_that_fit(info)
    except HpcsegError as error:
        return f"Before a training: {error}"
    if not _slurm_answers():
        settings += " --local" + ("" if gpus.count() else f" --set train.width={WIDEST_ON_CPUS}")
    return f"Next: hpcseg grid --job {OWN_JOB}{option}{settings}"


def _slurm_answers() -> bool:
    """A job that is submitted here would run."""
    from hpcseg.cluster.scheduler import no_controller

    return shutil.which("sbatch") is not None and no_controller(_SECONDS_FOR_SLURM) is None


def _settings_that_fit(info: DatasetInfo) -> str:
    """What of the job has to be replaced for these slices, as options; raises HpcsegError where nothing helps."""
    from hpcseg.data.layout import lay_out
    from hpcseg.jobfile import find_shipped, load_job

    edge = min(info.shape[1:])
    smaller = f"data.tile_size={edge // _TILE_STEP * _TILE_STEP or edge}"
    for overrides in ([], [smaller]):
        try:
            for cell in load_job(find_shipped("job", OWN_JOB), overrides).cells:
                lay_out(info, cell.data)
        except ConfigError:
            if overrides:
                raise
            continue
        return "".join(f" --set {override}" for override in overrides)
    raise AssertionError("the second turn returns or raises")


def too_slow(job: str, data_sha256: str) -> str:
    """What to say where a job for GPUs runs on a machine that has none."""
    way = (
        "`--job paper-cpu` is the paper's experiment at a width for CPUs."
        if is_the_papers(data_sha256)
        else "`--set train.width=16`, or 8, is quicker; `hpcseg bench` and then --dry-run say by how much."
    )
    return f"{job} is meant for GPUs and there is none here, so this takes long. {way}"


def after_report(records: Records) -> str:
    """What to do with a reported run: to go on while cells are missing, else to use its most accurate model; empty for
    the paper's slices."""

    run, plan, cells = records.run, records.plan, [row.cell for row in records.rows]
    if not all(cell.evaluated() for cell in cells):
        return f"Next: hpcseg status{run_option(run)}, or {command_that_runs(run, plan)}"
    models = [row for row in records.rows if row.cell.folder.model_file.exists()]
    if is_the_papers(plan.data_sha256) or not models:
        return ""
    names, best = short_names(cells), max(models, key=_accuracy)
    command = f"Next: hpcseg predict {shlex.quote(names[best.id])} SLICES -o OUT{run_option(run)}"
    alike = next(group.rows for group in records.groups if any(row is best for row in group.rows))
    others = [names[row.id] for row in alike if row is not best and row.cell.folder.model_file.exists()]
    if not others:
        return command
    ensemble = " ".join(f"--ensemble {shlex.quote(name)}" for name in others)
    if len(_tests(alike)) == 1:
        among = "" if len(_tests(models)) == 1 else " of those tested on the same tiles"
        return f"{names[best.id]} has the most right test pixels{among}; to average all: {ensemble}\n{command}"
    # The luckiest of test slices is no better a model.
    return f"Each was tested on other slices, so which is best is not known; all are averaged.\n{command} {ensemble}"


def _tests(rows: Iterable[Row]) -> set[str | None]:
    return {row.training.record.split_sha256 for row in rows if row.training}


def _accuracy(row: Row) -> float:
    """On whole slices where they were counted, as `predict` segments them, else on test tiles without noise."""
    from hpcseg.metrics import accuracy
    from hpcseg.records.row import CLEAN

    whole = row.whole_confusion()
    return (row.test_accuracy(CLEAN) or 0.0) if whole is None else accuracy(whole)


def after_status(found: RunStatus) -> str:
    """What to do with a run as it stands; empty while it goes on by itself."""
    from hpcseg.cluster.failures import DAMAGED, STOPPED
    from hpcseg.runs.grid import read_plan
    from hpcseg.runs.state import State

    option, states = run_option(found.run), set(found.counts())
    if any(failure.kind not in (DAMAGED, STOPPED) for failure in found.failures.values()):
        return f"Next: hpcseg logs --failed{option}, then hpcseg retry{option}"
    if states == {State.FINISHED}:
        page = found.run.report / "report.html"
        return f"The report is {page}" if _is_of_now(page, found) else f"Next: hpcseg report{option}"
    return f"Next: {command_that_runs(found.run, read_plan(found.run))}" if found.idle else ""


def _is_of_now(page: Path, found: RunStatus) -> bool:
    """Whether a report was written after the grid was planned and its last cell was evaluated."""
    made_from = [found.run.grid_file, *(cell.folder.evaluation_file for cell in found.cells)]
    try:
        return page.stat().st_mtime >= max(file.stat().st_mtime for file in made_from)
    except OSError:
        return False
