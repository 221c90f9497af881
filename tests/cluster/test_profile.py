from __future__ import annotations

import pytest

from hpcseg.cluster.profile import Profile, load_profile, resolve
from hpcseg.config import NeedsConfig
from hpcseg.errors import ConfigError


def test_an_option_wins_over_the_profile_and_the_profile_over_the_job(tmp_path):
    site = tmp_path / "site.toml"
    site.write_text('partition = "batch"\ntime = "0:30:00"\nmem = "8G"\nsetup = ["module load cuda"]\n')
    needs = NeedsConfig(gpus=2, minutes=60, memory_gib=16.0, cpus_per_task=4)
    decided = resolve(needs, load_profile(str(site)), Profile(time=5))
    assert (decided.minutes, decided.memory_gib, decided.cpus_per_task) == (5, 8, 4)
    assert (decided.partition, decided.setup) == ("batch", ("module load cuda",))
    assert (decided.gpus_per_node, decided.ranks_per_node) == (2, 2), "one rank per GPU"


def test_a_job_without_gpus_has_one_rank_per_node():
    assert resolve(NeedsConfig(gpus=0), Profile(), Profile()).ranks_per_node == 1


def test_shipped_profiles_load_and_the_example_decides_nothing():
    assert load_profile("example") == Profile()
    assert load_profile("testcluster").partition == "gpu"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin = 'gpu'", 'unknown key "partitoin". Did you mean "partition"?'),
        ("time = 'ten'", 'time: "ten" is no time limit'),
        ("time = 1.5", "time must be a whole number"),
        ("mem = '0G'", 'mem: "0G" is no size of memory'),
        ("gpu_syntax = 'gpus'", "gpu_syntax is"),
        ("nodes = 0", "nodes is 0"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_a_faulty_profile_is_refused_by_name(tmp_path, text, said):
    site = tmp_path / "site.toml"
    site.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_profile(str(site))
    assert said in str(error.value) and "site.toml" in str(error.value)


def test_an_unknown_profile_name_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="container, example, gpu-types, mig, modules, no-accounting, testcluster"):
        load_profile("nowhere")
