"""An installed wheel has what a checkout has: the job files and the profiles travel inside the package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_holds_the_jobs_and_profiles_and_finds_them(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    jobs = {path.name for path in (ROOT / "jobs").glob("*.toml")}
    assert {path.name for path in (site / "hpcseg/jobs").iterdir() if path.suffix == ".toml"} == jobs
    for here, there in (("hpcseg/report/templates", "report/templates"), ("slurm/templates", "templates")):
        templates = {path.name for path in (ROOT / here).iterdir()}
        assert {path.name for path in (site / "hpcseg" / there).iterdir()} == templates
    script = (
        "from hpcseg.jobfile import find_job, shipped_folder\n"
        "print(find_job('paper'), shipped_folder('profiles') / 'example.toml', shipped_folder('templates') / 'pbs.sh')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(found).is_file() and site in Path(found).parents for found in answer.stdout.split())
