"""What a task does when the scheduler signals: the signal sets a flag, the cell stops, submitit's handler follows."""

from __future__ import annotations

import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import submitit
import torch

from hpcseg.cluster.tasks import cell, stop
from hpcseg.cluster.tasks.cell import CellsTask
from hpcseg.cluster.tasks.predict import JoinTask, PredictTask
from hpcseg.cluster.tasks.report import ReportTask
from hpcseg.errors import HpcsegError
from hpcseg.runs import execute, grid
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.record import write_json
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


@pytest.fixture
def task(tmp_path, monkeypatch) -> CellsTask:
    """For one cell that is trained, so that one stage is left."""
    monkeypatch.setattr(cell, "_STAGES", ("evaluate",))
    monkeypatch.setattr(grid, "read_cell", lambda folder: SimpleNamespace(trained=lambda: True))
    return CellsTask(str(tmp_path), ["a"])


def stops_on(monkeypatch, *signals: int) -> None:
    """A cell that gets signals while it runs, and stops when it is asked to."""

    def run_cell(folder, stage, *, should_stop, handed):
        assert not should_stop()
        for number in signals:
            os.kill(os.getpid(), number)
        return State.STOPPED if should_stop() else State.FINISHED

    monkeypatch.setattr(execute, "run_cell", run_cell)


def test_a_task_that_nobody_stops_returns_its_outcome(task, in_job, monkeypatch):
    in_job()
    stops_on(monkeypatch)
    assert task() == "finished"
    # Python itself forgets its handlers while it ends, so nothing less than the system's own answer will do.
    assert {signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)} == {signal.SIG_IGN}


def test_the_requeue_signal_stops_the_cell_first_and_reaches_submitit_after_it(task, in_job, monkeypatch):
    called = in_job()
    stops_on(monkeypatch, signal.SIGUSR2)
    with pytest.raises(SystemExit):
        task()
    assert called == [signal.SIGUSR2], "once, by hand"


def test_another_rank_waits_to_be_ended_and_does_not_end_in_error(task, in_job, monkeypatch):
    in_job(rank=1)
    stops_on(monkeypatch, signal.SIGUSR2)
    started = time.monotonic()
    with pytest.raises(SystemExit) as left:
        task()
    assert left.value.code == 0 and time.monotonic() - started >= 1


def test_sigterm_alone_requeues_nothing_and_is_no_success(task, in_job, monkeypatch):
    called = in_job()
    stops_on(monkeypatch, signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(SystemExit) as left:
        task()
    assert called == [] and left.value.code not in (0, None)
    assert time.monotonic() - started >= 1, "a preempted job that leaves by itself is not requeued"


def test_the_requeue_signal_may_follow_sigterm(task, in_job, monkeypatch):
    called = in_job()
    stops_on(monkeypatch, signal.SIGTERM)
    before = signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGUSR2))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(SystemExit):
            task()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert called == [signal.SIGUSR2]


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_cell_that_another_process_holds_is_no_finished_job(task, in_job, monkeypatch, cluster):
    in_job(cluster)
    monkeypatch.setattr(execute, "run_cell", lambda *_, **__: State.BUSY)
    with pytest.raises(SystemExit, match="1 of 1 cells: a busy"):
        task()


def test_on_this_machine_sigterm_ends_the_task_at_once(task, in_job, monkeypatch):
    monkeypatch.setattr(stop, "_SECONDS_TO_BE_ENDED", 60.0)
    in_job("local")
    stops_on(monkeypatch, signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(SystemExit):
        task()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "one", [CellsTask("/run", ["a", "b"]), ReportTask("/run"), PredictTask("/out", 0, 2), JoinTask("/out")]
)
def test_a_task_survives_pickling_and_asks_for_itself_again(one):
    copy = pickle.loads(pickle.dumps(one))
    assert vars(copy) == vars(one)
    again = one.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission) and again.function is one
    assert hasattr(type(one), "checkpoint"), "submitit looks for it there"


@pytest.mark.parametrize(("seconds_left", "step", "stops"), [(30, 0.0, False), (30, 12.0, True), (8, 0.0, True)])
def test_a_cell_leaves_before_its_time_limit_when_the_next_steps_would_not_fit(
    task, in_job, monkeypatch, seconds_left, step, stops
):
    called = in_job()
    clock = [1000.0]
    monkeypatch.setattr(stop.time, "time", lambda: clock[0])
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(1000 + seconds_left + int(step)))
    asked = []

    def run_cell(folder, stage, *, should_stop, handed):
        asked.append(should_stop())
        clock[0] += step
        asked.append(should_stop())
        return State.STOPPED if asked[-1] else State.FINISHED

    monkeypatch.setattr(execute, "run_cell", run_cell)
    if stops:
        with pytest.raises(SystemExit):
            task()
    else:
        task()
    assert asked == [False, stops], "never before the first step, or a short limit would never be long enough"
    assert called == ([signal.SIGUSR2] if stops else []), "it is requeued as on the signal"


@pytest.fixture
def three(tmp_path, monkeypatch) -> CellsTask:
    """Three untrained cells, which `outcomes` sends to their ends."""
    monkeypatch.setattr(grid, "read_cell", lambda folder: SimpleNamespace(trained=lambda: False))
    return CellsTask(str(tmp_path), ["a", "b", "c"])


def outcomes(monkeypatch, **of: object) -> list[tuple[str, str]]:
    """What becomes of cells, FINISHED where nothing else is said: a state, or an exception of the training."""
    ran = []

    def run_cell(folder, stage, *, should_stop, handed):
        ran.append((folder.id, stage))
        what = of.get(folder.id, State.FINISHED)
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(execute, "run_cell", run_cell)
    return ran


def test_a_cell_hands_its_model_to_its_own_evaluation_alone(three, in_job, monkeypatch):
    in_job()
    found = {}

    def run_cell(folder, stage, *, should_stop, handed):
        found[folder.id, stage] = dict(handed.weights)
        handed.weights = {"of": folder.id} if stage == "train" else handed.weights
        return State.FINISHED

    monkeypatch.setattr(execute, "run_cell", run_cell)
    assert three() == "finished"
    assert {stage: [found[cell, stage] for cell in "abc"] for stage in ("train", "evaluate")} == {
        "train": [{}, {}, {}], "evaluate": [{"of": "a"}, {"of": "b"}, {"of": "c"}],
    }  # fmt: skip


def marks(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]


@pytest.mark.parametrize("wrong", [ValueError("of b"), State.BUSY])
def test_a_cell_that_fails_leaves_the_others_alone_and_the_job_has_failed(three, in_job, monkeypatch, capsys, wrong):
    in_job()
    ran = outcomes(monkeypatch, b=wrong)
    with pytest.raises(SystemExit, match=r"1 of 3 cells: b (failed|busy)"):
        three()
    assert ran == [("a", "train"), ("a", "evaluate"), ("b", "train"), ("c", "train"), ("c", "evaluate")]
    said = capsys.readouterr()
    assert ("ValueError: of b" in said.err) != ("another process is still running" in said.out)
    assert [line for line in said.out.splitlines() if line.startswith("== b")] == [
        "== b: train", "== b: busy" if wrong is State.BUSY else "== b: failed",
    ]  # fmt: skip


def test_a_cell_that_the_user_cancels_is_passed_over(three, in_job, monkeypatch, capsys):
    in_job()
    outcomes(monkeypatch, a=State.CANCELLED)
    assert three() == "finished"
    assert marks(capsys)[:3] == ["== a: train", "== a: cancelled", "== b: train"]


def test_a_stopped_job_begins_no_other_cell(three, in_job, monkeypatch, capsys):
    called = in_job()
    stops_on(monkeypatch, signal.SIGUSR2)
    with pytest.raises(SystemExit):
        three()
    assert called == [signal.SIGUSR2] and marks(capsys) == ["== a: train", "== a: stopped"]


def test_a_signal_between_two_cells_begins_no_other(three, in_job, monkeypatch, capsys):
    called, ran = in_job(), []

    def run_cell(folder, stage, *, should_stop, handed):
        ran.append((folder.id, stage))
        if stage == "evaluate":
            os.kill(os.getpid(), signal.SIGUSR2)
        return State.FINISHED

    monkeypatch.setattr(execute, "run_cell", run_cell)
    with pytest.raises(SystemExit):
        three()
    assert ran == [("a", "train"), ("a", "evaluate")], "b would load its data before it could stop"
    assert called == [signal.SIGUSR2] and marks(capsys)[-1] == "== b: stopped"


def test_a_job_whose_time_is_up_when_a_cell_has_failed_goes_on_with_the_others_after_a_requeue(
    three, in_job, monkeypatch
):
    called, ran = in_job(), []
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 5))

    def run_cell(folder, stage, *, should_stop, handed):
        ran.append(folder.id)
        assert [should_stop(), should_stop()] == [False, True]
        raise HpcsegError("The job has timed-out too many times")

    monkeypatch.setattr(execute, "run_cell", run_cell)
    with pytest.raises(SystemExit):
        three()
    assert ran == ["a"] and called == [signal.SIGUSR2], "b would load its data before it could stop"


def test_the_time_between_two_cells_is_no_step(three, in_job, monkeypatch):
    in_job()
    clock = [1000.0]
    monkeypatch.setattr(stop.time, "time", lambda: clock[0])
    monkeypatch.setenv("SLURM_JOB_END_TIME", "2000")

    def run_cell(folder, stage, *, should_stop, handed):
        assert not should_stop(), "there are 200 s left, and steps take none"
        clock[0] += 160  # an evaluation of one step, and data to be loaded
        return State.FINISHED

    monkeypatch.setattr(execute, "run_cell", run_cell)
    assert three() == "finished"


def test_a_log_on_a_full_disk_ends_no_job(three, in_job, monkeypatch):
    in_job()
    ran = outcomes(monkeypatch)

    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    assert three() == "finished"
    assert [cell for cell, stage in ran if stage == "evaluate"] == ["a", "b", "c"]


def test_after_a_requeue_a_cell_that_failed_in_this_job_is_passed_over(three, in_job, monkeypatch, capsys, tmp_path):
    in_job()
    ran = outcomes(monkeypatch)
    write_json(RunFolder(tmp_path).cell("a").failure_file, {"error": "ValueError: no", "job_id": "1"})
    write_json(RunFolder(tmp_path).cell("b").failure_file, {"error": "ValueError: no", "job_id": "of another"})
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(SystemExit, match="1 of 3 cells: a failed"):
        three()
    assert [cell for cell, stage in ran if stage == "train"] == ["b", "c"]
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert three() == "finished"


def test_where_several_ranks_run_a_cell_a_failure_ends_the_job(three, in_job, monkeypatch):
    in_job()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    ran = outcomes(monkeypatch, a=ValueError("of a"))
    with pytest.raises(ValueError, match="of a"):
        three()
    assert ran == [("a", "train")], "the other rank may wait for this one in the midst of it"


@pytest.mark.parametrize("lost", [True, False])
def test_a_gpu_that_answers_nothing_any_more_ends_the_job(three, in_job, monkeypatch, lost):
    in_job()
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    ran = outcomes(monkeypatch, a=error)

    def synchronize() -> None:
        if lost:
            raise error

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(RuntimeError if lost else SystemExit, match="illegal memory" if lost else "1 of 3 cells"):
        three()
    assert len(ran) == (1 if lost else 5), "another error is the cell's own"


def test_the_report_job_runs_no_module_of_the_current_folder(tmp_path, monkeypatch):
    """Whatever its environment says of safe paths."""
    (tmp_path / "hpcseg.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with pytest.raises(subprocess.CalledProcessError):
        ReportTask(str(tmp_path / "gone"))()
    assert not (tmp_path / "canary").exists()
