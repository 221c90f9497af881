"""The 500 real slices and labels go into the packed file bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tifffile

from hpcseg.cli.next_step import after_pack
from hpcseg.config import DataConfig
from hpcseg.data.batches import open_source
from hpcseg.data.grey import PAPER_SPAN, GreyScale
from hpcseg.data.notes import gap_notes, grey_notes
from hpcseg.data.pack import pack
from hpcseg.data.store import read_info, verify
from hpcseg.runs.finding import is_the_papers, plan_run

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def published(soc):
    """SHA-256 of the pixels of every file as published: {"data/SOCprist0001.tiff": ..., ...}."""
    lines = (soc / "pixels.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def test_the_pixels_of_all_1000_files_have_their_published_hashes(soc_dataset, published):
    info = read_info(soc_dataset)
    packed = {f"data/{name}": digest for name, digest in zip(info.image_names, info.image_sha256, strict=True)}
    packed |= {f"labels/{name}": digest for name, digest in zip(info.label_names, info.label_sha256, strict=True)}
    assert len(packed) == 1000
    assert packed == published
    assert info.numbers.tolist() == list(range(1, 501))
    assert info.shape == (500, 501, 501)
    # As in the published records under results/: with another hash every cell would get a new id.
    assert info.data_sha256 == "837bfab285293708faeec3297187c165e20ca3bd3db6ca48922cfc7fc9e510f0"


def test_they_are_divided_by_65535_and_span_what_the_papers_sigmas_were_chosen_for(soc_dataset):
    info = read_info(soc_dataset)
    # Counted once with numpy over all slices.
    assert info.grey == GreyScale(0.0, 65_535.0, (19_624.0, 43_421.0))
    assert PAPER_SPAN == 43_421 - 19_624
    assert grey_notes(info) == ()


def test_slices_are_alike_up_to_where_the_images_correlate_no_more(soc, soc_dataset):
    info = read_info(soc_dataset)
    assert 30 <= info.alike_slices <= 50
    assert gap_notes(info) == ()
    # Whole images, a few pairs of them, by numpy's own correlation.
    correlation = {}
    for apart in (10, info.alike_slices):
        pairs = [
            [tifffile.imread(soc / "data" / f"SOCprist{number:04d}.tiff") for number in (first, first + apart)]
            for first in range(1, 500 - apart, 20)
        ]
        correlation[apart] = np.mean([np.corrcoef(*(image.ravel() for image in pair))[0, 1] for pair in pairs])
    # 23 pairs vary by 0.05 around their mean, so it is known to 0.02; whole images have more noise than their points.
    assert correlation[10] > 0.6
    assert correlation[info.alike_slices] == pytest.approx(0.15, abs=0.05)


def test_the_papers_splits_are_what_they_were_when_records_were_written(soc_dataset):
    # As in results/paper-cpu, and as commit 2e15064 has divided them, before a gap was measured.
    for tiles, split, begins in (
        ("small", "shuffled", "0727ec688d34b3ce"),
        ("large", "shuffled", "6f3f1fccf6f470d3"),
        ("small", "blocked", "35497cfd274cde05"),
        ("large", "blocked", "8ff5a8bf55054227"),
    ):
        source = open_source(soc_dataset, DataConfig(tiles=tiles, split=split, gap_slices=2))
        assert source.split.sha256().startswith(begins)


def test_the_papers_slices_are_known_by_their_hash_and_own_ones_are_not(soc_dataset):
    info = read_info(soc_dataset)
    assert is_the_papers(info.data_sha256)
    assert after_pack(info, "").startswith("Next: hpcseg grid --job paper")
    assert plan_run(None, soc_dataset, None, None).job.name == "paper"
    other = dataclasses.replace(info, data_sha256="0" * 64)
    assert after_pack(other, "").startswith("Next: hpcseg grid --job segment")


def test_the_packed_file_verifies(soc_dataset):
    verify(soc_dataset, lambda *_: None)


def test_the_packbits_originals_have_the_same_hashes(soc_original, published, tmp_path):
    info = pack(soc_original / "data", soc_original / "labels", tmp_path / "original.h5", command="test")
    assert len(info.image_names) >= 3
    for name, digest in zip(info.image_names, info.image_sha256, strict=True):
        assert digest == published[f"data/{name}"]
    for name, digest in zip(info.label_names, info.label_sha256, strict=True):
        assert digest == published[f"labels/{name}"]


def test_class_shares_are_those_of_the_labels(soc_dataset):
    info = read_info(soc_dataset)
    shares = 100 * info.class_counts.sum(0) / info.class_counts.sum()
    assert info.class_values == (0, 128, 255)
    # 29.5, 43.4 and 27.2 per cent, given to one place.
    assert shares == pytest.approx([29.5, 43.4, 27.2], abs=0.1)


def test_a_blocked_split_of_the_real_slices_keeps_its_sets_apart(soc_dataset):
    source = open_source(soc_dataset, DataConfig(tiles="large", split="blocked"))
    train, validation, test = (
        set(source.tiles[rows, 0].tolist()) for rows in (source.split.train, source.split.validation, source.split.test)
    )
    # 377 slices besides three gaps of 41.
    assert (len(train), len(validation), len(test)) == (264, 57, 56)
    near = {index + step for index in train for step in range(-41, 42)}
    assert not near & (validation | test)
