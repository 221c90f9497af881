"""submissions.jsonl that was changed, cut or emptied: lines that cannot be used are said, and no job is doubled."""

from __future__ import annotations

import json
import random

import pytest
from fake_slurm import FakeSlurm, booked, send
from slice_folder import hpcseg

from hpcseg.cluster import ledger
from hpcseg.cluster.ledger_place import tag
from hpcseg.cluster.states import run_status
from hpcseg.errors import SchedulerError
from hpcseg.runs.grid import Grid


@pytest.fixture
def submitted(grid, slurm) -> Grid:
    """Both cells wait in one job, 100, behind which 101 is the report."""
    send(grid, cells_per_job=2)
    return grid


def lines(grid: Grid) -> list[dict[str, object]]:
    return [json.loads(line) for line in grid.run.submissions_file.read_text().splitlines()]


def write(grid: Grid, content: list[dict[str, object]]) -> None:
    grid.run.submissions_file.write_text("".join(json.dumps(line) + "\n" for line in content))


def waiting(slurm: FakeSlurm, grid: Grid) -> None:
    """squeue has both jobs, whatever is asked of it."""
    comments = {str(line["job"]): line["token"] for line in lines(grid) if line["event"] == "submitted"}
    slurm.queue(*(f"{job}|{token}" for job, token in comments.items()))


@pytest.mark.usefixtures("bounded")
def test_no_change_of_a_byte_ends_in_a_traceback(submitted):
    ledger.withdraw(submitted.run, ledger.announce(submitted.run, "cells", [[submitted.cells[0].id]]))
    ledger.book_local(submitted.run, [submitted.cells[0].id], "4711")
    ledger.book_cancelled(submitted.run, [submitted.cells[1].id])
    content, rng, left_out = submitted.run.submissions_file.read_bytes(), random.Random(0), 0
    for _ in range(4500):
        place = rng.randrange(len(content))
        changed = content[:place] + bytes([(content[place] + rng.randrange(1, 256)) % 256]) + content[place + 1 :]
        submitted.run.submissions_file.write_bytes(changed)
        left_out += bool(ledger.read(submitted.run).unusable)
    assert left_out > 1000


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"cells": None},
            {"cells": 7},
            {"cells": [7]},
            {"cells": [[7]]},
            {"cells": [[]]},
            {"stage": None},
            {"job": 100},
            {"job": "x; y"},
        ),
        *({"event": "submittex"}, {"event": ["submitted"]}, {"stage": "trait"}, {"cells": ["other"]}, {"cells": []}),
        {"token": [1]},
    ],
)
def test_a_line_that_cannot_be_used_is_said_with_its_number_in_status_and_grid(submitted, change):
    content = lines(submitted)
    assert content[1]["event"] == "submitted"
    write(submitted, [content[0], {**content[1], **change}, *content[2:]])
    assert ledger.read(submitted.run).unusable == (2,)
    said = hpcseg("status", "--run", submitted.run.path)
    assert said.stderr.count("lines that cannot be used and were left out: 2.") == 1
    assert "cannot be used" in " ".join(run_status(submitted.run).notes)


@pytest.mark.parametrize(
    "line",
    [
        *({"event": "started", "stage": "cells", "job": "1", "host": "n1", "cells": cells} for cells in ([7], [[]])),
        {"event": "started", "stage": "cells", "job": "1", "host": "n1", "cells": [["a", 7]]},
        {"event": "cancelled", "cells": [["a"]]},
        {"event": "announced", "token": 7, "stage": "cells", "cells": ["a"]},
    ],
)
def test_a_line_that_no_announcement_contradicts_has_ids_all_the_same(submitted, line):
    write(submitted, [*lines(submitted), line])
    assert ledger.read(submitted.run).unusable == (5,)


@pytest.mark.parametrize(
    "change", [{"time": "today"}, {"time": None}, {"command": 7}, {"cells": ["a"], "event": "withdrawn"}]
)
def test_what_no_command_looks_at_makes_no_line_unusable(submitted, change):
    content = lines(submitted)
    write(submitted, [content[0], {**content[1], **change}, *content[2:]])
    assert ledger.read(submitted.run).unusable == ()


def test_a_line_that_is_no_json_is_said_as_well(submitted):
    with submitted.run.submissions_file.open("a") as file:
        file.write('{"event": "sub\n[1]\n')
    assert ledger.read(submitted.run).unusable == (5, 6)
    assert ledger.read(submitted.run).note.endswith("left out: 5, 6.")


def test_what_is_left_of_a_ledger_is_read_as_ever(submitted):
    content = lines(submitted)
    whole = ledger.read(submitted.run)
    write(submitted, [*content, {"event": "submitted"}])
    assert ledger.read(submitted.run).jobs == whole.jobs
    assert whole.note == ""


@pytest.mark.parametrize("kept", [0, 2], ids=["emptied", "cut behind the cells"])
def test_a_ledger_that_was_emptied_or_cut_while_jobs_wait_doubles_nothing(submitted, slurm, kept):
    waiting(slurm, submitted)
    write(submitted, lines(submitted)[:kept])
    with pytest.raises(SchedulerError, match=r"does not know \(.*101\), so that was emptied or changed.*scancel"):
        send(submitted)
    assert len(slurm.scripts()) == 2
    # Where a cell has no job at all, status looks as well.
    assert any("101" in note for note in run_status(submitted.run).notes) == (kept == 0)


@pytest.mark.parametrize("change", [{"job": "200"}, {"cells": ["other"]}, {"stage": "trait"}])
def test_a_changed_line_of_a_job_that_waits_doubles_nothing(submitted, slurm, change):
    waiting(slurm, submitted)
    content = lines(submitted)
    write(submitted, [content[0], {**content[1], **change}, *content[2:]])
    with pytest.raises(SchedulerError, match=r"does not know \(100\)"):
        send(submitted)
    assert len(slurm.scripts()) == 2
    assert not (slurm.folder / "cancelled").exists()


def test_an_announcement_with_the_comment_of_jobs_that_have_none_cancels_nothing(submitted, slurm):
    write(submitted, [*lines(submitted), {"event": "announced", "token": "(null)", "stage": "cells", "cells": []}])
    slurm.queue("555|(null)")
    send(submitted)
    assert not (slurm.folder / "cancelled").exists()


def test_jobs_of_other_runs_and_withdrawn_ones_stop_nobody(submitted, slurm):
    token = ledger.announce(submitted.run, "cells", [[submitted.cells[0].id]])
    ledger.withdraw(submitted.run, token)
    slurm.queue(f"300|{token}", "301|hpcseg-00000000-000000000000", "302|mine")
    assert send(submitted)[-1].startswith("Submitted")
    assert len(booked(submitted)) == 6


def test_the_jobs_of_a_run_are_known_by_the_beginning_of_their_comments(submitted):
    tokens = {str(line["token"]) for line in lines(submitted)}
    assert len(tokens) == 2
    assert all(token.startswith(tag(submitted.run)) for token in tokens)
