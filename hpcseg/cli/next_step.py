"""What each verb proposes next: the command that fits these slices, this run and this machine."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hpcseg.cli.runs import OWN_JOB, RUNS, is_the_papers
from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.runs.names import short_names

if TYPE_CHECKING:
    from hpcseg.cluster.states import RunStatus
    from hpcseg.data.store import DatasetInfo
    from hpcseg.runs.record import RunFolder

# A tile that is halved four times has whole pixels still.
_TILE_STEP = 16
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
        return f"Next: hpcseg grid --job {OWN_JOB}{option}{_settings_that_fit(info)}"
    except HpcsegError as error:
        return f"Before a training: {error}"


def _settings_that_fit(info: DatasetInfo) -> str:
    """What of the job has to be replaced for these slices, as options; raises HpcsegError where nothing helps."""
    from hpcseg.data.layout import lay_out
    from hpcseg.jobfile import find_job, load_job

    edge = min(info.shape[1:])
    smaller = f"data.tile_size={edge // _TILE_STEP * _TILE_STEP or edge}"
    for overrides in ([], [smaller]):
        try:
            for cell in load_job(find_job(OWN_JOB), overrides).cells:
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


def after_report(run: RunFolder) -> str:
    """What to do with a reported run: to go on while cells are missing, else to use a model; empty for the paper's."""
    from hpcseg.runs.grid import command_that_runs, planned_cells, read_plan

    plan = read_plan(run)
    cells = planned_cells(run, plan)
    if not all(cell.evaluated() for cell in cells):
        return f"Next: hpcseg status{_run_option(run.path)}, or {command_that_runs(plan)}"
    names = short_names(cells)
    models = [names[cell.id] for cell in cells if cell.folder.model_file.exists()]
    if is_the_papers(plan["data_sha256"]) or not models:
        return ""
    return f"Next: hpcseg predict {shlex.quote(models[0])} SLICES -o OUT{_run_option(run.path)}"


def after_status(found: RunStatus) -> str:
    """What to do with a run as it stands; empty while it goes on by itself."""
    from hpcseg.runs.grid import command_that_runs, read_plan
    from hpcseg.runs.state import State

    option, states = _run_option(found.run.path), set(found.counts())
    if found.failures:
        return f"Next: hpcseg logs --failed{option}, then hpcseg retry{option}"
    if states == {State.FINISHED}:
        return f"Next: hpcseg report{option}"
    return f"Next: {command_that_runs(read_plan(found.run))}" if all(state.idle for state in states) else ""


def _run_option(run: Path) -> str:
    return "" if run.parent == RUNS else f" --run {shlex.quote(str(run))}"
