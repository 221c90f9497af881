"""Times and memory as Slurm's users write them."""

from __future__ import annotations

import pytest
from slice_folder import hpcseg

from hpcseg.cluster.units import gibibytes, minutes
from hpcseg.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "wanted"),
    # As sbatch's manual has them: minutes, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds].
    [("90", 90), ("2:00:00", 120), ("0:30:00", 30), ("36:00:01", 36 * 60 + 1), ("0:00:30", 1), ("1-12", 36 * 60),
     ("1-12:30", 36 * 60 + 30), ("2-00:00:00", 2 * 24 * 60), (" 90 ", 90)],
)  # fmt: skip
def test_a_time_is_read_as_sbatch_reads_it(text, wanted):
    assert minutes(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2:00", "may be hours or minutes"),
        ("two hours", "is no time limit"),
        ("", "is no time limit"),
        ("-5", "is no time limit"),
        ("2:0:0", "is no time limit"),
        ("0", "between 1 minute and a year"),
        ("0:00:00", "between 1 minute and a year"),
        (20 * "9", "between 1 minute and a year"),
    ],
)
def test_a_time_that_is_none_or_may_be_two_is_refused_with_how_to_write_it(text, said):
    with pytest.raises(ConfigError, match=said):
        minutes(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("16", 16),
        ("16G", 16),
        ("16g", 16),
        ("16GiB", 16),
        ("16 GB", 16),
        ("512M", 0.5),
        ("1.5T", 1536),
        ("1048576K", 1),
    ],
)
def test_memory_is_in_gib_or_has_slurms_unit(text, wanted):
    assert gibibytes(text) == wanted


@pytest.mark.parametrize("text", ["", "G", "16X", "0", "0G", "-1G", "1e3", 400 * "9"])
def test_a_size_of_memory_that_is_none_is_refused_with_how_to_write_it(text):
    with pytest.raises(ConfigError, match="is no size of memory: write GiB as in 16, or with a unit"):
        gibibytes(text)


@pytest.mark.parametrize("verb", ["grid", "retry", "doctor", ("predict", "model", "in", "-o", "out")])
def test_every_verb_that_asks_slurm_reads_them_and_names_the_option_that_is_wrong(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb = (verb,) if isinstance(verb, str) else verb
    for option, value in (("--time", "2:00"), ("--mem", "16X")):
        result = hpcseg(*verb, option, value)
        assert result.exit_code == 2 and option in result.output and "write" in result.output
    right = hpcseg(*verb, "--time", "2:00:00", "--mem", "16G")
    assert right.exit_code != 2 or not {"--time", "--mem"} & set(right.output.split()), right.output


def test_options_and_profile_keys_come_out_in_what_sbatch_gets(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text('time = "1-12:00:00"\nmem = "512M"\n')
    plan = ("grid", "--job", "smoke", "--data", tiny_dataset, "--slurm", "--dry-run", "--profile", "site.toml")
    by_profile, by_option = hpcseg(*plan).output, hpcseg(*plan, "--time", "2:00:00", "--mem", "3G").output
    assert "#SBATCH --time=2160" in by_profile and "#SBATCH --mem=512M" in by_profile
    assert "#SBATCH --time=120" in by_option and "#SBATCH --mem=3072M" in by_option
