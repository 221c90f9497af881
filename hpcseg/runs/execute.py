"""One stage of one cell: reads its config.json, composes data and learn, writes its record. Runs on every rank."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from hpcseg.errors import HpcsegError
from hpcseg.files import not_made_anew, open_regular, remove_left
from hpcseg.launch.environment import host, read_environment
from hpcseg.learn.ranks import Ranks, join
from hpcseg.runs import provenance
from hpcseg.runs.evaluation import evaluate
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.gate import require_own
from hpcseg.runs.grid import Cell, keep_diff, read_cell
from hpcseg.runs.inputs import Handed
from hpcseg.runs.machine import forget_peak_memory, refuse_unmeant_cpu
from hpcseg.runs.record import write_json
from hpcseg.runs.schema import Failed
from hpcseg.runs.standstill import require_progress
from hpcseg.runs.state import Stage, State
from hpcseg.runs.there import StillThere
from hpcseg.runs.told import read_failure
from hpcseg.runs.training import train
from hpcseg.runs.wish import Wish

_SECONDS_FOR_AN_EARLIER_START = 120.0


def run_cell(
    folder: CellFolder,
    stage: Stage,
    *,
    should_stop: Callable[[], bool],
    on_epoch: Callable[[], None] | None = None,
    handed: Handed | None = None,
) -> State:
    """Train or evaluate a cell from wherever its files say that it stands. Every rank calls it.

    Args:
        folder: of the cell, with its config.json; seen by all ranks.
        stage: "train", or "evaluate" for a trained cell.
        should_stop: asked between steps; True on any rank makes all ranks stop at the same step.
        on_epoch: called on rank 0 when metrics.jsonl has another epoch, for which the training waits then.
        handed: the same for the training of a cell and its evaluation behind it, which then reads no file.

    Returns:
        FINISHED when the stage's record is written (or was there already); STOPPED when `should_stop` ended it, with
        a checkpoint written; CANCELLED when the user did, of this cell alone; BUSY when another process is running it.

    Raises:
        ConfigError: the run is not the user's own, so that nothing is written to it.
        HpcsegError: anything that the user can mend; failure.json has the text, as for every other exception. But not
            where grid.json or config.json is gone meanwhile: then nothing more is written.
    """
    environment, started, run = read_environment(), time.time(), RunFolder(folder.path.parents[1])
    require_own(run)
    # Looked at now, and kept: what the checkout becomes while this runs is not what runs.
    provenance.commit()
    provenance.package_sha256()
    cell = read_cell(folder)
    if is_finished(cell, stage):
        return State.FINISHED
    there = StillThere(folder)
    try:
        with not_made_anew(run.path), join(environment, folder.path) as ranks, _lock(folder, ranks) as free:
            # Rank 0 alone knows, and all must leave together.
            if ranks.largest(not free):
                return State.BUSY
            # Another job may have finished it while this one started, or waited for the lock.
            if ranks.largest(ranks.is_main and is_finished(cell, stage)):
                return State.FINISHED
            unwanted = Wish(folder)
            if ranks.largest(ranks.is_main and unwanted()):
                return State.CANCELLED
            if ranks.is_main:
                remove_left(folder.path.glob(".*.tmp"))  # a checkpoint that a killed start was writing may be large
                folder.failure_file.unlink(missing_ok=True)
                keep_diff(run)
            refuse_unmeant_cpu(run, ranks.device)
            forget_peak_memory(ranks.device)
            try:

                def stops() -> bool:
                    there.check()
                    return should_stop() or (ranks.is_main and unwanted())

                handed = handed or Handed()
                if stage == "train":
                    done = train(cell, ranks, stops, on_epoch, handed)
                else:
                    done = evaluate(cell, ranks, stops, handed)
                if done:
                    return State.FINISHED
                if ranks.largest(ranks.is_main and unwanted()):
                    return State.CANCELLED
                if ranks.is_main:
                    require_progress(folder)
                return State.STOPPED
            finally:
                if ranks.is_main:
                    folder.progress_file.unlink(missing_ok=True)
    except Exception as error:
        # Where the folder is gone, what cannot be written there is told as that.
        there.check(now=True)
        _record_failure(folder, stage, environment.rank, error, started)
        raise


def is_finished(cell: Cell, stage: Stage) -> bool:
    """Whether a cell has what a stage makes, by its records."""
    return cell.evaluated() or (stage == "train" and cell.trained())


def _record_failure(folder: CellFolder, stage: Stage, rank: int, error: Exception, started: float) -> None:
    # What failed first is the cause; ranks that lose their peer for it only follow.
    earlier = read_failure(folder)
    if earlier and (earlier.time or 0.0) >= started:
        return
    # A full disk may be the failure itself, so writing about it may fail as well; the log has it then.
    with contextlib.suppress(HpcsegError):
        failed = Failed(
            stage=stage,
            error=f"{type(error).__name__}: {error}",
            rank=rank,
            host=host(),
            job_id=provenance.slurm_job()["slurm_job_id"],
            time=round(time.time(), 3),
        )
        write_json(folder.failure_file, failed.as_dict())


@contextlib.contextmanager
def _lock(folder: CellFolder, ranks: Ranks) -> Iterator[bool]:
    """Whether this launch has the cell to itself; the kernel lets the lock go when its holder dies."""
    if not ranks.is_main:
        yield True
        return
    # A job that Slurm has put back into the queue may start before the processes of its last start are gone.
    patience = _SECONDS_FOR_AN_EARLIER_START if "SLURM_JOB_ID" in os.environ else 0.0
    deadline = time.monotonic() + patience
    with open_regular(folder.lock_file, "a+b") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.5)
            except OSError:
                # Some shared file systems have no locks; the ledger of submissions keeps cells apart there.
                break
        yield True
