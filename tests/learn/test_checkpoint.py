from __future__ import annotations

import contextlib
import pickle
import re
import zipfile
from collections import UserDict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pretend_gpu import CUDA, pretend_gpu

from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint
from hpcseg.sigma import Share


def test_what_is_saved_is_loaded_bit_by_bit_and_nothing_else_is_left(tmp_path):
    content = {"weights": torch.rand(3, 4), "epoch": 5, "history": [{"loss": 0.1}]}
    checkpoint.save(tmp_path / "a.pt", content)
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(loaded.pop("weights"), content.pop("weights")) and loaded == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_one_wrong_bit_among_the_weights_is_noticed(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"weights": torch.zeros(10_000)})
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "a.pt").write_bytes(whole)
    with pytest.raises(HpcsegError, match=r"the checksum of .* is wrong"):
        checkpoint.load(tmp_path / "a.pt")


def test_the_one_before_is_kept_and_used_where_the_newest_is_damaged(tmp_path):
    files = newest, previous = tmp_path / "a.pt", tmp_path / "b.pt"
    assert checkpoint.load_newest(files) == (None, [])
    for epoch in (1, 2, 3):
        checkpoint.save(newest, {"epoch": epoch}, previous)
    assert checkpoint.load_newest(files) == ({"epoch": 3}, [])
    newest.write_bytes(newest.read_bytes()[:50])
    content, complaints = checkpoint.load_newest(files)
    assert content == {"epoch": 2} and len(complaints) == 1 and str(newest) in complaints[0]
    newest.unlink()  # as when a crash comes between the two renames
    assert checkpoint.load_newest(files) == ({"epoch": 2}, [])
    previous.write_bytes(b"")
    assert checkpoint.load_newest(files)[0] is None


class _Named(NamedTuple):
    epoch: int


@pytest.mark.parametrize(
    "content",
    [Share("33 %"), {Share("33 %"): 1}, [{"sigma": (1, Share("33 %"))}], {1, 2}, _Named(1), UserDict(epoch=1)],
)
def test_what_could_not_be_loaded_is_not_written(tmp_path, content):
    # As the settings have it where noise is a share of the span: such a checkpoint was written, and then refused.
    with pytest.raises(AssertionError, match=r"a checkpoint cannot hold content"):
        checkpoint.save(tmp_path / "a.pt", {"position": content})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(print)])
def test_a_damaged_file_or_one_with_code_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(HpcsegError, match=r"a\.pt cannot be read as a checkpoint"):
        checkpoint.load(tmp_path / "a.pt")


class _Code:
    """What another user could put into a file of a shared folder: unpickled, it touches a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_file_that_torch_wrote_is_refused_and_not_run(tmp_path):
    torch.save({"weights": _Code(tmp_path / "run")}, tmp_path / "a.pt")
    with pytest.raises(HpcsegError, match=r"a\.pt cannot be read as a checkpoint"):
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "run").exists()


def test_the_cause_of_a_refusal_is_one_line_without_advice_about_other_ways_of_loading(tmp_path):
    torch.save({"weights": _Code(tmp_path / "run")}, tmp_path / "a.pt")
    with pytest.raises(HpcsegError) as refused:
        checkpoint.load(tmp_path / "a.pt")
    assert re.fullmatch(r".*a\.pt cannot be read as a checkpoint \(Unsupported [^\n\x1b]{1,80}\)\.", str(refused.value))


def test_a_file_of_torch_that_holds_something_else_is_refused(tmp_path):
    torch.save([1, 2, 3], tmp_path / "a.pt")
    with pytest.raises(HpcsegError, match=r"a\.pt is no checkpoint of hpcseg"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path):
    """Twenty megabytes of it may be twenty gigabytes of zeros."""
    checkpoint.save(tmp_path / "a.pt", {"epoch": 1})
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(HpcsegError, match=r"b\.pt cannot be read as a checkpoint \(it is compressed"):
        checkpoint.load(tmp_path / "b.pt")


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


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_copy_stays_what_it_was_and_is_there_once_it_was_waited_for(on_gpu):
    with pretend_gpu() if on_gpu else contextlib.nullcontext() as gpu:
        device = CUDA if on_gpu else torch.device("cpu")
        model = torch.nn.BatchNorm2d(3, device=device)
        moments = {0: {"step": torch.ones((), device=device), "exp_avg": torch.rand(3, device=device)}}
        history = [{"loss": 0.5}]
        content = {"model": model.state_dict(), "optimizer": {"state": moments}, "position": {"history": history}}
        expected = {name: tensor.cpu().clone() for name, tensor in content["model"].items()}
        waits = gpu and gpu.waits.copy()
        copied, wait = checkpoint.copied(content)
        assert not on_gpu or (gpu.waits == waits and not torch.equal(copied["model"]["weight"], expected["weight"]))
        with torch.no_grad():
            model.weight.add_(1)
        moments[0]["step"].add_(1)
        history.append({"loss": 0.25})
        wait()
    assert copied["position"] == {"history": [{"loss": 0.5}]} and copied["optimizer"]["state"][0]["step"] == 1
    assert copied["model"]._metadata == content["model"]._metadata
    for name, tensor in copied["model"].items():
        assert type(tensor) is torch.Tensor and torch.equal(tensor, expected[name])
