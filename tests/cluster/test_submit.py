"""Which arrays a grid becomes, within the site's limits, and one call at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_slurm import booked, resources, send
from hypothesis import given
from hypothesis import strategies as st
from slice_folder import hpcseg

from hpcseg.cluster import ledger
from hpcseg.cluster.sender import NoRoomError
from hpcseg.cluster.submit import in_arrays, submit_missing
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.jobfile import load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Grid, plan, write_plan
from hpcseg.runs.record import append_event, write_json


def of_seven(folder: Path) -> Grid:
    """A grid of seven cells, of which the last two are larger than the others."""
    many = folder / "many.toml"
    many.write_text(
        "[data]\ntile_size = 64\n[[grid]]\ntrain.seed = [0, 1, 2, 3, 4]\n"
        '[[grid]]\ndata.tiles = "large"\ntrain.seed = [0, 1]\n'
    )
    return plan(load_job(many), RunFolder(folder / "run"), folder / "data.h5", "0" * 64)


def test_an_array_of_cells_is_followed_by_the_report(slurm, grid):
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert slurm.options("dependency") == [None, "afterany:100"]
    assert slurm.options("job-name") == ["hpcseg-smoke", "hpcseg-smoke-report"]
    first, second = grid.cells
    assert booked(grid) == [("cells", first.id, "100_0"), ("cells", second.id, "100_1"), ("report", "all", "101")]


def test_a_job_takes_several_cells_the_largest_first(slurm, tmp_path):
    grid = of_seven(tmp_path)
    assert send(grid, cells_per_job=3)[-1] == "Submitted 4 jobs."
    assert slurm.options("array") == ["0-2%3", None]
    jobs = {job: [cell for _, cell, of in booked(grid) if of == job] for job in ("100_0", "100_1", "100_2")}
    assert sorted(map(len, jobs.values())) == [2, 2, 3], "none longer than three, and about alike"
    assert sorted(cell for cells in jobs.values() for cell in cells) == sorted(cell.id for cell in grid.cells)
    large = [cell.id for cell in grid.cells[5:]]
    assert sorted(cells[0] for cells in jobs.values() if cells[0] in large) == sorted(large)
    queue = ledger.read(grid.run).jobs[large[0]]
    assert queue.job_id in jobs and list(queue.cells) == jobs[queue.job_id]


def test_what_has_begun_in_a_job_before_comes_last_in_the_next(slurm, tmp_path):
    grid = of_seven(tmp_path)
    large = grid.cells[5].id
    write_plan(grid)
    submit_missing(grid, resources(grid), dry_run=False, resubmit=False, only={large})
    append_event(grid.cells[5].folder.events_file, "start")
    send(grid, cells_per_job=10)
    assert booked(grid)[-2][1] == large, "it may end its process each time"
    send(grid, cells_per_job=10)
    assert booked(grid)[-2][1] == large, "also of cells that all had a job, whose turn never came behind it"


def test_ten_thousand_cells_in_jobs_of_fifty_are_one_call_of_sbatch(slurm, tmp_path):
    many = tmp_path / "many.toml"
    many.write_text(f"[data]\ntile_size = 64\n[[grid]]\ntrain.seed = {list(range(10_000))}\n")
    grid = plan(load_job(many), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    assert send(grid, cells_per_job=50)[-1] == "Submitted 201 jobs."
    assert slurm.options("array") == ["0-199%200", None]
    assert len({job for _, _, job in booked(grid)}) == 201


def test_arrays_are_cut_at_the_sites_limit_and_share_the_throttle(slurm, tmp_path):
    many = tmp_path / "many.toml"
    many.write_text("[data]\ntile_size = 64\n[[grid]]\ntrain.seed = [0, 1, 2, 3, 4, 5, 6]\n")
    grid = plan(load_job(many), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    slurm.command("scontrol", 'echo "MaxArraySize = 3"')
    send(grid, throttle=6)
    # Three arrays may run two tasks each at once; the last has one, and the report is one.
    assert slurm.options("array") == ["0-2%2", "0-2%2", None, None]


@pytest.mark.parametrize(
    ("throttle", "arrays", "behind"),
    [(1, ["0-2%1", "0-2%1", None], [None, "100", "101"]), (2, ["0-2%1", "0-2%1", None], [None, None, "100"])],
)
def test_where_arrays_are_more_than_may_run_at_once_one_waits_for_the_other(slurm, tmp_path, throttle, arrays, behind):
    slurm.command("scontrol", 'echo "MaxArraySize = 3"')
    send(of_seven(tmp_path), throttle=throttle)
    assert slurm.options("array")[:-1] == arrays
    assert slurm.options("dependency")[:-1] == [job and f"afterany:{job}" for job in behind]


def test_arrays_of_one_task_are_plain_jobs(slurm, grid):
    slurm.command("scontrol", 'echo "MaxArraySize = 1"')
    send(grid, throttle=2)
    assert slurm.options("array") == [None] * 3
    assert slurm.options("dependency") == [None, None, "afterany:100:101"], "both may run at once"
    assert [job_id for _, _, job_id in booked(grid)] == ["100", "101", "102"]


def test_a_site_without_arrays_gets_plain_jobs(slurm, grid):
    slurm.command("scontrol", 'echo "MaxArraySize = 0"')
    send(grid)
    assert slurm.options("array") == [None] * 3


def test_a_dry_run_shows_cells_and_scripts_and_touches_nothing(slurm, grid):
    said = "\n".join(send(grid, dry_run=True, throttle=1))
    assert all(cell.id in said for cell in grid.cells)
    assert said.count("#!/bin/bash") == 2 and "#SBATCH --array=0-1%1" in said
    assert slurm.scripts() == [] and not grid.run.path.exists()


def test_a_dry_run_shows_the_script_that_sbatch_gets(slurm, grid):
    shown = submit_missing(grid, resources(grid), dry_run=True, resubmit=False).scripts[0]
    send(grid)
    assert shown.replace("hpcseg-dry-run", "TOKEN") == re.sub(
        r"hpcseg-[0-9a-f]{8}-[0-9a-f]{12}", "TOKEN", slurm.scripts()[0]
    )


def test_a_site_with_room_for_few_jobs_gets_smaller_arrays_and_the_rest_waits(slurm, tmp_path):
    many = tmp_path / "many.toml"
    many.write_text("[data]\ntile_size = 64\n[[grid]]\ntrain.seed = [0, 1, 2, 3, 4, 5, 6]\n")
    grid = plan(load_job(many), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    # Room for 5 tasks in all: 7 do not fit, 3 do, and two more, of which one makes room for the report.
    slurm.command(
        "sbatch",
        "size=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' \"$1\"); size=$((${size:-0} + 1)); "
        "used=$(cat used 2>/dev/null || echo 0)\n"
        'if [ $((used + size)) -gt 5 ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; '
        'echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)" >&2; '
        "exit 1; fi; echo $((used + size)) > used\n" + slurm.folder.joinpath("sbatch").read_text(),
    )
    slurm.command("scancel", "echo $(($(cat used) - 1)) > used")
    said = send(grid)
    assert said[-3] == "Submitted 5 jobs." and "QOSMaxSubmitJobPerUserLimit" in said[-2] and "report job" in said[-1]
    sent = [(stage, job_id) for stage, _, job_id in booked(grid)]
    assert sent == [
        *(("cells", f"100_{task}") for task in range(3)),
        ("cells", "101"),
        ("cells", "102"),
        ("report", "103"),
    ]
    jobs = ledger.read(grid.run)
    assert sorted({job.job_id for job in jobs.jobs.values()}) == ["100_0", "100_1", "100_2", "101"], (
        "102 was taken back"
    )
    assert sum(jobs.tries.values()) == 4
    assert slurm.options("dependency")[-1] == "afterany:100:101", (
        "the job that submits the rest waits for what is there"
    )
    (slurm.folder / "used").write_text("-100")
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in range(3)))
    assert send(grid)[-1] == "Submitted 5 jobs."


def test_ranks_that_would_share_a_gpu_are_refused_before_they_queue(slurm, grid):
    with pytest.raises(ConfigError, match="2 ranks per node would share 1 GPU"):
        send(grid, gpus_per_node=1, ranks_per_node=2)


def test_without_slurm_the_error_says_so(grid, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="sbatch and srun are not on PATH"):
        send(grid)


# As the clients of Slurm 22.05 say it: without a slurm.conf, and with the name of a host where nobody listens.
NO_CONFIGURATION = [
    "NAME: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host",
    "NAME: error: fetch_config: DNS SRV lookup failed",
    "NAME: error: _establish_config_source: failed to fetch config",
    "NAME: fatal: Could not establish a configuration source",
]
NOBODY_LISTENS = ["NAME: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"]


@pytest.mark.parametrize("words", [NO_CONFIGURATION, NOBODY_LISTENS], ids=["no configuration", "nobody listens"])
def test_where_no_controller_answers_sbatch_one_sentence_names_local_and_nothing_is_left_behind(
    slurm, tmp_path, tiny_dataset, monkeypatch, words
):
    for name in ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel"):
        said = "\n".join(f'echo "{line}" >&2'.replace("NAME", name) for line in words)
        slurm.command(name, f"{said}\nexit 1")
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.chdir(jobs)
    call = ("grid", "--job", "smoke", "--data", tiny_dataset, "--run", tmp_path / "run")
    answer = hpcseg(*call)
    assert answer.exit_code == 4 and len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("error: No Slurm answers here (sbatch: ")
    assert words[-1].removeprefix("NAME: ") in answer.stderr and "`hpcseg grid --local` runs" in answer.stderr
    assert not (tmp_path / "run").exists() and list(jobs.iterdir()) == []

    told = hpcseg(*call, "--dry-run")
    assert told.exit_code == 0 and "would run here" in told.stdout and "No Slurm answers here" in told.stdout
    assert "#SBATCH" not in told.stdout
    assert json.loads(hpcseg(*call, "--dry-run", "--json").stdout)["cells"]
    told = hpcseg(*call, "--dry-run", "--slurm", "--workers", "2")
    assert "Note: --workers: of cells on this machine alone" in told.stderr
    assert told.exit_code == 0 and "#SBATCH" in told.stdout and "No Slurm answers here" in told.stdout
    assert not (tmp_path / "run").exists()


def test_a_site_that_hides_scontrol_from_its_users_still_takes_their_jobs(slurm, grid):
    slurm.silent()
    assert send(grid)[-1] == "Submitted 3 jobs."


def test_two_calls_at_one_moment_submit_once(slurm, grid):
    """The second process waits for the first one's lock, then finds its jobs in the ledger and the queue."""
    write_plan(grid)
    call = (
        "import sys, time; from pathlib import Path; from hpcseg.cluster import ledger\n"
        "from hpcseg.runs.record import RunFolder\n"
        f"run = RunFolder(Path({str(grid.run.path)!r}))\n"
        "with ledger.locked(run):\n"
        "    print('locked', flush=True); time.sleep(2)\n"
        f"    ledger.book(run, '', 'cells', {[[cell.id] for cell in grid.cells]!r}, '90')\n"
        "    ledger.book(run, '', 'report', [], '91')\n"
    )
    slurm.queue(*(f"90_{task}|PENDING|None|" for task in (0, 1)), "91|PENDING|Dependency|")
    with subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        started = time.monotonic()
        assert send(grid)[-1] == "Nothing to submit."
        assert time.monotonic() - started > 1, "it waited"
    assert other.returncode == 0 and slurm.scripts() == []


def test_a_lock_that_stays_held_ends_with_an_explanation(slurm, grid, monkeypatch):
    monkeypatch.setattr(ledger, "_SECONDS_FOR_LOCK", 0.3)
    with ledger.locked(grid.run), pytest.raises(SchedulerError, match="Another `hpcseg`"):
        send(grid)


def test_where_a_file_system_has_no_locks_a_file_says_who_submits(slurm, grid, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(ledger, "_SECONDS_FOR_LOCK", 0.3)
    assert send(grid)[-1] == "Submitted 3 jobs."
    with ledger.locked(grid.run), pytest.raises(SchedulerError, match=r"delete .*\.held"):
        send(grid)


def test_the_ledger_survives_an_unfinished_line(slurm, grid):
    send(grid)
    with grid.run.submissions_file.open("a") as file:
        file.write(json.dumps({"cell": grid.cells[0].id})[:-4])
    assert ledger.read(grid.run).slurm_jobs()[grid.cells[0].id] == "100_0"


@given(items=st.integers(0, 500), largest=st.integers(1, 60), room=st.integers(1, 60))
def test_arrays_keep_every_item_in_order_and_none_is_too_large(items, largest, room):
    sent = []

    def send(part: list[int]) -> None:
        if len(part) > room:
            raise NoRoomError("no room")
        sent.append(part)

    in_arrays(range(items), largest, send)
    assert [item for part in sent for item in part] == list(range(items))
    assert all(1 <= len(part) <= min(largest, room) for part in sent)


def test_a_controller_that_is_full_is_asked_once_and_the_rest_waits(slurm, grid):
    slurm.command(
        "sbatch",
        'echo call >> calls; echo "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying" >&2; '
        'echo "sbatch: error: Batch job submission failed: Resource temporarily unavailable" >&2; exit 1\n',
    )
    said = send(grid)
    # Each call of sbatch tries for two minutes by itself, so halving the array would take for ever.
    assert (slurm.folder / "calls").read_text() == "call\n"
    assert said[-3] == "Nothing to submit." and "has to wait for room" in said[-2] and "`hpcseg grid`" in said[-1]


def test_a_site_without_any_room_is_an_error_and_not_a_loop():
    def send(part: list[int]) -> None:
        raise NoRoomError("no room")

    with pytest.raises(NoRoomError):
        in_arrays(range(10), 5, send)


@pytest.mark.parametrize(("options", "jobs"), [((), 2), (("--cells-per-job", 1), 3)])
def test_without_a_wish_a_job_takes_as_many_cells_as_the_bench_of_such_a_device_gives_it_time_for(
    slurm, tmp_path, tiny_dataset, monkeypatch, options, jobs
):
    monkeypatch.chdir(tmp_path)
    command = ("grid", "--slurm", "--job", "smoke", "--data", tiny_dataset, "--gpus-per-node", "0", *options)
    assert "Submitted 3 jobs." in hpcseg(*command, "--run", "runs/one").stdout, "nothing is known yet"
    rates = {"16": {"tiles_per_second": {"ours": 100.0}}}
    provenance = {"device": "CPU of a test", "time": "2026-01-02"}
    record = {"training": rates, "sweep": rates, "tile_size": 64, "provenance": provenance}
    write_json(tmp_path / "runs/bench-cpu.json", record)
    assert f"Submitted {jobs} jobs." in hpcseg(*command, "--run", "runs/two").stdout
