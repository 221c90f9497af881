"""A cell that was submitted, then the checkout edited, then deleted: its job ends with the numbers of then."""

from __future__ import annotations

import json
import subprocess

import pytest
from checkout_copy import Checkout
from conftest import slurm

pytestmark = pytest.mark.slurm


def test_queued_cells_run_the_code_that_was_submitted_when_the_checkout_is_edited_and_then_gone(cluster):
    checkout = Checkout(cluster.folder / "checkout")
    options = ("--slurm", "--job", "smoke", "--data", cluster.dataset, "--profile", "testcluster", "--time", "10")
    checkout.hpcseg("grid", *options, "--run", cluster.folder / "alone")
    cluster.wait_finished("alone")
    cluster.wait_left("alone")

    # Both nodes are busy, so that nothing starts before the checkout is gone.
    blocks = ["--nodes=2", "--exclusive", "--job-name=blocks", "--output=/dev/null", "--wrap=sleep 600"]
    blocker = slurm("sbatch", "--parsable", *blocks).strip()
    try:
        cluster.wait("both nodes taken", lambda: slurm("squeue", "-h", "-j", blocker, "-o", "%T").strip() == "RUNNING")
        checkout.hpcseg("grid", *options, "--run", cluster.folder / "disturbed")
        checkout.spoil_and_delete()
        states = {slurm("squeue", "-h", "-j", job, "-o", "%T").strip() for job in cluster.jobs("disturbed")}
        assert states == {"PENDING"}
    finally:
        subprocess.run(["scancel", blocker], check=True)
    cluster.wait_finished("disturbed")
    cluster.wait_left("disturbed")

    for cell in (cluster.folder / "alone/cells").iterdir():
        again = cluster.folder / "disturbed/cells" / cell.name
        for file, numbers in (("training.json", "model_sha256"), ("evaluation.json", "points")):
            one, other = (json.loads((folder / file).read_text()) for folder in (cell, again))
            assert one[numbers] == other[numbers]
            made = other["provenance"]
            assert made["commit"] == checkout.commit
            assert (cluster.folder / "disturbed/code" / made["package_sha256"][:16] / "hpcseg/learn").is_dir()
    # The job behind all others ran the frozen code as well, and found nothing to try again.
    log = cluster.logs("disturbed")
    assert "Nothing to submit." in log and (cluster.folder / "disturbed/report/report.html").exists(), log
