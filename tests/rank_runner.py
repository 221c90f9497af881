"""Starts real ranks for a test: N processes that meet over gloo, as submitit's local executor would start them."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcseg.runs.grid import Cell

# Ranks are forked from a process that has imported what takes them seconds, and has done nothing with it:
# DistributedDataParallel asks torch's compiler whether it is in use.
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["hpcseg.runs.execute", "torch._dynamo"])


def start_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any, context: Any = _FORKING
) -> tuple[list[Any], Any]:
    """The processes of `world_size` ranks that run `function(*arguments)`, and the queue of (rank, went well, answer).

    What they print is printed where the context's other processes do: "spawn" has what is captured now.
    """
    answers, launch = context.SimpleQueue(), uuid.uuid4().hex
    processes = [
        context.Process(target=_rank, args=(dict(os.environ), rank, world_size, launch, answers, function, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes, answers


def run_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 240, dies: int | None = None
) -> list[Any]:
    """`function(*arguments)` in each of `world_size` processes; their answers in the order of the ranks.

    The rank `dies` is to end without an answer.
    """
    processes, answers = start_ranks(world_size, function, *arguments)
    for process in processes:
        process.join(timeout)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    received: dict[int, tuple[bool, Any]] = {}
    while not answers.empty():
        rank, good, answer = answers.get()
        received[rank] = (good, answer)
    for rank, (good, answer) in sorted(received.items()):
        assert good, f"rank {rank} failed:\n{answer}"
    expected = [rank for rank in range(world_size) if rank != dies]
    assert sorted(received) == expected and not alive, f"ranks {sorted(received)} of {world_size} answered"
    return [received[rank][1] for rank in expected]


def _rank(
    environment: dict[str, str],
    rank: int,
    world_size: int,
    launch: str,
    answers: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(
        environment,
        SUBMITIT_EXECUTOR="local",
        SUBMITIT_LOCAL_JOB_ID=launch,
        SUBMITIT_LOCAL_NTASKS=str(world_size),
        SUBMITIT_LOCAL_GLOBALID=str(rank),
        SUBMITIT_LOCAL_LOCALID=str(rank),
        OMP_NUM_THREADS="1",
    )
    try:
        answers.put((rank, True, function(*arguments)))
    except BaseException:
        answers.put((rank, False, traceback.format_exc()))


def run_cell_stage(folder: Path, stage: str, stop_after_steps: int | None = None) -> str:
    """`run_cell` in this rank, stopped on rank 0 alone after a number of questions, as by a signal.

    The ranks then ask each other at every step, since so short a training would be over before they do.
    """
    from hpcseg.learn import ranks
    from hpcseg.runs.execute import run_cell
    from hpcseg.runs.folder import CellFolder

    asked = 0
    if stop_after_steps is not None:
        ranks._SECONDS_ALONE = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        on_main = os.environ["SUBMITIT_LOCAL_GLOBALID"] == "0"
        return stop_after_steps is not None and on_main and asked > stop_after_steps

    return run_cell(CellFolder(folder), stage, should_stop=should_stop)


def two_ranks_agree_with_one(cell: Cell, folder: Path) -> None:
    """Evaluate a finished cell again on two ranks, then train it again on them, in a copy of its run in `folder`."""
    import numpy as np

    from hpcseg.runs.folder import RunFolder

    copy = folder / "runs" / cell.folder.path.parents[1].name
    shutil.copytree(cell.folder.path.parents[1], copy)
    shutil.copy(cell.folder.path.parents[3] / "dataset.h5", folder)
    again = RunFolder(copy).cell(cell.id)
    again.evaluation_file.unlink()
    assert set(run_ranks(2, run_cell_stage, again.path, "evaluate")) == {"finished"}
    assert again.slices_file.read_bytes() == cell.folder.slices_file.read_bytes()
    for file in (again.evaluation_file, again.training_file, again.model_file, again.metrics_file):
        file.unlink()
    assert set(run_ranks(2, run_cell_stage, again.path, "train")) == {"finished"}
    one, two = ([json.loads(line) for line in of.metrics_file.read_text().splitlines()] for of in (cell.folder, again))
    # As in test_ranks_agree: sums over a batch and the steps of Adam stay within a few hundred units of rounding.
    np.testing.assert_allclose([e["train_loss"] for e in two], [e["train_loss"] for e in one], rtol=1e-4)
    np.testing.assert_allclose([e["validation_loss"] for e in two], [e["validation_loss"] for e in one], rtol=1e-3)
