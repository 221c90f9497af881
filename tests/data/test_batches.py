"""Tiles on a device, the order in which they are used, and which rank does which part."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from hpcseg.config import DataConfig, NoiseLevel, TrainConfig
from hpcseg.data import batches, noise, noisy_tiles, store, tile_sets, training_tiles
from hpcseg.data.pack import pack
from hpcseg.errors import ConfigError, DatasetError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tiny_dataset):
    """64 tiles of 64 x 64 pixels: 16 slices with 2 x 2 each."""
    return batches.open_source(tiny_dataset, DataConfig(tiles="2x2", tile_size=64))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("size", [25, 64, 3, 2, 1])
def test_the_ranks_shares_are_the_batch_in_order_and_differ_by_one_at_most(size, ranks):
    batch = torch.from_numpy(np.random.default_rng(0).permutation(1000)[:size])
    shares = [batches.rank_share(batch, rank, ranks) for rank in range(ranks)]
    assert torch.equal(torch.cat(shares), batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_25_tiles_are_13_and_12_on_two_ranks():
    assert [len(batches.rank_share(torch.arange(25), rank, 2)) for rank in (0, 1)] == [13, 12]


@pytest.mark.parametrize("tiles", [1, 31, 32, 33, 75, 675])
def test_evaluation_chunks_are_the_same_on_any_number_of_ranks_and_hold_each_tile_once(tiles):
    def rows(rank: int, ranks: int) -> list[list[int]]:
        return [list(range(tiles))[chunk] for chunk in batches.evaluation_chunks(tiles, rank, ranks)]

    alone = rows(0, 1)
    assert [row for chunk in alone for row in chunk] == list(range(tiles))
    for ranks in (2, 3, 5):
        parts = [rows(rank, ranks) for rank in range(ranks)]
        assert sorted(chunk for part in parts for chunk in part) == alone


def test_epochs_visit_every_tile_once_in_an_order_of_their_own():
    orders = [
        batches.epoch_order(100, seed=seed, epoch=epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert batches.epoch_order(100, seed=1, epoch=0).tolist() == orders[2]


def test_an_epoch_of_few_tiles_goes_through_all_of_them_as_often_as_its_steps_take():
    train = TrainConfig(batch_size=16, epoch_steps=50)
    # 800 tiles of 48 are 16.7 passes, so 17, which are 816 tiles; of 801 one pass is 51 steps.
    assert (train.passes(48), train.steps(48)) == (17, 51)
    assert (train.passes(801), train.steps(801)) == (1, 51)
    assert (TrainConfig(batch_size=16).passes(48), TrainConfig(batch_size=16).steps(48)) == (1, 3)
    order = batches.epoch_order(48, seed=0, epoch=3, passes=17)
    assert order[:48].tolist() == batches.epoch_order(48, seed=0, epoch=3).tolist()
    assert all(sorted(one) == list(range(48)) for one in order.reshape(17, 48).tolist())
    assert len({tuple(one) for one in order.reshape(17, 48).tolist()}) == 17


def test_a_source_lays_out_all_tiles_and_reads_those_of_its_rows(source, tiny_dataset):
    assert len(source.tiles) == 64
    assert source.classes == 3
    rows = np.array([63, 0, 17])
    counts, labels, keys = source.read(rows)
    # Row 17 is tile 1 of slice index 4, whose number is 5.
    assert keys.tolist() == [[16, 64, 64], [1, 0, 0], [5, 0, 64]]
    expected_counts, expected_labels = store.read_tiles(
        tiny_dataset, np.array([(15, 64, 64), (0, 0, 0), (4, 0, 64)]), 64
    )
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_array_equal(labels, expected_labels)


def test_clean_tiles_are_divided_by_65535(source):
    rows = source.split.train
    counts, labels, _ = source.read(rows)
    tiles = training_tiles.validation_set(source, rows, TrainConfig(), CPU)
    assert (tiles.images.shape, tiles.images.dtype) == ((len(rows), 1, 64, 64), torch.float32)
    np.testing.assert_array_equal(tiles.images.numpy()[:, 0], counts.astype(np.float32) / np.float32(65_535))
    np.testing.assert_array_equal(tiles.labels.numpy(), labels)
    assert tiles.labels.dtype == torch.uint8


def test_noise_is_added_in_counts_before_the_division(source):
    rows = np.arange(32)
    noisy = training_tiles.validation_set(source, rows, TrainConfig(noise_fraction=1.0, noise_sigma_max=10_000), CPU)
    clean = training_tiles.validation_set(source, rows, TrainConfig(), CPU)
    deviations = (noisy.images - clean.images).std(dim=(1, 2, 3)) * 65_535
    # 32 sigmas of U(0, 10000): mean 5000 with a standard error of 10000 / sqrt(12 x 32) = 510.
    assert float(deviations.mean()) == pytest.approx(5_000, abs=4 * 510)
    # The largest may exceed 10000 by the error of a deviation of 4096 pixels, 1.1 %.
    assert float(deviations.max()) < 10_000 * (1 + 4 * 0.011)


def test_a_training_tile_is_the_same_in_any_order_and_company(source):
    config = TrainConfig(noise_fraction=0.5, seed=9)
    rows = source.split.train
    whole = training_tiles.validation_set(source, rows, config, CPU)
    order = np.random.default_rng(2).permutation(len(rows))[:11]
    part = training_tiles.validation_set(source, rows[order], config, CPU)
    assert torch.equal(part.images, whole.images[order])
    assert torch.equal(part.labels, whole.labels[order])


def test_slices_of_numbers_below_zero_have_noise_as_others_have(tiny_folder, tmp_path):
    """As those of a scan that is counted from its middle, z_-3.tif."""
    for kind in ("data", "labels"):
        (tmp_path / kind).mkdir()
        for number, path in enumerate(sorted((tiny_folder / kind).iterdir()), start=-3):
            shutil.copy(path, tmp_path / kind / f"z_{number}.tif")
    info = pack(tmp_path / "data", tmp_path / "labels", tmp_path / "a.h5", command="test")
    assert info.numbers.tolist() == list(range(-3, 13))
    source = batches.open_source(tmp_path / "a.h5", DataConfig(tiles="2x2", tile_size=64))
    rows, config = np.arange(len(source.tiles)), TrainConfig(noise_fraction=1.0)
    noisy, clean = (training_tiles.validation_set(source, rows, one, CPU).images for one in (config, TrainConfig()))
    added = (noisy - clean) / (noisy - clean).std(dim=(1, 2, 3), keepdim=True)
    # Each tile has its own: that of slice -3 is not that of slice 3. 4096 pixels correlate by 1 / 64.
    correlations = torch.corrcoef(added.flatten(1)).fill_diagonal_(0)
    assert added.isfinite().all() and correlations.abs().max() < 6 / 64


def test_every_epoch_sees_the_same_tiles_where_nothing_is_drawn_anew(source):
    tiles = training_tiles.TrainingTiles(source, source.split.train, TrainConfig(noise_fraction=0.5), CPU)
    assert tiles.of_epoch(0) is tiles.of_epoch(7)
    whole = training_tiles.validation_set(source, source.split.train, TrainConfig(noise_fraction=0.5), CPU)
    assert torch.equal(tiles.of_epoch(0).images, whole.images)
    assert len(tiles) == len(source.split.train)
    assert tiles.pixels == len(tiles) * 64 * 64


def test_noise_anew_in_each_epoch_depends_on_the_epoch_and_the_seed_alone(source):
    config = TrainConfig(noise_fraction=1.0, noise_each_epoch=True)
    tiles, again = (training_tiles.TrainingTiles(source, source.split.train, config, CPU) for _ in range(2))
    clean = training_tiles.validation_set(source, source.split.train, TrainConfig(), CPU)
    for epoch in (0, 1):
        assert torch.equal(tiles.of_epoch(epoch).images, again.of_epoch(epoch).images)
        assert torch.equal(tiles.of_epoch(epoch).labels, clean.labels)
        assert not torch.equal(tiles.of_epoch(epoch).images, clean.images)
    assert not torch.equal(tiles.of_epoch(0).images, tiles.of_epoch(1).images)


@pytest.mark.parametrize(("augment", "moves"), [("flips", 4), ("symmetries", 8)])
def test_augmented_tiles_are_moved_with_their_labels_by_a_draw_of_the_epoch(source, augment, moves):
    rows = source.split.train
    tiles = training_tiles.TrainingTiles(source, rows, TrainConfig(augment=augment), CPU)
    plain = training_tiles.validation_set(source, rows, TrainConfig(), CPU)
    epoch = tiles.of_epoch(3)
    drawn = batches.epoch_symmetries(len(rows), augment=augment, seed=0, epoch=3)
    assert set(drawn.tolist()) == set(range(moves))
    for row, move in enumerate(drawn.tolist()):
        for moved, still in ((epoch.images[row, 0], plain.images[row, 0]), (epoch.labels[row], plain.labels[row])):
            expected = still.numpy().T if move & 4 else still.numpy()
            expected = expected[::-1] if move & 1 else expected
            expected = expected[:, ::-1] if move & 2 else expected
            np.testing.assert_array_equal(moved.numpy(), expected)
    assert not np.array_equal(drawn, batches.epoch_symmetries(len(rows), augment=augment, seed=0, epoch=4))
    assert not np.array_equal(drawn, batches.epoch_symmetries(len(rows), augment=augment, seed=1, epoch=3))


def test_the_eight_symmetries_are_all_different(source):
    plain = training_tiles.validation_set(source, np.zeros(8, dtype=np.int64), TrainConfig(), CPU)
    moved = tile_sets.transformed(plain, np.arange(8)).images
    assert len({image.numpy().tobytes() for image in moved}) == 8


def test_other_levels_of_the_test_set_have_their_own_images(source):
    levels = (NoiseLevel(5_000, "uniform"), NoiseLevel(10_000, fraction=0.5))
    tests = noisy_tiles.noisy_set(source, source.split.test, levels=(NoiseLevel(0), *levels), seed=4, device=CPU)
    counts, _, keys = source.read(source.split.test)
    for level in levels:
        images, labels = tests.take(slice(None), level)
        expected = noise.noisy_tests(counts, keys, level, seed=4, grey=source.info.grey) / np.float32(65_535)
        np.testing.assert_array_equal(images.numpy()[:, 0], expected)
        assert torch.equal(labels, tests.clean.labels.long())


STRONG = NoiseLevel(20_000.0)
EVERY = (NoiseLevel(0.0), NoiseLevel(5_000.0), STRONG, NoiseLevel(5_000.0, "offset"))


def reading(tiny_dataset, **settings):
    """64 tiles as in `source`, with other settings."""
    return batches.open_source(tiny_dataset, DataConfig(tiles="2x2", tile_size=64, **settings))


def in_counts(source, level):
    """The test tiles with the noise of a level, (T, 64, 64) float64, with numpy alone."""
    counts, _, keys = source.read(source.split.test)
    if level.model == "offset":
        return noise.noisy_tests(counts, keys, level, seed=4, grey=source.info.grey).astype(np.float64)
    return counts + level.sigma * noise.test_noise(keys, size=64, seed=4).astype(np.float64)


@pytest.mark.parametrize("level", EVERY, ids=lambda level: level.key)
@pytest.mark.parametrize("normalise", ["tile", "set"])
def test_tiles_reach_from_0_to_1_each_by_itself_or_all_together_after_the_noise(tiny_dataset, normalise, level):
    source = reading(tiny_dataset, normalise=normalise)
    tests = noisy_tiles.noisy_set(source, source.split.test, levels=EVERY, seed=4, device=CPU)
    images = tests.take(slice(None), level)[0].numpy()[:, 0]
    noisy = in_counts(source, level)
    axes = (1, 2) if normalise == "tile" else (0, 1, 2)
    low, high = noisy.min(axes, keepdims=True), noisy.max(axes, keepdims=True)
    # Counts up to 150000 in float32 are off by 2**-7 at most, of spans of 10000 and more.
    np.testing.assert_allclose(images, (noisy - low) / (high - low), atol=4e-6)
    ends = images.reshape(len(images), -1)
    reached = (ends.min(1) == 0) & (ends.max(1) == 1)
    assert reached.all() if normalise == "tile" else images.min() == 0 and images.max() == 1 and not reached.all()


def test_training_and_validation_tiles_have_the_ends_of_their_own_sets(tiny_dataset):
    source, plain = reading(tiny_dataset, normalise="set"), reading(tiny_dataset)
    config = TrainConfig(noise_fraction=0.5)
    for rows in (source.split.train, source.split.validation):
        images, counts = (training_tiles.validation_set(one, rows, config, CPU).images for one in (source, plain))
        assert (images.min(), images.max()) == (0, 1)
        expected = (counts - counts.min()) / (counts.max() - counts.min())
        torch.testing.assert_close(images, expected, rtol=0, atol=4e-6)
    anew = training_tiles.TrainingTiles(
        source, source.split.train, TrainConfig(noise_fraction=1.0, noise_each_epoch=True), CPU
    )
    assert all((anew.of_epoch(epoch).images.min(), anew.of_epoch(epoch).images.max()) == (0, 1) for epoch in (0, 1))


def test_a_tile_of_one_grey_value_becomes_0(tiny_dataset):
    flat = np.full((2, 64, 64), 7, dtype=np.uint16)
    flat[1, 0, 0] = 9
    images = reading(tiny_dataset, normalise="tile").normalised(flat)
    assert not images[0].any() and images[1].sum() == 1


@pytest.mark.parametrize("rule", ["clip", "wrap"])
def test_noisy_values_of_training_and_test_tiles_stay_in_the_range_of_the_type(tiny_dataset, rule):
    source, plain = reading(tiny_dataset, out_of_range=rule), reading(tiny_dataset)
    config = TrainConfig(noise_fraction=1.0, noise_sigma_max=40_000)
    tests = [noisy_tiles.noisy_set(one, one.split.test, levels=EVERY, seed=4, device=CPU) for one in (source, plain)]
    sets = [training_tiles.validation_set(one, source.split.train, config, CPU).images for one in (source, plain)]
    for images, kept in [sets, [of.take(slice(None), STRONG)[0] for of in tests]]:
        assert kept.min() < 0 and kept.max() > 1
        if rule == "clip":
            torch.testing.assert_close(images, kept.clamp(0, 1), rtol=0, atol=1e-6)
            continue
        # Rounded to whole counts, so off by a half; and 65535.5 is as near to 65535 as to 0.
        off = (images - kept.remainder(65_536 / 65_535)).abs()
        assert torch.minimum(off, (off - 65_536 / 65_535).abs()).max() <= 0.6 / 65_535
        assert images.min() >= 0 and images.max() <= 1
    clean = [of.take(slice(None), NoiseLevel(0.0))[0] for of in tests]
    assert torch.equal(*clean)


def test_the_first_slices_alone_are_laid_out_in_all_three_sets(tiny_dataset):
    source = reading(tiny_dataset, slices=6)
    assert len(source.tiles) == 24 and set(source.tiles[:, 0]) == set(range(6))
    sets = np.concatenate([source.split.train, source.split.validation, source.split.test])
    np.testing.assert_array_equal(np.sort(sets), np.arange(24))
    with pytest.raises(DatasetError, match=r"data\.slices is 17, but the file has 16 slices"):
        reading(tiny_dataset, slices=17)


def test_whole_slices_are_read_as_packed(source, tiny_dataset):
    table = np.array([(4, 0, 0)])
    counts, labels = source.read_slice(4)
    expected_counts, expected_labels = store.read_tiles(tiny_dataset, table, min(counts.shape))
    np.testing.assert_array_equal(counts[: expected_counts.shape[1], : expected_counts.shape[2]], expected_counts[0])
    np.testing.assert_array_equal(labels[: expected_labels.shape[1], : expected_labels.shape[2]], expected_labels[0])
    assert set(source.test_slices()) == set(source.tiles[source.split.test, 0])


def test_a_cover_reaches_every_pixel_of_a_slice(tiny_dataset):
    cover = batches.open_source(tiny_dataset, DataConfig(tiles="cover", tile_size=48))
    seen = np.zeros(cover.info.shape, dtype=bool)
    for index, y, x in cover.tiles:
        seen[index, y : y + 48, x : x + 48] = True
    assert seen.all()


def test_taking_rows_gives_images_and_labels_for_the_loss(source):
    tiles = training_tiles.validation_set(source, np.arange(10), TrainConfig(), CPU)
    images, labels = tiles.take(torch.tensor([7, 2]))
    assert torch.equal(images, tiles.images[[7, 2]])
    assert torch.equal(labels, tiles.labels[[7, 2]].long())
    assert labels.dtype == torch.int64


def test_all_noise_levels_of_the_test_set_share_one_draw(source):
    tests = noisy_tiles.noisy_set(source, source.split.test, levels=(), seed=4, device=CPU)
    rows = torch.arange(len(tests))
    clean, labels = tests.take(rows, NoiseLevel(0.0))
    counts, expected_labels, _ = source.read(source.split.test)
    np.testing.assert_array_equal(clean.numpy()[:, 0], counts.astype(np.float32) / np.float32(65_535))
    np.testing.assert_array_equal(labels.numpy(), expected_labels)

    unit = (tests.take(rows, NoiseLevel(65_535.0))[0] - clean).numpy()
    # 10 tiles of 4096 pixels: standard error of the deviation 1 / sqrt(2 x 40960).
    assert unit.std() == pytest.approx(1, rel=4 / np.sqrt(2 * unit.size))
    for sigma in (1_000.0, 5_000.0, 30_000.0):
        noisy = (tests.take(rows, NoiseLevel(sigma))[0] - clean).numpy()
        # Three roundings in float32 of numbers up to 6, so within a few units of 6 x 2**-24.
        np.testing.assert_allclose(noisy, unit * sigma / 65_535, atol=4 * 6 * 2**-24)


def test_the_evaluations_seed_alone_decides_the_test_noise(source):
    once, again, other = (
        noisy_tiles.noisy_set(source, source.split.test, levels=(), seed=seed, device=CPU) for seed in (4, 4, 5)
    )
    assert torch.equal(once.unit, again.unit)
    assert not torch.equal(once.unit, other.unit)
    assert torch.equal(once.clean.images, other.clean.images)


def test_tiles_that_do_not_fit_and_too_few_slices_are_refused(tiny_dataset):
    with pytest.raises(ConfigError, match="at most 128"):
        batches.open_source(tiny_dataset, DataConfig(tile_size=129))
    with pytest.raises(DatasetError, match="too few for a blocked split"):
        batches.open_source(tiny_dataset, DataConfig(split="blocked", gap_slices=5))
