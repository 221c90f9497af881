"""What is released: a wheel with job files and profiles inside the package, and a source with all but the results."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from hpcseg.data.sample import write_sample

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, alone in its folder."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_a_wheel_holds_the_jobs_and_profiles_and_finds_them(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for shipped, source in (("jobs", "jobs"), ("profiles", "slurm/profiles")):
        there = {path.name for path in (ROOT / source).glob("*.toml")}
        assert {path.name for path in (site / "hpcseg" / shipped).glob("*.toml")} == there
    for here, there in (("hpcseg/report/templates", "report/templates"), ("slurm/templates", "templates")):
        templates = {path.name for path in (ROOT / here).iterdir()}
        assert {path.name for path in (site / "hpcseg" / there).iterdir()} == templates
    script = (
        "from hpcseg.jobfile import find_shipped, shipped_folder\n"
        "profiles, templates = shipped_folder('profiles'), shipped_folder('templates')\n"
        "print(find_shipped('job', 'paper'), profiles / 'example.toml', templates / 'pbs.sh')"
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


def test_what_the_containers_run_installs_the_wheel_without_network_and_the_demo_runs(wheel, tmp_path):
    """The other libraries are those of this environment, since their wheels would take minutes to fetch and install."""
    venv = tmp_path / "venv"
    # Neither this checkout on the path, nor where pip looks on this machine.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    # The namespace has no interface at all; where it is not to be had, --no-index has to do.
    namespace = ["unshare", "--map-root-user", "--net"]
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        namespace = []

    def alone(*command: str | Path) -> str:
        return subprocess.run(
            [*namespace, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    alone(ROOT / "slurm/container/install", wheel.parent, venv, "--no-deps")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    where = alone(venv / "bin/python", "-P", "-c", "import hpcseg; print(hpcseg.__file__)")
    assert Path(where.strip()).is_relative_to(venv)
    # The demo goes on from a file that is there, and this one is smaller than its own.
    write_sample(tmp_path / "demo", slices=8, size=72, seed=1)
    alone(venv / "bin/hpcseg", "pack", "demo", "-o", "demo/dataset.h5")
    assert "4 cells finished, 0 failed." in alone(venv / "bin/hpcseg", "demo")
    assert (tmp_path / "demo/runs/demo/report/report.html").is_file()
    assert len(list((tmp_path / "demo/prediction/labels").iterdir())) == 8
