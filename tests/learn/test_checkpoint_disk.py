"""A checkpoint on a disk that is full."""

from __future__ import annotations

import pytest
import torch

from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint


# As large as the old one, and room for half of the new: torch meets the end of the disk in its first bytes, or later.
@pytest.mark.parametrize("size", ["8k", "64k", "4m"])
def test_a_full_disk_is_said_so_and_the_old_checkpoint_stays(disk, size):
    path = disk(f"size={size}") / "a.pt"
    checkpoint.save(path, {"weights": torch.ones(100)})
    with pytest.raises(HpcsegError, match=r"a\.pt cannot be written: No space left on device"):
        checkpoint.save(path, {"weights": torch.ones(2_000_000)})
    assert torch.equal(checkpoint.load(path)["weights"], torch.ones(100))
    assert list(path.parent.iterdir()) == [path]
