"""Names of classes: how they are said, where they are kept, and that they are no other data."""

from __future__ import annotations

import json

import pytest
from slice_folder import hpcseg

from hpcseg.data.classes import parse_names
from hpcseg.data.store import read_info
from hpcseg.errors import ConfigError

NAMES = "0=pore, 128=YSZ,255=Ni = metal"


def test_names_are_said_by_label_value():
    assert parse_names(NAMES) == {0: "pore", 128: "YSZ", 255: "Ni = metal"}


@pytest.mark.parametrize("text", ["", "pore", "0=", "=pore", "a=pore", "-1=pore", "0=pore,", "0=a,0=b", "0=a,1=a"])
def test_what_is_no_list_of_names_is_refused(text):
    with pytest.raises(ConfigError, match="--classes is"):
        parse_names(text)


def test_names_are_in_the_packed_file_and_change_neither_pixels_nor_hash(good, tmp_path):
    plain, named, half = (tmp_path / f"{name}.h5" for name in ("plain", "named", "half"))
    assert hpcseg("pack", good, "-o", plain).exit_code == 0
    said = hpcseg("pack", good, "-o", named, "--classes", NAMES)
    assert said.exit_code == 0 and "pore (0): 33.3%" in said.stdout
    assert hpcseg("pack", good, "-o", half, "--classes", "128=YSZ").exit_code == 0
    infos = [read_info(file) for file in (plain, named, half)]
    assert [info.class_names for info in infos] == [
        ("0", "128", "255"), ("pore", "YSZ", "Ni = metal"), ("0", "YSZ", "255"),
    ]  # fmt: skip
    assert len({info.data_sha256 for info in infos}) == 1
    assert json.loads(hpcseg("info", named, "--json").stdout)["class_names"] == ["pore", "YSZ", "Ni = metal"]


def test_a_name_of_a_value_that_no_label_has_is_refused(good, output):
    said = hpcseg("pack", good, "-o", output, "--classes", "0=pore,127=YSZ")
    assert said.exit_code == 2 and "--classes names 127, but the labels have 0, 128, 255" in said.stderr
    assert not output.exists()


def test_packing_again_under_other_names_is_another_file_and_under_none_the_same(good, output):
    command = ("pack", good, "-o", output)
    assert hpcseg(*command, "--classes", NAMES).exit_code == 0
    for same in ((), ("--classes", NAMES)):
        assert "there already" in hpcseg(*command, *same).stderr
    other = hpcseg(*command, "--classes", "0=hole")
    assert other.exit_code == 2 and "class names" in other.stderr
