"""What a task does when the scheduler signals: the signal sets a flag, the cell stops, submitit's handler follows."""

from __future__ import annotations

import os
import pickle
import signal
import time

import pytest
import submitit

from hpcseg.cluster.tasks import stop
from hpcseg.cluster.tasks.cell import CellTask
from hpcseg.cluster.tasks.predict import JoinTask, PredictTask
from hpcseg.cluster.tasks.report import ReportTask
from hpcseg.runs import execute
from hpcseg.runs.state import State


@pytest.fixture
def in_job(monkeypatch):
    """The environment of a rank, and a handler in submitit's place that notes its calls and returns."""
    called = []

    def enter(cluster: str = "slurm", rank: int = 0):
        monkeypatch.setenv("SUBMITIT_EXECUTOR", cluster)
        prefix = {"slurm": "SLURM", "local": "SUBMITIT_LOCAL"}[cluster]
        monkeypatch.setenv(f"{prefix}_JOB_ID", "1")
        monkeypatch.setenv("SLURM_PROCID" if cluster == "slurm" else "SUBMITIT_LOCAL_GLOBALID", str(rank))
        return called

    monkeypatch.setattr(stop, "_SECONDS_TO_BE_ENDED", 1.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    yield enter
    for number, handler in before.items():
        signal.signal(number, handler)


def stops_on(monkeypatch, *signals: int) -> None:
    """A cell that gets signals while it runs, and stops when it is asked to."""

    def run_cell(folder, stage, *, should_stop):
        assert not should_stop()
        for number in signals:
            os.kill(os.getpid(), number)
        return State.STOPPED if should_stop() else State.FINISHED

    monkeypatch.setattr(execute, "run_cell", run_cell)


def test_a_task_that_nobody_stops_returns_its_outcome(in_job, monkeypatch):
    in_job()
    stops_on(monkeypatch)
    assert CellTask("/cell", "train")() is State.FINISHED
    # Python itself forgets its handlers while it ends, so nothing less than the system's own answer will do.
    assert {signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)} == {signal.SIG_IGN}


def test_the_requeue_signal_stops_the_cell_first_and_reaches_submitit_after_it(in_job, monkeypatch):
    called = in_job()
    stops_on(monkeypatch, signal.SIGUSR2)
    with pytest.raises(SystemExit):
        CellTask("/cell", "train")()
    assert called == [signal.SIGUSR2], "once, by hand"


def test_another_rank_waits_to_be_ended_and_does_not_end_in_error(in_job, monkeypatch):
    in_job(rank=1)
    stops_on(monkeypatch, signal.SIGUSR2)
    started = time.monotonic()
    with pytest.raises(SystemExit) as left:
        CellTask("/cell", "train")()
    assert left.value.code == 0 and time.monotonic() - started >= 1


def test_sigterm_alone_requeues_nothing_and_is_no_success(in_job, monkeypatch):
    called = in_job()
    stops_on(monkeypatch, signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(SystemExit) as left:
        CellTask("/cell", "train")()
    assert called == [] and left.value.code not in (0, None)
    assert time.monotonic() - started >= 1, "a preempted job that leaves by itself is not requeued"


def test_the_requeue_signal_may_follow_sigterm(in_job, monkeypatch):
    called = in_job()
    stops_on(monkeypatch, signal.SIGTERM)
    before = signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGUSR2))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(SystemExit):
            CellTask("/cell", "train")()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert called == [signal.SIGUSR2]


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_cell_that_another_process_holds_is_no_finished_job(in_job, monkeypatch, cluster):
    in_job(cluster)
    monkeypatch.setattr(execute, "run_cell", lambda *_, **__: State.BUSY)
    with pytest.raises(SystemExit, match="another process"):
        CellTask("/cell", "train")()


def test_on_this_machine_sigterm_ends_the_task_at_once(in_job, monkeypatch):
    monkeypatch.setattr(stop, "_SECONDS_TO_BE_ENDED", 60.0)
    in_job("local")
    stops_on(monkeypatch, signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(SystemExit):
        CellTask("/cell", "train")()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "task", [CellTask("/cell", "evaluate"), ReportTask("/run"), PredictTask("/out", 0, 2), JoinTask("/out")]
)
def test_a_task_survives_pickling_and_asks_for_itself_again(task):
    copy = pickle.loads(pickle.dumps(task))
    assert vars(copy) == vars(task)
    again = task.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission) and again.function is task
    assert hasattr(type(task), "checkpoint"), "submitit looks for it there"


@pytest.mark.parametrize(("seconds_left", "step", "stops"), [(30, 0.0, False), (30, 12.0, True), (8, 0.0, True)])
def test_a_cell_leaves_before_its_time_limit_when_the_next_steps_would_not_fit(
    in_job, monkeypatch, seconds_left, step, stops
):
    called = in_job()
    clock = [1000.0]
    monkeypatch.setattr(stop.time, "time", lambda: clock[0])
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(1000 + seconds_left + int(step)))
    asked = []

    def run_cell(folder, stage, *, should_stop):
        asked.append(should_stop())
        clock[0] += step
        asked.append(should_stop())
        return State.STOPPED if asked[-1] else State.FINISHED

    monkeypatch.setattr(execute, "run_cell", run_cell)
    if stops:
        with pytest.raises(SystemExit):
            CellTask("/cell", "train")()
    else:
        CellTask("/cell", "train")()
    assert asked == [False, stops], "never before the first step, or a short limit would never be long enough"
    assert called == ([signal.SIGUSR2] if stops else []), "it is requeued as on the signal"
