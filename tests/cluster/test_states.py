"""One state per cell: what its files say first, then what Slurm adds, and Slurm may be silent."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time

import finished_cells
import pytest
from fake_slurm import trained
from typer.testing import CliRunner

from hpcseg.cli import watching
from hpcseg.cli.app import app
from hpcseg.cluster import ledger, remembered, scheduler, worker
from hpcseg.cluster.logs import mark
from hpcseg.cluster.scheduler import JobState
from hpcseg.cluster.states import CellStatus, run_status
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Grid, plan, write_plan
from hpcseg.runs.record import append_event, write_json
from hpcseg.runs.state import State
from hpcseg.runs.wish import leave_out


@pytest.fixture
def grid(tmp_path) -> Grid:
    planned = plan(load_job(find_shipped("job", "smoke")), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    write_plan(planned)
    return planned


@pytest.fixture
def slurm(monkeypatch):
    """Sets what squeue (None: no answer) and the accounting say."""

    def says(queue: dict[str, JobState] | None, accounting: dict[str, JobState] | None = None) -> None:
        monkeypatch.setattr(scheduler, "ask", lambda *asked: queue)
        monkeypatch.setattr(scheduler, "history", lambda ids: accounting or {})

    return says


def first(grid: Grid) -> CellStatus:
    return run_status(grid.run).status[0]


def submit(grid: Grid) -> None:
    ledger.book(grid.run, "", "cells", [[cell.id] for cell in grid.cells], "100")


def beat(grid: Grid, *, age: float = 0.0, job_id: str | None = "345", pid: int = 1, host: str = "n1") -> None:
    folder = grid.cells[0].folder
    append_event(folder.events_file, "start")
    steps = {"epoch": 2, "epochs": 4, "step": 5, "steps_per_epoch": 10, "seconds_per_step": 2.0}
    finished_cells.beat(folder, age=age, host=host, pid=pid, job_id=job_id, **steps)


def test_a_cell_without_files_is_missing(grid):
    assert [cell.state for cell in run_status(grid.run).status] == ["missing", "missing"]


def test_a_waiting_cell_says_what_it_waits_for(grid, slurm):
    submit(grid)
    slurm({"100_0": JobState("PENDING", "Resources")})
    assert (first(grid).state, first(grid).note, first(grid).job_id) == ("queued", "Resources", "100_0")


def test_a_running_cell_shows_its_rest_and_its_node(grid, slurm):
    submit(grid)
    beat(grid)
    slurm({"100_0": JobState("RUNNING", "", "n2")})
    # 40 steps in all, 15 of them done, 2 s each.
    assert (first(grid).state, first(grid).seconds_left, first(grid).node) == ("running", 50.0, "n2")


def test_a_running_cell_without_slurms_word_is_known_from_its_heartbeat(grid, slurm):
    submit(grid)
    beat(grid)
    slurm(None)
    found = run_status(grid.run)
    assert (found.status[0].state, found.status[0].node, found.answered) == ("running", "n1", False)


@pytest.mark.parametrize(
    ("state", "shown"), [("PENDING", "queued"), ("SUSPENDED", "suspended"), ("CANCELLED by 0", "cancelled")]
)
def test_slurm_corrects_the_heartbeat_of_its_own_job_at_once(grid, slurm, state, shown):
    submit(grid)
    beat(grid, job_id="100_0")
    slurm({"100_0": JobState(state)})
    assert first(grid).state == shown
    beat(grid, job_id="345")
    assert first(grid).state == "running", "an interactive session, of which this job knows nothing"


def test_a_heartbeat_that_stopped_is_a_stopped_cell(grid, slurm):
    beat(grid, age=1000)
    assert first(grid).state == "stopped"


def test_a_heartbeat_of_a_process_that_is_gone_from_this_machine_counts_nothing(grid):
    with subprocess.Popen(["true"]) as ended:
        pass
    beat(grid, job_id=None, pid=ended.pid, host=socket.gethostname())
    assert first(grid).state == "stopped"
    beat(grid, job_id=None, host=socket.gethostname())  # process 1 lives
    assert first(grid).state == "running"


def test_a_word_of_slurms_that_is_none_of_ours_is_unknown_with_the_word_in_the_note(grid, slurm):
    submit(grid)
    slurm({"100_0": JobState("HIBERNATING", "odd")})
    assert (first(grid).state, first(grid).note) == ("unknown", "HIBERNATING: odd")
    slurm({"100_0": JobState("RESV_DEL_HOLD", "odd")})
    assert (first(grid).state, first(grid).note) == ("queued", "odd"), "a wait of which hpcseg does know"


def test_a_job_that_slurm_runs_is_called_by_what_the_cell_does_in_it(grid, slurm):
    submit(grid)
    slurm({"100_0": JobState("RUNNING"), "100_1": JobState("COMPLETING")})
    assert [cell.state for cell in run_status(grid.run).status] == ["running", "running"]
    trained(grid.cells[0].folder)
    assert first(grid).state == "evaluating"


def test_of_the_cells_of_one_job_one_runs_and_the_others_wait_behind_it(grid, slurm):
    one, two = grid.cells
    ledger.book(grid.run, "", "cells", [[one.id, two.id]], "100")
    slurm({"100": JobState("RUNNING")})

    def states() -> list[tuple[str, str]]:
        return [(cell.state, cell.note) for cell in run_status(grid.run).status]

    assert states() == [("running", ""), ("queued", f"behind {one.id} in its job")], "data are loaded"
    beat(grid, job_id="100")
    assert [state for state, _ in states()] == ["running", "queued"]
    one.folder.progress_file.unlink()
    write_json(one.folder.failure_file, {"error": "ValueError: no", "time": time.time() + 1})
    assert states() == [("failed", "error: ValueError: no"), ("running", "")], "the job goes on"
    one.folder.failure_file.unlink()
    ledger.book_cancelled(grid.run, [one.id])
    leave_out(one.folder, "100")
    assert [state for state, _ in states()] == ["cancelled", "running"]
    slurm({"100": JobState("PENDING", "Resources")})
    assert states()[1] == ("queued", "Resources")


def test_a_cell_whose_turn_had_not_come_is_said_to_be_so_and_is_worth_a_try(grid, slurm):
    one, two = grid.cells
    ledger.book(grid.run, "", "cells", [[one.id, two.id]], "100")
    slurm({"100": JobState("OUT_OF_MEMORY")})
    grid.run.logs.mkdir()
    begun = f"Starting with JobEnvironment()\n{mark(one.id, 'train')}\n"
    (grid.run.logs / "100_0_log.out").write_text(begun)
    append_event(one.folder.events_file, "start")
    found = run_status(grid.run)
    assert [failure.kind.name for failure in found.failures.values()] == ["out of host memory", "not reached"]
    assert found.failures[two.id].kind.action == "resume"
    # It had failed by itself before another cell of the job ran out of memory.
    (grid.run.logs / "100_0_log.out").write_text(f"{begun}{mark(one.id, 'failed')}\n{mark(two.id, 'train')}\n")
    write_json(one.folder.failure_file, {"error": "ValueError: no", "time": time.time() + 1})
    found = run_status(grid.run)
    assert [failure.kind.name for failure in found.failures.values()] == ["error", "out of host memory"]


def test_what_another_cell_of_the_job_has_said_is_not_this_ones_cause(grid, slurm):
    one, two = grid.cells
    ledger.book(grid.run, "", "cells", [[one.id, two.id]], "100")
    slurm({})
    grid.run.logs.mkdir()
    error = "torch.OutOfMemoryError: CUDA out of memory"
    said = [mark(one.id, "train"), error, mark(one.id, "failed"), mark(two.id, "train"), ""]
    (grid.run.logs / "100_0_log.out").write_text("\n".join(["Starting with JobEnvironment()", *said]))
    write_json(one.folder.failure_file, {"error": error, "time": time.time() + 1})
    append_event(two.folder.events_file, "start")
    kinds = [failure.kind.name for failure in run_status(grid.run).failures.values()]
    assert kinds == ["out of GPU memory", "killed without a word"]


def test_every_state_that_is_shown_is_one_of_the_documented_words(grid, slurm):
    submit(grid)
    for word in ("PENDING", "RUNNING", "SUSPENDED", "FAILED", "CANCELLED by 0", "HIBERNATING", ""):
        slurm({"100_0": JobState(word)})
        content = json.loads(CliRunner().invoke(app, ["status", "--json", "--run", str(grid.run.path)]).stdout)
        shown = {cell["state"] for cell in content["cells"]} | set(content["counts"])
        assert shown <= {state.value for state in State}, word


def test_accounting_tells_how_a_cell_died_that_left_no_word(grid, slurm):
    submit(grid)
    append_event(grid.cells[0].folder.events_file, "start")
    slurm({}, {"100_0": JobState("OUT_OF_MEMORY")})
    assert (first(grid).state, first(grid).note) == ("stopped", "out of host memory")


def test_a_failed_cell_says_why_until_it_is_queued_again(grid, slurm):
    submit(grid)
    write_json(grid.cells[0].folder.failure_file, {"error": "ValueError: no"})
    slurm({})
    assert (first(grid).state, first(grid).note) == ("failed", "error: ValueError: no")
    slurm({"100_0": JobState("PENDING", "Priority")})
    assert (first(grid).state, first(grid).note) == ("queued", "Priority")


def test_the_later_of_a_failure_and_a_heartbeat_is_believed(grid):
    beat(grid, age=10)
    write_json(grid.cells[0].folder.failure_file, {"error": "ValueError: no", "time": time.time() - 5})
    assert first(grid).state == "failed", "another rank has failed"
    beat(grid)
    assert (first(grid).state, first(grid).note) == ("running", ""), "the next attempt"


def test_on_a_machine_without_slurm_the_heartbeat_is_believed(grid, monkeypatch, tmp_path):
    submit(grid)
    beat(grid, job_id="100_0")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = run_status(grid.run)
    assert (found.status[0].state, found.answered, dict(found.failures)) == ("running", False, {})


def test_silence_is_asked_for_once(grid, monkeypatch):
    asked = []
    monkeypatch.setattr(scheduler, "_run", lambda command: asked.append(command[0]))
    submit(grid)
    assert run_status(grid.run).answered is False
    assert asked == ["squeue", "sacct", "scontrol"]


@pytest.mark.parametrize("has", ["nothing", "a model", "the failure of an earlier job", "a start"])
def test_what_becomes_of_a_job_in_a_silent_slurm_is_unknown_and_nobody_is_told_to_begin_anew(grid, slurm, has):
    folder = grid.cells[0].folder
    if has == "a model":
        trained(folder)
    elif has == "the failure of an earlier job":
        append_event(folder.events_file, "start")
        write_json(folder.failure_file, {"error": "ValueError: no", "time": time.time()})
        time.sleep(0.01)
    submit(grid)
    if has == "a start":
        append_event(folder.events_file, "start")
    slurm(None)
    found = run_status(grid.run)
    assert [cell.state for cell in found.status] == ["started" if has == "a start" else "unknown", "unknown"]
    assert "job 100_0, of which Slurm says nothing" in found.status[0].note
    assert not found.idle and not found.failures
    said = CliRunner().invoke(app, ["status", "--run", str(grid.run.path)])
    assert "Next:" not in said.output and "Slurm does not answer" in said.output


def test_a_failure_in_its_last_job_is_one_also_where_slurm_is_silent(grid, slurm):
    submit(grid)
    write_json(grid.cells[0].folder.failure_file, {"error": "ValueError: no", "time": time.time() + 1})
    slurm(None)
    assert (first(grid).state, first(grid).note) == ("failed", "error: ValueError: no")


def test_that_no_report_job_follows_is_said_while_jobs_wait_or_run(grid, slurm):
    submit(grid)
    waits = {"100_0": JobState("PENDING", "Resources"), "100_1": JobState("FAILED")}
    lost = "No report job follows these jobs"
    slurm(waits)
    assert lost in run_status(grid.run).notes[0], "there was no room for one"
    ledger.book(grid.run, "", "report", [], "101")
    slurm({**waits, "101": JobState("FAILED")})
    assert lost in run_status(grid.run).notes[0], "it died"
    for follows in ({"101": JobState("PENDING", "Dependency")}, {"101": scheduler.SILENCE}):
        slurm({**waits, **follows})
        assert not run_status(grid.run).notes
    slurm({"100_0": JobState("FAILED")})
    assert not run_status(grid.run).notes, "nothing is under way"
    slurm(None)
    assert not run_status(grid.run).notes


def test_status_prints_a_table_and_json(grid, slurm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    submit(grid)
    ledger.book(grid.run, "", "report", [], "101")
    slurm(
        {
            "100_0": JobState("PENDING", "Resources"),
            "100_1": JobState("FAILED"),
            "101": JobState("PENDING", "Dependency"),
        }
    )
    said = CliRunner().invoke(app, ["status", "--run", str(grid.run.path)]).output
    rows = said.splitlines()[2:]
    assert rows[0].split() == ["p000", "queued", "0/2", "100_0", "Resources"], "as on a terminal"
    assert rows[2] == "1 failed, 1 queued", "a job that has failed is a failure, though its cell never began"
    content = json.loads(CliRunner().invoke(app, ["status", "--run", str(grid.run.path), "--json"]).output)
    assert content["counts"] == {"failed": 1, "queued": 1}
    assert content["cells"][0]["job_id"] == "100_0"
    second = grid.cells[1].id
    content = json.loads(CliRunner().invoke(app, ["status", second, "--run", str(grid.run.path), "--json"]).output)
    assert [cell["cell"] for cell in content["cells"]] == [second] and content["counts"] == {"failed": 1}
    assert CliRunner().invoke(app, ["status", "none-*", "--run", str(grid.run.path)]).exit_code == 2


def test_status_loads_no_torch(grid):
    code = (
        "import sys; from hpcseg.cluster.states import run_status; from hpcseg.runs.record import RunFolder\n"
        f"from pathlib import Path; run_status(RunFolder(Path({str(grid.run.path)!r})))\n"
        "assert 'torch' not in sys.modules and 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_local_cell_that_has_not_taken_a_step_yet_runs(grid):
    # As submitit starts it: its number and what it is to start are all that there is while torch is loaded.
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "submitit.local._local"]
    told = {"SUBMITIT_LOCAL_COMMAND": shlex.join(worker.command(grid.run, [grid.cells[0].id]))}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **told}) as process:
        ledger.book_local(grid.run, [grid.cells[1].id], str(process.pid))
        assert run_status(grid.run).status[1].state == "failed", "another cell's, which has the number now"
        ledger.book_local(grid.run, [grid.cells[0].id], str(process.pid))
        assert (first(grid).state, first(grid).note) == ("running", "")
        process.communicate()
    assert (first(grid).state, first(grid).note) == ("failed", "killed without a word")


@pytest.mark.parametrize("loaded", [False, True])
def test_a_cell_that_a_stopped_queue_here_had_not_come_to_is_missing_and_no_failure(grid, loaded):
    one, two = grid.cells
    ledger.book_local(grid.run, [one.id, two.id], "1")
    append_event(one.folder.events_file, "stop")
    if loaded:
        grid.run.logs.mkdir()
        (grid.run.logs / "1_0_log.out").write_text(f"Starting with JobEnvironment()\n{mark(one.id, 'train')}\n")
    found = run_status(grid.run)
    assert [(cell.state, cell.note) for cell in found.status] == [("stopped", "stopped by you"), ("missing", "")]
    assert found.failures.keys() == {one.id}
    said = CliRunner().invoke(app, ["status", "--run", str(grid.run.path)]).stdout
    assert "logs --failed" not in said and said.splitlines()[-1].startswith("Next: hpcseg grid")


@pytest.mark.parametrize(("stage", "event"), [("train", "stop"), ("evaluate", "evaluation stopped")])
def test_a_local_cell_that_was_told_to_stop_is_stopped_by_you_until_something_else_happens_to_it(grid, stage, event):
    cell = grid.cells[0]
    if stage == "evaluate":
        trained(cell.folder)
    write_json(cell.folder.failure_file, {"error": "of yesterday", "rank": 0, "time": time.time() - 100})
    ledger.book_local(grid.run, [cell.id], "1")
    append_event(cell.folder.events_file, event)
    assert (first(grid).state, first(grid).note) == ("stopped", "stopped by you")
    write_json(cell.folder.failure_file, {"error": "ValueError: no", "rank": 0, "time": time.time() + 1})
    assert (first(grid).state, first(grid).note) == ("failed", "error: ValueError: no")
    cell.folder.failure_file.unlink()
    append_event(cell.folder.events_file, "resume")
    assert first(grid).note == "killed without a word"


def test_a_job_in_slurm_that_was_told_to_stop_was_not_stopped_by_you(grid, slurm):
    submit(grid)
    slurm({})
    append_event(grid.cells[0].folder.events_file, "stop")
    assert (first(grid).state, first(grid).note) == ("stopped", "killed without a word")


def test_an_announcement_that_a_full_disk_has_lost_may_still_be_withdrawn(grid):
    ledger.withdraw(grid.run, "hpcseg-lost")
    assert not ledger.read(grid.run).unanswered
    assert first(grid).state == "missing"


def test_watching_goes_on_while_a_state_is_none_of_the_ends(grid, slurm, monkeypatch):
    monkeypatch.setattr(watching, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(remembered, "_SECONDS_BETWEEN_QUESTIONS", 0.0)
    submit(grid)
    answers = [*[JobState("SUSPENDED")] * 2, None, JobState("PENDING"), *[JobState("CANCELLED by 0")] * 2]
    looks = []

    def ask(*asked):
        looks.append(answers[len(looks)])
        return None if looks[-1] is None else {"100_0": looks[-1], "100_1": JobState("FAILED")}

    monkeypatch.setattr(scheduler, "ask", ask)
    monkeypatch.setattr(scheduler, "history", lambda ids: {})
    said = CliRunner().invoke(app, ["status", "--run", str(grid.run.path), "--watch"])
    assert said.exit_code == 1 and len(looks) == len(answers)
