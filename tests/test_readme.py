"""What the documentation points at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcseg.jobfile import find_job, load_job, shipped_folder
from hpcseg.runs.state import State

ROOT = Path(__file__).parents[1]
NO_PAGES = {".venv", ".venv-twin", ".venv-oldest", "runs", "demo"}
PAGES = [path for path in ROOT.rglob("*.md") if not NO_PAGES & set(path.relative_to(ROOT).parts)]


def anchors(page: Path) -> set[str]:
    """By which GitHub knows the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            there = page.parent / target if target else page
            assert there.exists(), target
            assert not anchor or there.suffix != ".md" or anchor in anchors(there), f"{target}#{anchor}"


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
