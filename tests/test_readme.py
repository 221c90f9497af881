"""What the documentation points at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from hpcseg.cli.app import app
from hpcseg.jobfile import find_shipped, load_job, shipped_folder
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


def blocks(page: Path) -> dict[str, list[str]]:
    """The commands that stand by themselves on a page, without their comments, by the heading above them."""
    parts = re.split(r"^## (.*)$", page.read_text(), flags=re.MULTILINE)
    found = [
        [line.partition("  #")[0].strip() for line in re.findall(r"^    (.+)$", part, re.M)] for part in parts[::2]
    ]
    return dict(zip(["", *parts[1::2]], found, strict=True))


def test_every_command_of_the_readme_is_one_that_a_test_runs():
    ours, typed = blocks(ROOT / "README.md"), blocks(ROOT / "hpcseg/GUIDE.md")["Your own slices"]
    # tests/test_readme_way.py types the guide's way, tests/test_nexus_way.py that from a NeXus scan, and
    # tests/slurm/test_readme_on_slurm.py that on a cluster.
    headings = {"Try it", "Your own slices", "From a NeXus scan to an OME-Zarr", "On a cluster"}
    assert {heading for heading, lines in ours.items() if lines} == headings
    own = [line for line in ours["Your own slices"] if line.startswith("hpcseg ")]
    assert len(own) == 4 and set(own) <= set(typed)


def commands_of(page: Path) -> list[list[str]]:
    """All that a page says of hpcseg on a command line, in a line of its own or within one, as words."""
    text = page.read_text()
    within = re.findall(r"`(hpcseg [^`]+)`", " ".join(re.sub(r"^(    |```).*$", "", text, flags=re.MULTILINE).split()))
    return [line.partition(" #")[0].split()[1:] for line in (*re.findall(r"^    (hpcseg .+)$", text, re.M), *within)]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "results" not in page.parts and page.stem != "CHANGELOG"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_what_a_page_says_on_a_command_line_is_there(page: Path):
    group = typer.main.get_command(app)
    for words in commands_of(page):
        command = group.commands.get(words[0], group)
        options = {one for parameter in command.params for one in (*parameter.opts, *parameter.secondary_opts)}
        known = {*options, "-h", "--help"}
        assert command is not group or words[0].startswith("-") or words[0] == "COMMAND", words
        assert {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} <= known, words


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
    text = find_shipped("job", job).read_text()
    assert all(word in text for word in ("# Question", "# Cells", "# Takes", "# Command"))
    cells = len(load_job(find_shipped("job", job)).cells)
    assert int(re.search(r"# Cells\s+(\d+)", text)[1]) == cells
