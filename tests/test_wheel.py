"""What is released: a wheel with job files and profiles inside the package, and a source with all but the results."""

from __future__ import annotations

import subprocess
import sys
import tarfile
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
    templates = {path.name for path in (ROOT / "hpcseg/report/templates").iterdir()}
    assert {path.name for path in (site / "hpcseg/report/templates").iterdir()} == templates
    script = (
        "from hpcseg.jobfile import find_job, shipped_folder\n"
        "print(find_job('paper'), shipped_folder('profiles') / 'example.toml')"
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


def test_the_source_of_a_release_has_code_tests_and_pages_and_no_results(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = [Path(*Path(name).parts[1:]) for name in archive.getnames()]
    pages = {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "LICENSE",
        "constraints.txt",
        "pyproject.toml",
    }
    assert {"hpcseg", "jobs", "slurm", "tests", *pages} <= {name.parts[0] for name in names}
    assert not [name for name in names if name.parts[0] == "results"]
