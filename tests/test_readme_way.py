"""The guide's way from own slices to a segmented volume, typed as it stands there, on a terminal of 80 columns."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
from terminal import Session, hpcseg_in_terminal

from hpcseg.data.sample import write_sample

SLICES = 20
# Seconds instead of an hour: the same commands for smaller slices.
SMALL = ["--set", "train.width=2", "--set", "train.depth=2", "--set", "train.epochs=1", "--set", "data.tile_size=64"]


def commands() -> list[list[str]]:
    """The commands under the guide's heading on own slices, as arguments of hpcseg."""
    section = (Path(__file__).parents[1] / "hpcseg/GUIDE.md").read_text().partition("## Your own slices")[2]
    lines = re.findall(r"^    (hpcseg .+)$", section.partition("\n## ")[0], re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture(scope="module")
def way(tmp_path_factory) -> tuple[Path, list[tuple[list[str], Session]]]:
    """The folder of a user without Slurm who has typed all of them, and each with its screen."""
    folder = tmp_path_factory.mktemp("way")
    write_sample(folder / "DATA", slices=SLICES, size=64, seed=3)
    typed = []
    (folder / "no-slurm.conf").touch()  # Slurm's commands wait a minute for one that is not there
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "no-slurm.conf"))
        for command in commands():
            arguments = ["DATA/data" if argument == "SLICES" else argument for argument in command]
            if command[0] == "compare":  # "after another --set"
                again = ["grid", "--local", *SMALL, "--set", "train.width=1"]
                typed.append((again, hpcseg_in_terminal(*again, cwd=folder)))
            if command[0] == "grid":
                arguments += SMALL
            typed.append((command, hpcseg_in_terminal(*arguments, cwd=folder)))
    return folder, typed


def screen(way, verb: str, *words: str) -> str:
    """What stood on the screen behind the one command of that verb with these arguments."""
    (session,) = (session for command, session in way[1] if command[0] == verb and set(words) <= set(command))
    return session.last


def sentences(text: str) -> str:
    """Without line ends, which depend on how long a path or a number is."""
    return " ".join(text.split())


def test_every_command_of_the_guide_works_and_no_line_is_broken_within_a_word(way):
    assert [command[0] for command, _ in way[1]] == (
        ["pack", "grid", "grid", "status", "report", "grid", "compare", "predict", "predict", "export"]
    )
    for command, session in way[1]:
        assert session.code == 0, f"{command}: {session.last}"
        assert "Traceback" not in session.last
        # An id, by which a prediction is traced, is longer than the screen is wide, and a command to copy is one line.
        whole = sum({"Model:": 2, "Next:": 1}.get(line.partition(" ")[0], 0) for line in session.last.splitlines())
        assert session.wrapped <= whole, f"{command}: {session.last}"


def test_packing_says_what_there_is_and_where_to_look_and_what_is_next(way):
    told = screen(way, "pack")
    assert re.search(r"^Slices +20 of 64 x 64 pixels, uint16, numbers 1 to 20$", told, re.MULTILINE)
    assert "dataset-sheet.png: do slices and labels belong together?" in told
    last = "Next: hpcseg grid --job segment --set data.tile_size=64 --local --set train.width=16"
    assert told.replace("\n", "").endswith(last)
    assert (way[0] / "dataset-sheet.png").stat().st_size > 1000


def test_the_dry_run_says_what_would_be_trained_on_how_many_slices(way):
    told = sentences(screen(way, "grid", "--dry-run"))
    assert "A model for your own slices: 3 cells in runs/segment (3 missing)" in told
    assert re.search(r"training \d+ slices \(\d+ tiles\), validation \d+ slices", told)
    assert "#SBATCH" not in told


def test_training_ends_with_each_cell_by_a_short_name_and_what_is_next(way):
    told = screen(way, "grid", "--local", "train.width=16").splitlines()
    ends = [re.fullmatch(r"(s\d): finished in \d+ (?:s|min), loss [\d.]+, validation [\d.]+", line) for line in told]
    assert [end[1] for end in ends if end] == ["s0", "s1", "s2"]
    assert "3 cells finished, 0 failed." in told and "Next: hpcseg report" in told


def test_status_names_the_cells_as_other_commands_take_them(way):
    rows = [line.split()[:2] for line in screen(way, "status").splitlines()]
    assert [row for row in rows if row[0].startswith("s") and len(row) == 2] == [
        [f"s{seed}", "finished"] for seed in range(3)
    ]


def test_the_report_begins_with_an_answer_and_names_the_page_and_a_model(way):
    told = screen(way, "report")
    assert re.search(r"How much of the test is right\? [\d., ±]+ % of whole test slices", sentences(told))
    assert "wrote runs/segment/report/report.html" in told
    assert re.fullmatch(r"Next: hpcseg predict s\d SLICES -o OUT( --ensemble s\d){2}", told.rstrip().splitlines()[-1])


def test_the_quick_look_and_the_whole_volume_name_their_models_and_files(way):
    look, whole = screen(way, "predict", "--every"), screen(way, "predict", "--ensemble")
    assert look.count("Model: ") == 1 and whole.count("Model: ") == 3
    assert "wrote LOOK/sheet.png" in look and "wrote OUT/fractions.csv" in whole
    labels = sorted((way[0] / "OUT/labels").iterdir())
    assert len(labels) == SLICES and len(list((way[0] / "LOOK/labels").iterdir())) == SLICES // 10
    assert set(np.unique(tifffile.imread(labels[0]))) <= {0, 128, 255}


def test_a_model_in_a_file_of_its_own_can_be_used(way):
    told = screen(way, "export")
    assert "mine.safetensors" in told and (way[0] / "mine.safetensors").exists()
    assert told.rstrip().splitlines()[-1] == "Next: hpcseg predict mine.safetensors SLICES -o OUT"
