"""The README's way on a cluster, typed as it stands there, with the smallest job and this cluster's profile."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm

README = Path(__file__).parents[2] / "README.md"


def test_every_command_of_the_readme_for_a_cluster_works_there(cluster):
    section = README.read_text().partition("## On a cluster")[2].partition("\n## ")[0]
    lines = re.findall(r"^    hpcseg (.+)$", section, re.MULTILINE)
    ours = ["--job", "smoke", "--data", str(cluster.dataset), "--profile", "testcluster"]
    said = {}
    for command in (shlex.split(line, comments=True) for line in lines):
        more = ours if command[0] in ("doctor", "grid") else []
        said[command[0], command[-1]] = cluster.hpcseg(*command, *more)
    assert [verb for verb, _ in said] == ["doctor", "grid", "grid", "status", "logs"]
    assert "#SBATCH --partition=gpu" in said["grid", "--dry-run"] and "Submitted 3 jobs" in said["grid", "gpu"]
    assert set(cluster.states("runs/smoke").values()) == {"finished"}, said["status", "--watch"]
    cluster.wait_left("runs/smoke")
    assert (cluster.folder / "runs/smoke/report/report.html").exists(), cluster.logs("runs/smoke")
