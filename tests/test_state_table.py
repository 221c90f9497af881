"""The table of states on screens of any width."""

from __future__ import annotations

import pytest

from hpcseg.cli import console, state_table

COLUMNS = {
    "Cell": ["small-shuffled-p000-s0", "small-shuffled-p050-s0-batch-norm-false"],
    "State": ["finished", "running"],
    "Epoch": ["15/15", "3/15"],
    "Validation": ["0.9753", "0.9000"],
    "Node": ["n1", "n2"],
    "Note": ["", "of settings that the last `hpcseg grid` does not have"],
}


@pytest.mark.parametrize(
    ("width", "last"), [(120, "Note"), (50, "Node"), (42, "Validation"), (30, "Epoch"), (24, "State")]
)
def test_rows_keep_their_names_and_what_has_no_room_goes(monkeypatch, width, last):
    monkeypatch.setattr(console.stdout, "width", width)
    with console.stdout.capture() as captured:
        console.stdout.print(state_table.table("runs/a", COLUMNS))
    head, *rows = captured.get().splitlines()[1:]
    assert head.split() == list(COLUMNS)[: list(COLUMNS).index(last) + 1]
    letters = "".join(row.split("  ")[0].strip() for row in rows)
    assert letters == "".join(COLUMNS["Cell"]).replace(" ", "")
    assert all(len(row) <= width for row in rows)
