"""Fixtures for all tests."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import typer.testing
from slice_folder import write_image, write_label

from hpcseg import memory
from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample

_BESIDE_CHECKOUT = Path(__file__).parents[2] / "shared" / "soc"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration everything is there, so a test that is skipped for want of something has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome, report.longrepr = "failed", f"Skipped, but nothing is in CI: {report.longrepr}"
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are chosen where there is a GPU, or a device that HPCSEG_TEST_DEVICE names."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        # Also where the device is named: CUDA looks once per process at what it may see, and then must not be hidden.
        if not torch.cuda.is_available() and "HPCSEG_TEST_DEVICE" not in os.environ:
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if item not in marked]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Every other test is for the CPU: it, its fixtures and the processes that they start find no GPU on any machine.

    On Slurm it is Slurm that says what a job sees.
    """
    if item.get_closest_marker("gpu") or item.get_closest_marker("slurm"):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        if "torch" in sys.modules:
            # CUDA may have looked already, for a test marked `gpu`.
            patch.setattr("torch.cuda.is_available", lambda: False)
            patch.setattr("torch.cuda.device_count", lambda: 0)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _command_line() -> Iterator[None]:
    """Records have the command that made them: the same, and none with words of a test's name, however pytest began.

    And the commands with their options are made once, and not anew for each of some thousand calls.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hpcseg"])
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """16 synthetic slices of 128 x 128 pixels with labels."""
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, slices=16, size=128, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tiny_folder) -> Path:
    """The packed file of `tiny_folder`."""
    pack(tiny_folder / "data", tiny_folder / "labels", tiny_folder / "tiny.h5", command="test")
    return tiny_folder / "tiny.h5"


@pytest.fixture
def good(tmp_path) -> Path:
    """Three slices with labels in tmp_path/good, for a test to spoil."""
    for number in (1, 2, 3):
        write_image(tmp_path / "good", number)
        write_label(tmp_path / "good", number)
    return tmp_path / "good"


@pytest.fixture
def output(tmp_path) -> Path:
    """Where a test packs to: in a folder that is empty before."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "packed.h5"


@pytest.fixture(scope="session")
def soc() -> Path:
    """The 500 real slices and labels: HPCSEG_DATA, or ../shared/soc beside the repository."""
    return _there(Path(os.environ.get("HPCSEG_DATA") or _BESIDE_CHECKOUT))


@pytest.fixture(scope="session")
def soc_original(soc) -> Path:
    """A few of the real files byte for byte as published (PackBits, 16 rows per strip)."""
    return _there(soc.with_name("soc-original"))


@pytest.fixture(scope="session")
def soc_dataset(soc, tmp_path_factory) -> Path:
    """The packed file of all real slices."""
    path = tmp_path_factory.mktemp("soc") / "soc.h5"
    pack(soc / "data", soc / "labels", path, command="test")
    return path


@pytest.fixture
def bounded() -> Iterator[None]:
    """Of a test that tries many spoiled inputs: fails it where one hangs, or takes more memory than half a GiB."""

    def too_long(signum: int, frame: object) -> None:
        raise TimeoutError("an input kept it busy for minutes")

    before = signal.signal(signal.SIGALRM, too_long)
    memory.forget_peak()
    held = memory.peak_bytes()
    signal.alarm(400)  # a busy machine takes up to two minutes for all inputs together
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert memory.peak_bytes() - held < 512 * 2**20


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of its own with options of tmpfs, such as `size=64k` or `ro`."""
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


def _there(folder: Path) -> Path:
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the real data, and there is no {folder / 'data'} (set HPCSEG_DATA)")
    return folder
