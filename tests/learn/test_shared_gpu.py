"""Two ranks with one GPU are refused before NCCL meets it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from rank_runner import run_ranks


def _what_join_says(folder: Path, gpus: list[str]) -> str:
    import torch

    from hpcseg.errors import HpcsegError
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn import ranks

    environment = read_environment()
    ranks.choose_device = lambda local_rank: torch.device("cuda", 0)
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid=gpus[environment.rank])
    try:
        with ranks.join(environment, folder):
            return "joined"
    except HpcsegError as error:
        return str(error)


def test_two_ranks_on_one_gpu_are_refused_by_all_in_a_sentence(tmp_path):
    said = run_ranks(3, _what_join_says, tmp_path, ["a", "b", "a"])
    assert len(set(said)) == 1
    assert said[0].startswith("Ranks 0 and 2 of host ") and "use the same GPU. Start as many ranks" in said[0]
