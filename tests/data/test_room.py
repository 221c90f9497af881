"""How much room tiles have: what one set took is no longer there for the next."""

from __future__ import annotations

import pytest
import torch

from hpcseg.data import room
from hpcseg.data.room import Place, Room

_MIB, _GIB = 2**20, 2**30


@pytest.fixture
def gpu(monkeypatch):
    """Of 8 GiB 3 free; and of 5 that torch has reserved 4 are in use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * _GIB, 8 * _GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * _GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 * _GIB)
    return torch.device("cuda")


def placed(device, sets):
    found = Room(torch.device(device))
    return [found.place(kept=kept * _MIB, made=made * _MIB) for kept, made in sets]


def test_what_lies_on_a_cpu_lies_in_the_memory_of_the_host(monkeypatch):
    monkeypatch.setenv("HPCSEG_TILES_IN_MEMORY", "20")
    sets = [(8, 9), (8, 9), (8, 9), (2, 2)]
    assert placed("cpu", sets) == [Place.DEVICE, Place.DEVICE, Place.FILE, Place.DEVICE]
    assert placed("cpu", [(30, 15)]) == [Place.FILE], "what is there twice has no room either"


def test_what_lies_on_a_gpu_takes_nothing_of_the_host(monkeypatch, gpu):
    monkeypatch.setenv("HPCSEG_TILES_IN_MEMORY", "20")
    monkeypatch.setenv("HPCSEG_TILES_ON_DEVICE", "20")
    sets = [(8, 9), (8, 9), (8, 9), (8, 9), (8, 9)]
    assert placed(gpu, sets) == [Place.DEVICE, Place.DEVICE, Place.HOST, Place.HOST, Place.FILE]


def test_memory_of_a_gpu_that_tensors_are_in_is_not_free(gpu):
    assert room.free_bytes(gpu) == 4 * _GIB


def test_ranks_of_one_node_have_its_memory_together(monkeypatch):
    monkeypatch.setattr(room, "free_host_bytes", lambda: 100 * _MIB)
    assert placed("cpu", [(70, 70)]) == [Place.DEVICE]
    for name, value in {"NUM_TASKS": 4, "NUM_NODES": 1, "ID": 0}.items():
        monkeypatch.setenv(f"SLURM_STEP_{name}", str(value))
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert placed("cpu", [(70, 70), (15, 15)]) == [Place.FILE, Place.DEVICE]
