"""What each launcher says is understood; nothing else reads it."""

from __future__ import annotations

import os

import pytest

from hpcseg.launch.environment import read_environment

CORES = len(os.sched_getaffinity(0))


def test_no_launcher_is_one_rank_with_all_cores():
    environment = read_environment({})
    assert (environment.rank, environment.world_size, environment.threads) == (0, 1, CORES)
    assert read_environment({"OMP_NUM_THREADS": "1"}).threads == 1


def test_a_step_of_srun_has_its_tasks_as_ranks_and_its_granted_cores():
    environment = read_environment(
        {
            "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "2", "SLURM_STEP_NUM_TASKS": "4",
            "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_CPUS_PER_TASK": "1",
        }
    )  # fmt: skip
    assert (environment.rank, environment.local_rank, environment.world_size) == (3, 1, 4)
    assert (environment.threads, environment.launch) == (1, "12-2-0")
    assert not environment.one_node, "nobody has said so"


@pytest.mark.parametrize(("nodes", "one_node"), [("1", True), ("2", False)])
def test_whether_all_ranks_are_on_one_node_is_for_srun_to_say(nodes, one_node):
    names = ("STEP_NUM_TASKS", "STEP_ID", "PROCID", "LOCALID")
    environ = {f"SLURM_{name}": "0" for name in names} | {"SLURM_STEP_NUM_NODES": nodes}
    assert read_environment(environ).one_node is one_node


@pytest.mark.parametrize("environ", [{"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "12"}])
def test_a_batch_script_or_an_interactive_shell_is_one_rank(environ):
    assert read_environment(environ).world_size == 1


def test_torchruns_one_thread_is_not_believed():
    environment = read_environment(
        {
            "TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "TORCHELASTIC_RESTART_COUNT": "1", "OMP_NUM_THREADS": "1",
        }
    )  # fmt: skip
    assert (environment.rank, environment.world_size, environment.launch) == (1, 2, "torchrun-x-1")
    assert environment.threads == max(1, CORES // 2)
