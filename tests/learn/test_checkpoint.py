from __future__ import annotations

import pickle

import pytest
import torch

from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint


def test_what_is_saved_is_loaded_bit_by_bit_and_nothing_else_is_left(tmp_path):
    content = {"weights": torch.rand(3, 4), "epoch": 5, "history": [{"loss": 0.1}]}
    checkpoint.save(tmp_path / "a.pt", content)
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(loaded.pop("weights"), content.pop("weights")) and loaded == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(print)])
def test_a_damaged_file_or_one_with_code_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(HpcsegError, match=r"a\.pt cannot be read as a checkpoint"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HpcsegError, match=r"a\.pt cannot be written"):
        checkpoint.save(tmp_path / "file" / "a.pt", {})


def test_the_hash_of_weights_sees_values_and_names_but_not_the_memory_format():
    weights = {"a": torch.rand(2, 3, 4, 4)}
    same = {"a": weights["a"].to(memory_format=torch.channels_last)}
    assert checkpoint.weights_sha256(weights) == checkpoint.weights_sha256(same)
    assert checkpoint.weights_sha256(weights) != checkpoint.weights_sha256({"b": weights["a"]})
    assert checkpoint.weights_sha256(weights) != checkpoint.weights_sha256({"a": weights["a"] + 1})
