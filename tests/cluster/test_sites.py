"""What a site's profile may say beyond hpcseg's own words: it goes through to sbatch and srun as it stands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from fake_slurm import booked, resources

from hpcseg.cluster import ledger
from hpcseg.cluster.executor import cell_executor, report_executor
from hpcseg.cluster.profile import Profile, load_profile, resolve
from hpcseg.cluster.retry import read_resources
from hpcseg.cluster.submit import submit_missing
from hpcseg.config import NeedsConfig
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.runs.folder import RunFolder

NEEDS = NeedsConfig(gpus=1, minutes=60, memory_gib=16.0, cpus_per_task=4)


def scripts(folder: Path, profile: Profile, **options: object) -> dict[str, tuple[dict[str, str], str]]:
    """Of the cells' job and the report's: the options of sbatch, and the line that runs."""
    decided, named = resolve(NEEDS, profile, Profile(**options)), {"name": "job", "comment": "token"}
    made = {
        "cell": cell_executor(folder, folder, decided, **named),
        "report": report_executor(folder, folder, decided, dependency="afterany:1", **named),
    }
    found = {}
    for which, executor in made.items():
        lines = executor._make_submission_file_text(executor._submitit_command_str, "").splitlines()
        flags = [shlex.split(line.removeprefix("#SBATCH --"))[0] for line in lines if line.startswith("#SBATCH")]
        options_of = {name: value for name, _, value in (flag.partition("=") for flag in flags)}
        found[which] = options_of, next(line for line in lines if line.startswith("srun"))
    return found


def profile(folder: Path, text: str) -> Profile:
    (folder / "site.toml").write_text(text)
    return load_profile(str(folder / "site.toml"))


def test_options_of_sbatch_go_through_and_the_report_has_those_that_ask_for_no_gpu(tmp_path):
    site = profile(
        tmp_path,
        '[sbatch]\nreservation = "beamtime"\nlicenses = "scratch:2"\nexclusive = true\noversubscribe = false\n'
        'nice = 10\ngres = "gpu:a100:1"\nmem-per-gpu = "40G"\nmail-type = "FAIL,TIME_LIMIT"\n',
    )
    made = scripts(tmp_path, site)
    cell, report = made["cell"][0], made["report"][0]
    for options in (cell, report):
        given = {name: options[name] for name in ("reservation", "licenses", "exclusive", "nice", "mail-type")}
        assert given == {
            "reservation": "beamtime",
            "licenses": "scratch:2",
            "exclusive": "",
            "nice": "10",
            "mail-type": "FAIL,TIME_LIMIT",
        }
        assert "oversubscribe" not in options and "requeue" in options
    assert (cell["gres"], cell["mem-per-gpu"]) == ("gpu:a100:1", "40G")
    assert not {"mem", "gpus-per-node"} & cell.keys(), "sbatch takes one of each kind"
    assert not {"gres", "mem-per-gpu", "gpus-per-node"} & report.keys() and report["mem"] == "2048M"


@pytest.mark.parametrize("option", ["gpus", "gpus-per-node", "gpus-per-task", "gres", "gpus-per-socket"])
def test_an_option_for_gpus_takes_the_place_of_ours(tmp_path, option):
    site = profile(tmp_path, f'gpu_syntax = "gres"\n[sbatch]\n{option} = "gpu:h100:1"\n')
    options = scripts(tmp_path, site)["cell"][0]
    known = {"gpus", "gpus-per-node", "gpus-per-task", "gres", "gpus-per-socket"}
    assert {name: options[name] for name in known & options.keys()} == {option: "gpu:h100:1"}
    assert not known & scripts(tmp_path, site, gpus_per_node=0)["cell"][0].keys()


def test_a_job_without_gpus_keeps_what_else_is_asked_of_a_node(tmp_path):
    site = profile(tmp_path, '[sbatch]\ngres = "lscratch:100"\nmem-per-gpu = "40G"\n[srun]\ngpu-bind = "closest"\n')
    made = scripts(tmp_path, site, gpus_per_node=0)
    for options, command in made.values():
        assert options["gres"] == "lscratch:100" and "mem-per-gpu" not in options and "gpu-bind" not in command
    assert made["cell"][0]["mem"] == "16384M"


def test_options_of_srun_and_a_container_run_the_ranks_and_the_report(tmp_path):
    site = profile(
        tmp_path,
        'python = "apptainer exec --nv /images/hpcseg.sif python3"\n'
        '[srun]\ncontainer-image = "/images/with blank.sqsh"\nno-container-mount-home = true\ngpu-bind = "closest"\n',
    )
    made = scripts(tmp_path, site)
    for which in ("cell", "report"):
        words = shlex.split(made[which][1])
        assert "--container-image=/images/with blank.sqsh" in words and "--no-container-mount-home" in words
        at = words.index("apptainer")
        assert words[at : at + 8] == [
            *("apptainer", "exec", "--nv", "/images/hpcseg.sif", "python3"),
            *("-u", "-m", "submitit.core._submit"),
        ]
        assert ("--gpu-bind=closest" in words) == (which == "cell")


def test_ranks_that_ask_for_a_gpu_each_see_those_of_the_others(tmp_path):
    site = profile(tmp_path, 'gpu_syntax = "gpus-per-task"\n')
    alone, several = (scripts(tmp_path, site, gpus_per_node=gpus)["cell"] for gpus in (1, 4))
    assert alone[0]["gpus-per-task"] == several[0]["gpus-per-task"] == "1"
    assert "--gpu-bind=none" not in alone[1] and "--gpu-bind=none" in several[1]


def test_the_report_has_wishes_of_its_own(tmp_path):
    site = profile(
        tmp_path,
        'partition = "gpu"\naccount = "a"\nqos = "gpu"\nconstraint = "a100"\ntime = "8:00:00"\n'
        '[sbatch]\nreservation = "beamtime"\n'
        '[report]\npartition = "cpu"\nqos = "short"\nmem = "4G"\ntime = "0:10:00"\n[report.sbatch]\nnice = 100\n',
    )
    made = scripts(tmp_path, site)
    cell, report = made["cell"][0], made["report"][0]
    names = ("partition", "account", "qos", "constraint", "time")
    assert [cell[name] for name in names] == ["gpu", "a", "gpu", "a100", "480"]
    assert [report[name] for name in names] == ["cpu", "a", "short", "a100", "10"]
    assert (report["mem"], report["nice"]) == ("4096M", "100") and "reservation" not in report
    assert "nice" not in cell


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('sbatch = "--exclusive"', "sbatch must be a table of options"),
        ('[sbatch]\npartition = "a"', "sbatch: partition has a key of its own in a profile: partition"),
        ("[sbatch]\nntasks-per-node = 2", "ranks_per_node"),
        ('[sbatch]\narray = "0-3"', "sbatch: array is for hpcseg to set"),
        ('[sbatch]\nclusters = "b"', "Leave it out, and `export SLURM_CLUSTERS=b`"),
        ('[sbatch]\nsignal = "USR1@5"', "sbatch: signal is for hpcseg to set"),
        ('[sbatch]\n"-p" = "a"', "must be the long name of an option, without its dashes"),
        ('[sbatch]\n"--nice" = 1', "must be the long name"),
        ('[sbatch]\np = "a"', "must be the long name"),
        ('[sbatch]\n"nice\\n#SBATCH --wrap" = 1', "must be the long name"),
        ('[sbatch]\nnodelist = ["a", "b"]', "nodelist must be a text, a number, or true"),
        ("[srun]\nunbuffered = true", "srun: unbuffered is for hpcseg to set"),
        ('[report]\npartitoin = "a"', 'unknown key "partitoin"'),
        ('[report]\nmem = "0G"', "report.mem"),
        ("[report]\ntime = -1", "report.time is -1"),
        ("[report.sbatch]\nrequeue = true", "report.sbatch: requeue is for hpcseg to set"),
        ("report = 3", "report"),
        ("python = 3", "python must be a text"),
    ],
)
def test_what_a_profile_cannot_mean_is_refused_with_its_name(tmp_path, text, said):
    with pytest.raises(ConfigError) as error:
        profile(tmp_path, text)
    assert said in str(error.value) and "site.toml" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        '[sbatch]\ncomment-of-mine = "a\\n#SBATCH --wrap=evil"',
        '[srun]\ncontainer-image = "a\\nevil"',
        'python = "python3\\nevil"',
        '[report]\npartition = "a\\n#SBATCH --wrap=evil"',
        '[report.sbatch]\nreservation = "a\\revil"',
    ],
)
def test_no_line_end_reaches_a_script(tmp_path, text):
    with pytest.raises(ConfigError, match="no line end and no other control character"):
        resolve(NEEDS, profile(tmp_path, text), Profile())


def test_memory_that_may_grow_is_memory_per_node(tmp_path):
    site = profile(tmp_path, 'mem = "8G"\nmax_mem = "32G"\nmax_time = "1-00:00:00"\n')
    decided = resolve(NEEDS, site, Profile())
    assert (decided.max_memory_gib, decided.max_minutes) == (32, 1440)
    with pytest.raises(ConfigError, match="max_mem is of mem"):
        resolve(NEEDS, profile(tmp_path, 'max_mem = "32G"\n[sbatch]\nmem-per-cpu = "2G"\n'), Profile())


def test_memory_on_the_command_line_takes_the_place_of_one_per_cpu(slurm, tmp_path):
    site = profile(tmp_path, '[sbatch]\nmem-per-cpu = "2G"\nexclusive = true\n')
    assert "mem" not in scripts(tmp_path, site)["cell"][0]
    asked, _ = scripts(tmp_path, site, mem=64.0)["cell"]
    assert asked["mem"] == "65536M" and "mem-per-cpu" not in asked and "exclusive" in asked


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ('gres = "gpu:a100:2"', 2),
        ('gres = "tmp:9,gpu:a100_1g.10gb"', 1),
        ('gres = "gpu:2,tmp:9"', 2),
        ('gpus-per-node = "a100:2"', 2),
        ("gpus-per-node = 2", 2),
        ('gres = "gpu:a100:1,gpu:v100:1"', 2),
    ],
)
def test_another_number_of_gpus_than_the_profile_asks_sbatch_for_is_refused(tmp_path, asked, fits):
    site = profile(tmp_path, f"[sbatch]\n{asked}\n")
    assert resolve(NEEDS, site, Profile(gpus_per_node=fits)).ranks_per_node == fits
    assert resolve(NEEDS, site, Profile(gpus_per_node=0)).gpus_per_node == 0
    with pytest.raises(ConfigError, match=r"--gpus-per-node is 3, but the profile asks sbatch for g"):
        resolve(NEEDS, site, Profile(gpus_per_node=3))


def test_gpus_that_a_profile_asks_for_by_task_or_not_at_all_are_as_many_as_on_the_command_line(tmp_path):
    for text in ("gpus-per-task = 1", 'gres = "tmp:9"'):
        assert resolve(NEEDS, profile(tmp_path, f"[sbatch]\n{text}\n"), Profile(gpus_per_node=3)).gpus_per_node == 3


def test_whoever_tries_again_asks_for_the_same(slurm, grid, tmp_path):
    site = profile(
        tmp_path, 'python = "python3"\n[sbatch]\nexclusive = true\n[srun]\nmpi = "none"\n[report]\npartition = "cpu"\n'
    )
    asked = resolve(grid.job.needs, site, Profile())
    submit_missing(grid, asked, dry_run=False, resubmit=False)
    assert read_resources(grid.run) == asked and asked.report.partition == "cpu"


def test_what_was_asked_for_before_there_were_such_tables_is_still_read(slurm, grid):
    asked = resources(grid)
    submit_missing(grid, asked, dry_run=False, resubmit=False)
    text = grid.run.resources_file.read_text()
    for name in ("python", "sbatch", "srun", "report"):
        assert f'"{name}"' in text
    content = {
        name: value for name, value in json.loads(text).items() if name not in ("python", "sbatch", "srun", "report")
    }
    grid.run.resources_file.write_text(json.dumps(content))
    assert read_resources(grid.run) == asked


def test_where_sbatch_refuses_the_report_nothing_stays_half_submitted(slurm, grid):
    slurm.command(
        "sbatch",
        'if grep -q "report" "$1"; then echo "sbatch: error: this partition is for jobs with GPUs" >&2; exit 1; fi\n'
        'id=$(($(ls *.script 2>/dev/null | wc -l) + 100)); cp "$1" $id.script; echo "Submitted batch job $id"',
    )
    with pytest.raises(SchedulerError) as error:
        submit_missing(grid, resources(grid, max_array_size=1), dry_run=False, resubmit=False)
    said = str(error.value)
    assert "for jobs with GPUs" in said and "the others were taken back" in said and "[report] of a profile" in said
    assert {"100", "101"} <= set((slurm.folder / "cancelled").read_text().split())
    assert not ledger.read(grid.run).jobs
    slurm.accept()
    assert submit_missing(grid, resources(grid), dry_run=False, resubmit=False).jobs == 3
    assert [stage for stage, *_ in booked(grid)][-2:] == ["cells", "report"]


def test_where_it_is_not_known_whether_the_report_was_taken_the_cells_stay(slurm, grid):
    slurm.command(
        "sbatch",
        'id=$(($(ls *.script 2>/dev/null | wc -l) + 100)); cp "$1" $id.script\n'
        'grep -q "smoke-report" "$1" || echo "Submitted batch job $id"',
    )
    with pytest.raises(SchedulerError, match="did not name the job"):
        submit_missing(grid, resources(grid), dry_run=False, resubmit=False)
    assert not (slurm.folder / "cancelled").exists()
    assert {job.job_id for job in ledger.read(grid.run).jobs.values()} == {"100_0", "100_1"}


EXAMPLES = {
    "modules": ({"partition": "a100-40gb", "account": "mygroup", "qos": "standby", "gpus-per-task": "1"},
                {"partition": "cpu", "qos": "normal", "time": "30"}),
    "container": ({"partition": "A100-80GB", "gpus-per-node": "1", "cpus-per-task": "16"}, {"partition": "A100-80GB"}),
    "mig": ({"account": "def-someuser", "gpus-per-node": "a100_3g.20gb:1", "time": "180"}, {"account": "def-someuser"}),
    "gpu-types": ({"gres": "gpu:a100:1", "mem-per-cpu": "3800M", "cpus-per-task": "8"}, {"mem": "2048M"}),
    "no-accounting": ({"partition": "allgpu", "constraint": "A100", "exclusive": ""}, {"partition": "allcpu"}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_shipped_examples_become_what_their_sites_take(tmp_path, name):
    made = scripts(tmp_path, load_profile(name))
    for which, expected in zip(("cell", "report"), EXAMPLES[name], strict=True):
        options = made[which][0]
        assert {key: options.get(key) for key in expected} == expected
    gpus = {"gpus-per-node", "gpus-per-task", "gres"} & made["cell"][0].keys()
    assert len(gpus) == (0 if name == "no-accounting" else 1), (
        "one word for GPUs, or none where a partition implies them"
    )
    assert not {"gpus-per-node", "gpus-per-task", "gres", "mem-per-cpu"} & made["report"][0].keys()
    assert ("--container-image=/project/containers/hpcseg.sqsh" in made["cell"][1]) == (name == "container")


def test_the_example_with_containers_asks_for_less_where_nodes_have_less(tmp_path):
    options = scripts(tmp_path, load_profile("container", "V100-32GB"), partition="V100-32GB")["cell"][0]
    assert (options["partition"], options["cpus-per-task"], options["mem"]) == ("V100-32GB", "5", "81920M")


def test_a_foreign_text_in_a_recorded_table_is_refused(slurm, grid):
    submit_missing(grid, resources(grid), dry_run=False, resubmit=False)
    text = grid.run.resources_file.read_text()
    grid.run.resources_file.write_text(text.replace('"sbatch": []', '"sbatch": ["nice=1\\n#SBATCH --wrap=evil"]', 1))
    with pytest.raises(ConfigError, match="no line end"):
        read_resources(RunFolder(grid.run.path))


TABLES = """
partition = "gpu"
cpus_per_task = 4
mem = "16G"
[sbatch]
licenses = "scratch"
[partitions.gpu]
cpus_per_task = 8
[partitions.h100]
mem = "64G"
[partitions.h100.sbatch]
gres = "gpu:h100:1"
[partitions.h100.report]
partition = "cpu"
"""


def test_the_table_of_a_partition_has_the_last_word_where_it_is_chosen(tmp_path):
    (tmp_path / "site.toml").write_text(TABLES)

    def decided(partition: str | None) -> tuple[object, ...]:
        site = load_profile(str(tmp_path / "site.toml"), partition)
        chosen = resolve(NEEDS, site, Profile(partition=partition))
        return chosen.partition, chosen.cpus_per_task, chosen.memory_gib, chosen.sbatch, chosen.report.partition

    assert decided(None) == decided("gpu") == ("gpu", 8, 16, ("licenses=scratch",), None)
    assert decided("h100") == ("h100", 4, 64, ("licenses=scratch", "gres=gpu:h100:1"), "cpu")
    assert decided("other") == ("other", 4, 16, ("licenses=scratch",), None)
    with pytest.raises(ConfigError, match="has a table for h100, which says what differs there"):
        decided("h100,other")


def test_several_partitions_without_tables_go_through_as_they_are(tmp_path):
    assert scripts(tmp_path, profile(tmp_path, 'partition = "a100,h100"\n'))["cell"][0]["partition"] == "a100,h100"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitions = 3", "partitions must hold tables"),
        ('[partitions.a]\nmemory = "3G"', 'partitions.a: unknown key "memory"'),
        ('[partitions.a]\ntime = "ten"', 'partitions.a: time: "ten" is no time limit'),
        ('[partitions.a]\npartition = "b"', "partitions.a is the table of that partition"),
        ('paths = "/home"', "paths must be a table of folders"),
        ('[paths]\n"~/x" = "/y"', "'~/x' must be an absolute path"),
        ('[paths]\n"/x" = "/y; rm"', "'/y; rm' must be an absolute path"),
        ('[paths]\n"/home" = "/home/nodes"', "would change again"),
    ],
)
def test_what_such_tables_cannot_mean_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigError) as error:
        profile(tmp_path, text)
    assert said in str(error.value) and "site.toml" in str(error.value)
