"""What the documentation points at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcseg.jobfile import find_job, load_job, shipped_folder
from hpcseg.runs.state import State

ROOT = Path(__file__).parents[1]
PAGES = [path for path in ROOT.rglob("*.md") if not {".venv", "runs", "demo"} & set(path.relative_to(ROOT).parts)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_readmes_two_commands_are_what_ci_runs():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    assert "bash tests/run" in readme and "bash tests/run" in ci


def test_the_page_on_clusters_names_every_state_of_a_cell_and_no_other_in_one_table():
    heading = "| state | where the cell stands |\n|---|---|\n"
    table = (ROOT / "slurm/README.md").read_text().partition(heading)[2].partition("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(State)


@pytest.mark.parametrize("job", sorted(path.stem for path in shipped_folder("jobs").glob("*.toml")))
def test_every_shipped_job_loads_and_says_what_it_is_for(job):
    text = find_job(job).read_text()
    assert all(word in text for word in ("# Question", "# Cells", "# Takes", "# Command"))
    cells = len(load_job(find_job(job)).cells)
    assert int(re.search(r"# Cells\s+(\d+)", text)[1]) == cells
