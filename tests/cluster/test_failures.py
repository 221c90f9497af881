"""Why a cell ended: from its failure.json, its logs and Slurm's last word, in the order in which they are believed."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import pytest

from hpcseg.cluster.failures import KINDS, Action, Failure, diagnose
from hpcseg.cluster.logs import find_logs, follow, last_attempt, mark, tail
from hpcseg.cluster.scheduler import JobState
from hpcseg.config import CellConfig
from hpcseg.files import open_regular
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import write_json

PAGE = Path(__file__).parents[2] / "slurm" / "README.md"
BEGINNING = "submitit INFO - Starting with JobEnvironment(job_id=7)\n"


@pytest.fixture
def cell(tmp_path) -> Cell:
    return Cell(CellConfig(), CellFolder(tmp_path / "cells" / "a"))


@pytest.fixture
def explain(cell, tmp_path):
    """Diagnoses a cell with this error in failure.json, these logs by rank, and this word of Slurm's."""

    def of(
        error: str | None = None,
        *,
        logs: dict[int, str] | None = None,
        state: str | None = None,
        rank: int = 0,
        beginning: str = BEGINNING,
        **options: Any,
    ):
        if error is not None:
            write_json(cell.folder.failure_file, {"error": error, "rank": rank, "host": "n1", "time": 1.0})
        for number, text in (logs or {}).items():
            (tmp_path / f"7_{number}_log.out").write_text(beginning + text)
        job = JobState(state, "", "n2") if state else None
        return diagnose(cell, "7", options.pop("job", job), cancelled=False, logs=find_logs(tmp_path), **options)

    return of


def seen(failure: Failure) -> tuple[str, str]:
    return failure.kind.name, failure.kind.action


@pytest.mark.parametrize(
    ("error", "name", "action"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out of GPU memory", "give up"),
        ("AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be", "out of GPU memory", "give up"),
        ("DistBackendError: NCCL error in: x.cpp, Cuda failure 2 'out of memory'", "out of GPU memory", "give up"),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out of GPU memory", "give up"),
        ("RuntimeError: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "out of GPU memory", "give up"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", "out of GPU memory", "give up"),
        ("MemoryError: ", "out of host memory", "more memory"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: out of memory: y", "out of host memory", "more memory"),
        ("HpcsegError: /x/model.pt cannot be written: No space left on device.", "disk full", "give up"),
        ("HpcsegError: The training loss became nan in epoch 3.", "loss not finite", "give up"),
        ("AcceleratorError: CUDA error: uncorrectable ECC error encountered", "GPU fault", "other node"),
        ("AcceleratorError: CUDA error: device-side assert triggered", "assertion on the GPU", "give up"),
        ("DistBackendError: NCCL error, Duplicate GPU detected : rank 1", "two ranks on one GPU", "give up"),
        ("HpcsegError: Ranks 0 and 1 of host n1 use the same GPU. Start", "two ranks on one GPU", "give up"),
        ("HpcsegError: Rank 3 of this node finds 2 GPUs. Start as many", "two ranks on one GPU", "give up"),
        ("DistBackendError: NCCL error in: ProcessGroupNCCL.cpp", "communication between ranks", "resume"),
        ("RuntimeError: [gloo/pair.cc:5] Connection closed by peer", "communication between ranks", "resume"),
        ("ConnectionError: Rank 1 has ended before rank 0 was done. Its log", "communication between ranks", "resume"),
        ("HpcsegError: Rank 0 waited 10 minutes for the others. Are", "communication between ranks", "resume"),
        ("ConnectionError: Rank 2 waited 10 minutes for rank 1.", "communication between ranks", "resume"),
        ("HpcsegError: data.h5 holds other data than when the cell was planned.", "error", "give up"),
        ("ValueError: whatever", "error", "give up"),
    ],
)
def test_what_a_process_has_said_names_the_kind(explain, error, name, action):
    failure = explain(error)
    assert seen(failure) == (name, action)
    assert failure.text == " ".join(error.split()) and failure.node == "n1"


@pytest.mark.parametrize(
    ("state", "name", "action"),
    [
        ("OUT_OF_MEMORY", "out of host memory", "more memory"),
        ("NODE_FAIL", "node failure", "resume"),
        ("TIMEOUT", "time limit", "more time"),
        ("PREEMPTED", "preempted", "resume"),
        ("CANCELLED by 1000", "cancelled", "give up"),
        ("FAILED", "killed without a word", "resume"),
        (None, "killed without a word", "resume"),
    ],
)
def test_slurms_last_word_names_the_kind_of_a_job_that_left_none(explain, state, name, action):
    assert seen(explain(state=state)) == (name, action)


NO_PYTHON = (
    "slurmstepd-n1: error: execve(): /nosuch/python: No such file or directory\n"
    "srun: error: n1: task 0: Exited with exit code 2\nsrun: launch/slurm: _step_signal: Terminating StepId=7.0\n"
)
NO_MODULE = BEGINNING + "Traceback (most recent call last):\nModuleNotFoundError: No module named 'hpcseg'\n"


@pytest.mark.parametrize(
    ("log", "job", "text"),
    [
        (NO_PYTHON, JobState("FAILED", exit_code="2:0"), f"exit code 2: {NO_PYTHON.splitlines()[0]}"),
        (NO_PYTHON, None, NO_PYTHON.splitlines()[0]),
        ("bash: /x/activate: No such file\n", JobState("FAILED", exit_code="7:0"), "exit code 7: bash: /x/activate"),
        ("", JobState("FAILED", exit_code="7:0"), "exit code 7"),
        # Without accounting squeue says that it was an exit, and not which.
        ("bash: /x/activate: No such file\n", JobState("FAILED", "NonZeroExitCode"), "bash: /x/activate"),
        (NO_MODULE, JobState("FAILED", exit_code="1:0"), "exit code 1: ModuleNotFoundError: No module"),
        (NO_MODULE.replace("hpcseg", "torch"), JobState("FAILED", exit_code="1:0"), "exit code 1: ModuleNotFoundError"),
    ],
)
@pytest.mark.parametrize("before", [None, "DistBackendError: NCCL"])
def test_a_job_that_ended_of_itself_before_hpcseg_began_was_not_killed(explain, log, job, text, before):
    failure = explain(before, logs={0: log}, beginning="", job=job, touched=False)
    assert seen(failure) == ("ended before hpcseg began", "give up") and failure.text.startswith(text)
    assert "setup" in failure.kind.remedy and "python" in failure.kind.remedy


@pytest.mark.parametrize(
    ("log", "code"),
    [
        # srun ends with the number of the signal.
        (BEGINNING + "srun: error: n1: task 0: Killed\n", "9:0"),
        (BEGINNING + "srun: error: n1: tasks 0-1: Segmentation fault (core dumped)\n", "11:0"),
        ("", "0:9"),
        ("", "137:0"),
        ("", ""),
    ],
)
def test_a_job_that_a_signal_ended_before_hpcseg_began_was_killed(explain, log, code):
    job = JobState("FAILED", exit_code=code)
    assert seen(explain(logs={0: log}, beginning="", job=job, touched=False)) == ("killed without a word", "resume")


def test_a_job_that_ended_when_its_cell_had_begun_may_have_been_killed(explain):
    # An exit code alone does not tell: srun's is the number of the signal, or 1 where another rank was first.
    assert seen(explain(logs={0: "training\n"}, job=JobState("FAILED", exit_code="9:0")))[0] == "killed without a word"


def test_the_rank_that_ran_out_of_memory_is_the_cause_and_not_those_who_lost_it(explain):
    failure = explain(
        "RuntimeError: [gloo/pair.cc:5] Connection closed by peer",
        logs={
            0: "Connection closed by peer\n",
            1: "fine\nslurmstepd: error: Detected 1 oom_kill event in StepId=7.0\n",
        },
    )
    assert seen(failure) == ("out of host memory", "more memory")
    assert (failure.rank, failure.text) == (1, "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("n1:71:71 [1] NCCL WARN Cuda failure 2 'out of memory'", "out of GPU memory"),
        ("n1:71:71 [1] NCCL WARN Duplicate GPU detected : rank 1 and rank 0", "two ranks on one GPU"),
    ],
)
def test_what_nccl_warns_of_in_another_ranks_log_is_the_cause_of_a_lost_connection(explain, line, name):
    failure = explain("RuntimeError: Connection closed by peer", logs={0: "closed\n", 1: f"{line}\n"})
    assert (failure.kind.name, failure.rank, failure.text) == (name, 1, line)


def test_slurm_names_the_cause_in_its_log_where_there_is_no_accounting(explain):
    limit = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
    assert seen(explain(logs={0: limit}))[0] == "time limit"
    step = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n"
    assert seen(explain(logs={0: step}))[0] == "killed without a word", "srun ends the ranks that a dead one leaves"
    assert seen(explain(logs={0: step + step.replace("STEP 7.0", "JOB 7")}))[0] == "cancelled"


def test_what_libraries_write_where_all_is_well_is_no_failure(explain):
    assert seen(explain(logs={0: "[Gloo] Rank 0 is connected to 1 peer ranks\nNCCL version 2.21\n"}))[0] == (
        "killed without a word"
    )


def test_an_earlier_attempt_in_the_same_log_is_past(explain, tmp_path):
    earlier = "slurmstepd: error: Detected 1 oom_kill event\n"
    assert seen(explain(logs={0: earlier + BEGINNING + "training\n"}))[0] == "killed without a word"


@pytest.mark.parametrize("left", ["", '{"time": 1.5, "event": "sta'])
def test_a_line_that_was_cut_tells_of_a_disk_that_was_full(explain, cell, left):
    """A quota that is reached is not seen from outside, and later there may be room again."""
    cell.folder.path.mkdir(parents=True)
    cell.folder.events_file.write_text(left)
    assert seen(explain()) == ("disk full", "give up")
    cell.folder.events_file.write_text('{"time": 1.5, "event": "start"}\n')
    assert seen(explain())[0] == "killed without a word"


def test_every_kind_says_what_the_user_can_do():
    for kind in KINDS:
        assert kind.remedy.endswith(".") and kind.action in typing.get_args(Action)
        assert kind.words or kind.said


def test_the_logs_of_a_job_are_those_of_its_ranks_and_no_other_jobs(tmp_path):
    for name in ("7_0_log.out", "7_10_log.out", "7_2_log.out", "7_1_0_log.out", "77_0_log.out", "7_0_result.pkl"):
        (tmp_path / name).touch()
    logs = find_logs(tmp_path)
    assert [path.name for path in logs["7"].values()] == ["7_0_log.out", "7_2_log.out", "7_10_log.out"]
    assert [path.name for path in logs["7_1"].values()] == ["7_1_0_log.out"]
    assert find_logs(tmp_path / "none") == {}


def test_a_long_log_is_read_from_its_end_and_a_missing_one_is_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcseg.cluster.logs._MOST_BYTES", 64 * 1024)
    (tmp_path / "log").write_text("".join(f"line {number}\n" for number in range(20_000)))
    lines = tail(tmp_path / "log", "a")
    assert lines[-1] == "line 19999" and lines[0].startswith("line 1") and len(lines) < 10_000
    assert tail(tmp_path / "none", "a") == [] and last_attempt(tmp_path / "none").lines("a") == []


def test_the_log_of_a_job_of_many_cells_is_read_once_for_all_of_them(tmp_path, monkeypatch):
    read, text = [], BEGINNING + "before\n"
    for number in range(200):
        text += f"{mark(f'cell-{number}', 'train')}\nCUDA error: {number}\n{mark(f'cell-{number}', 'failed')}\n"
    log = tmp_path / "7_0_log.out"
    log.write_text(text)
    monkeypatch.setattr("hpcseg.cluster.logs.open_regular", lambda *of: read.append(of) or open_regular(*of))
    for number in range(200):
        cell = Cell(CellConfig(), CellFolder(tmp_path / "cells" / f"cell-{number}"))
        failure = diagnose(cell, "7", None, cancelled=False, logs=find_logs(tmp_path))
        assert failure.summary == f"GPU fault: CUDA error: {number}"
    assert len(read) == 1
    log.write_text(text + f"{mark('cell-7', 'train')}\nCUDA error: again\n")
    failure = diagnose(
        Cell(CellConfig(), CellFolder(tmp_path / "cells" / "cell-7")),
        *("7", None),
        cancelled=False,
        logs=find_logs(tmp_path),
    )
    assert failure.summary == "GPU fault: CUDA error: again" and len(read) == 2


def test_a_followed_log_shows_what_comes_and_ends_with_its_job(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcseg.cluster.logs._SECONDS_BETWEEN_LOOKS", 0.0)
    log = tmp_path / "log"
    log.write_text("one\n")
    asked = 0

    def goes_on() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            with log.open("a") as file:
                file.write("two\n")
        return asked < 3

    assert [line for lines in follow(log, "a", goes_on) for line in lines] == ["one", "two"]


def test_of_a_log_of_several_cells_each_has_its_own_lines_and_those_before_all(tmp_path):
    text = ["start", mark("a", "train"), "one", mark("a", "failed"), mark("a-1", "train"), "two", mark("a", "train")]
    (tmp_path / "log").write_text("\n".join([*text, "three"]))
    assert tail(tmp_path / "log", "a") == [*text[:4], text[-1], "three"]
    assert tail(tmp_path / "log", "a-1") == ["start", *text[4:6]]
    assert tail(tmp_path / "log", "b") == ["start"]


def test_the_page_says_of_every_kind_of_failure_what_to_do():
    table = PAGE.read_text().partition("\n## When something goes wrong\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if "`" in line[:3]]
    seen = " ".join(row[0] for row in rows if len(row) == 3 and row[2])
    assert [kind.name for kind in KINDS if not re.search(rf"`{re.escape(kind.name)}[`:]", seen)] == []
