"""GPUs are found where there are no tools, and a cell that was to have one does not quietly take the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_refusals import failure, make_cell, run

from hpcseg.cluster.failures import diagnose
from hpcseg.cluster.local import find_slots
from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.runs import gpus
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import write_json


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder that stands for /dev and /proc/driver/nvidia, and is all that is on PATH; no GPU is hidden."""
    monkeypatch.setattr(gpus, "_DEVICE_FILES", tmp_path / "dev")
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    gpus.devices.cache_clear()
    gpus.driver_version.cache_clear()
    yield tmp_path
    gpus.devices.cache_clear()
    gpus.driver_version.cache_clear()


def put(machine: Path, *names: str, text: str = "") -> None:
    for name in names:
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text)


def tool(machine: Path, says: str, *, code: int = 0) -> None:
    """An nvidia-smi that writes down each start."""
    script = machine / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho \"$@\" >> {machine}/started\necho '{says}'\nexit {code}\n")
    script.chmod(0o755)


@pytest.fixture
def cell(tmp_path, tiny_dataset, machine) -> Cell:
    """It needs a GPU, and torch finds none."""
    return make_cell(tmp_path / "run", tiny_dataset)


def test_a_container_without_nvidia_smi_has_the_gpus_of_its_device_files(machine):
    put(machine, "dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm", "dev/null")
    assert find_slots(None, 1) == [("0",), ("1",)]


def test_where_only_the_driver_lists_gpus_these_are_counted(machine):
    put(machine, *(f"driver/gpus/0000:0{number}:00.0" for number in range(3)))
    assert gpus.count() == 3


@pytest.mark.parametrize(("says", "code", "found"), [("GPU 0: A\nGPU 1: B", 0, 2), ("driver mismatch", 9, 1)])
def test_nvidia_smi_is_believed_where_it_answers(machine, says, code, found):
    put(machine, "dev/nvidia0")
    tool(machine, says, code=code)
    assert gpus.count() == found


# As `nvidia-smi -L` prints it on a machine of two GPUs, the first of which is divided.
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 2g.10gb     Device  1: (UUID: MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-6d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a78)"""


def test_a_cell_gets_a_part_of_a_divided_gpu(machine):
    tool(machine, DIVIDED)
    parts = ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135")
    assert find_slots(None, 1) == [(parts[0],), (parts[1],), ("1",)] and gpus.count() == 3
    with pytest.raises(ConfigError, match=r"parts of one \(MIG\).*--gpus-per-node 1"):
        find_slots(None, 2)


@pytest.mark.parametrize(
    ("named", "slots"),
    [
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", [("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f",)]),
        ("GPU-5d5ba0d6, GPU-6d5ba0d6", [("GPU-5d5ba0d6",), ("GPU-6d5ba0d6",)]),
        ("MIG-GPU-5d5ba0d6-d33d/1/0,MIG-GPU-5d5ba0d6-d33d/2/0",
         [("MIG-GPU-5d5ba0d6-d33d/1/0",), ("MIG-GPU-5d5ba0d6-d33d/2/0",)]),
        ("3,-1,0", [("3",)]),
    ],
)  # fmt: skip
def test_the_list_of_visible_gpus_is_read_as_cuda_reads_it(machine, monkeypatch, named, slots):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert find_slots(None, 1) == slots


def test_a_list_that_names_no_gpu_is_refused(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
    with pytest.raises(ConfigError, match="is all, which names no GPU"):
        find_slots(None, 1)


def test_a_machine_without_any_has_none(machine):
    put(machine, "dev/null")
    assert gpus.count() == 0 and gpus.driver_version() is None and find_slots(None, 1) == [()]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\nGCC version: 12.2.0", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  570.86  Release Build", "570.86"),
    ],
)  # fmt: skip
def test_the_drivers_version_is_in_its_own_file_and_costs_no_process(machine, text, version):
    put(machine, "driver/version", text=text)
    tool(machine, "1.2")
    assert gpus.driver_version() == version and not (machine / "started").exists()


def test_nvidia_smi_is_started_once_per_process_for_each_question(machine):
    tool(machine, "550.54.14")
    assert [gpus.driver_version() for _ in range(5)] == ["550.54.14"] * 5
    assert len((machine / "started").read_text().splitlines()) == 1


def test_a_cell_that_needs_a_gpu_is_refused_where_there_is_one_that_torch_does_not_find(cell, machine):
    put(machine, "dev/nvidia0")
    for stage in ("train", "evaluate"):
        with pytest.raises(HpcsegError, match=r"This machine has 1 GPUs, but torch .* If a CPU is meant, set CUDA_VIS"):
            run(cell, stage)
    assert "This machine has 1 GPUs" in failure(cell)["error"]
    assert diagnose(cell, None, None, cancelled=False, logs={}).kind.action == "give up"


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_who_hides_the_gpus_means_the_cpu(cell, machine, monkeypatch, hidden):
    put(machine, "dev/nvidia0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert find_slots(None, 1) == [()]
    assert run(cell) == "finished"


def test_a_machine_without_gpus_trains_what_is_meant_for_them(cell):
    assert run(cell) == "finished"


def test_a_job_that_needs_no_gpu_leaves_them_alone(cell, machine):
    put(machine, "dev/nvidia0")
    change_needs(cell)
    assert run(cell) == "finished"


def change_needs(cell: Cell) -> None:
    file = RunFolder(cell.folder.path.parents[1]).grid_file
    file.write_text(file.read_text().replace('"gpus": 1', '"gpus": 0'))


@pytest.mark.parametrize(("asked", "refused"), [(2, True), (0, False)])
def test_a_slurm_job_that_asked_for_gpus_and_has_none_fails_at_once(cell, monkeypatch, asked, refused):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("HPCSEG_GPUS_PER_NODE", str(asked))
    # What another submission to the same run has asked for since says nothing of this job.
    write_json(RunFolder(cell.folder.path.parents[1]).resources_file, {"gpus_per_node": 2 - asked})
    if refused:
        with pytest.raises(HpcsegError, match=r"This job asked for GPUs, but torch .* finds none on this node"):
            run(cell)
    else:
        assert run(cell) == "finished"


def test_so_does_a_job_of_another_scheduler(cell, monkeypatch):
    monkeypatch.setenv("HPCSEG_GPUS_PER_NODE", "1")
    with pytest.raises(HpcsegError, match=r"This job asked for GPUs, but torch .* finds none on this node"):
        run(cell)


@pytest.mark.parametrize(("cuda", "action"), [("12.6", "other node"), (None, "give up")])
def test_only_a_torch_that_knows_gpus_is_tried_on_another_node(cell, monkeypatch, cuda, action):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setenv("HPCSEG_GPUS_PER_NODE", "1")
    with pytest.raises(HpcsegError):
        run(cell)
    assert diagnose(cell, None, None, cancelled=False, logs={}).kind.action == action
