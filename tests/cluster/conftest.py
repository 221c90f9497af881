from __future__ import annotations

import numpy as np
import pytest
import tifffile
from fake_slurm import FakeSlurm

from hpcseg.cluster import sender
from hpcseg.config import DataConfig, TrainConfig
from hpcseg.data.grey import GreyScale
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.learn.checkpoint import weights_sha256
from hpcseg.learn.unet import build_unet
from hpcseg.predict.card import QUANTILES, ModelCard, Training
from hpcseg.predict.model_file import Model, export
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Grid, plan


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(sender, "_SECONDS_BETWEEN_TRIES", 0.0)
    return FakeSlurm(folder)


@pytest.fixture
def grid(tmp_path) -> Grid:
    """The two cells of the shipped smoke job; no data is needed to submit them."""
    return plan(load_job(find_shipped("job", "smoke")), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)


@pytest.fixture
def untrained_model(tmp_path):
    """Of an untrained network, whose labels are as good as any for counting."""
    train = TrainConfig(width=2, depth=1)
    network = build_unet(classes=2, width=2, depth=1, batch_norm=True, seed=0)
    card = ModelCard(
        class_values=(1, 2),
        class_names=("1", "2"),
        label_dtype="uint8",
        grey_dtype="uint16",
        grey=GreyScale(0.0, 65535.0),
        grey_quantiles=tuple(np.linspace(0, 65535, QUANTILES)),
        data=DataConfig(tile_size=16),
        train=train,
        training=Training(cell="untrained", precision="fp32"),
        model_sha256=weights_sha256(network.state_dict()),
    )
    export(Model("untrained", card, network), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def scan(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (10, 20, 30), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "scan.tif", pixels, photometric="minisblack")
    return tmp_path / "scan.tif"
