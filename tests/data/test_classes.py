"""What label values mean: classes and their names, values that are one class, and values that are none."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg, refused, write_image, write_label

from hpcseg.config import CellConfig, DataConfig, TrainConfig
from hpcseg.data import store
from hpcseg.data.classes import read_class_map
from hpcseg.data.sets import describe_sets
from hpcseg.data.store import read_info
from hpcseg.errors import ConfigError
from hpcseg.runs.finding import plan_run

NAMES = "0=pore, 128=YSZ,255=Ni = metal"


def relabel(folder, number, change):
    """Change the label of a slice, (40, 48) uint8 or of whatever type comes out."""
    file = folder / "labels" / f"label{number}.tif"
    tifffile.imwrite(file, change(tifffile.imread(file)))


def runs_by_name(said):
    return dict(zip(said.names, said.runs, strict=True))


def packed_labels(file):
    """(N, H, W) class indices."""
    return store.read_slices(file, 0, read_info(file).shape[0])[1]


def test_classes_are_said_by_label_value_and_merged():
    said = read_class_map("0=pore,1-9=grain, -5--2=hole,12 = grain", [255, -1, 255])
    assert runs_by_name(said) == {"pore": ((0, 0),), "grain": ((1, 9), (12, 12)), "hole": ((-5, -2),)}
    assert said.ignored == (-1, 255)
    expected = {"pore": ((0, 0),), "YSZ": ((128, 128),), "Ni = metal": ((255, 255),)}
    assert runs_by_name(read_class_map(NAMES)) == expected


def test_a_file_of_classes_says_the_same(tmp_path):
    file = tmp_path / "classes.toml"
    file.write_text('pore = 0\ngrain = ["1-9", 12]\n"Ni, metal" = "-5 - -2"\n', encoding="utf-8-sig")  # as of Windows
    assert runs_by_name(read_class_map(str(file))) == {
        "pore": ((0, 0),), "grain": ((1, 9), (12, 12)), "Ni, metal": ((-5, -2),),
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "pore", "0=", "=pore", "a=pore", "0=pore,", "1-=a,0=b", "5-1=a,0=b", "0=a,0=b", "0-9=a,4=b", "0=a,1 2=b"],
)
def test_what_is_no_list_of_classes_is_refused(text):
    with pytest.raises(ConfigError, match="--classes"):
        read_class_map(text)


def test_spaces_round_values_and_names_do_not_count():
    assert read_class_map(" 0 = pore, 1 - 9 = the grain ") == read_class_map("0=pore,1-9=the grain")


@pytest.mark.parametrize("text", ["0=pore,100:grain", "0=pore;100=grain", "pore=0"])
def test_a_text_of_another_form_is_told_the_right_one(text):
    with pytest.raises(ConfigError, match=r"--classes has .* Say VALUE=NAME, separated by commas: "):
        read_class_map(text)


@pytest.mark.parametrize("content", ["pore", "pore = 0.5\nb = 1", "[pore]\na = 0", "pore = true\nb = 1", "a = ['x']"])
def test_a_file_of_no_classes_is_refused_by_its_name(content, tmp_path):
    (tmp_path / "classes.toml").write_text(content)
    with pytest.raises(ConfigError, match=r"classes\.toml"):
        read_class_map(str(tmp_path / "classes.toml"))
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        read_class_map("nowhere.toml")


def test_a_class_is_not_left_out():
    with pytest.raises(ConfigError, match='--classes has 5 twice, as "grain" and as --ignore'):
        read_class_map("0=pore,1-9=grain", [5])


def test_names_are_in_the_packed_file_and_change_neither_pixels_nor_hash(good, tmp_path):
    plain, named = (tmp_path / f"{name}.h5" for name in ("plain", "named"))
    assert hpcseg("pack", good, "-o", plain).exit_code == 0
    said = hpcseg("pack", good, "-o", named, "--classes", NAMES)
    assert said.exit_code == 0 and "pore (0): 33.3%" in said.stdout
    infos = [read_info(file) for file in (plain, named)]
    assert [info.class_names for info in infos] == [("0", "128", "255"), ("pore", "YSZ", "Ni = metal")]
    assert len({info.data_sha256 for info in infos}) == 1
    assert json.loads(hpcseg("info", named, "--json").stdout)["class_names"] == ["pore", "YSZ", "Ni = metal"]


def test_a_class_that_no_label_has_is_refused(good, output):
    said = hpcseg("pack", good, "-o", output, "--classes", "0=pore,128=YSZ,255=Ni,127=gap")
    assert said.exit_code == 2 and "--classes has gap (127), but no label has a pixel of it" in said.stderr
    assert not output.exists()


def test_a_value_that_the_map_does_not_have_is_refused_with_file_number_of_pixels_and_options(good, output):
    def stray(label):
        label[3, 4:7] = 77
        return label

    relabel(good, 2, stray)
    said = refused(good, output, "--classes", NAMES)
    assert "label2.tif has 3 pixels of the value 77, which no class of --classes has" in said
    assert "--ignore 77" in said
    assert hpcseg("pack", good, "-o", output, "--classes", NAMES, "--ignore", "77").exit_code == 0
    assert (packed_labels(output)[1, 3, 4:7] == 255).all()


def test_merged_values_are_one_class_under_the_least_of_them(good, output):
    expected = np.stack([tifffile.imread(good / "labels" / f"label{number}.tif") > 0 for number in (1, 2, 3)])
    assert hpcseg("pack", good, "-o", output, "--classes", "0=pore,100-200=solid,255=solid").exit_code == 0
    info = read_info(output)
    assert (info.class_values, info.class_names) == ((0, 100), ("pore", "solid"))
    np.testing.assert_array_equal(packed_labels(output), expected)
    assert hpcseg("info", output, "--verify").exit_code == 0


def test_ignored_values_are_no_class_and_are_counted_as_none(good, output):
    labels = np.stack([tifffile.imread(good / "labels" / f"label{number}.tif") for number in (1, 2, 3)])
    said = hpcseg("pack", good, "-o", output, "--ignore", "255", "--ignore", "-1")
    assert said.exit_code == 0, said.output
    info = read_info(output)
    assert (info.class_values, info.ignored_values) == ((0, 128), (-1, 255))
    np.testing.assert_array_equal(info.ignored_pixels, (labels == 255).sum((1, 2)))
    np.testing.assert_array_equal(packed_labels(output) == 255, labels == 255)
    assert "have no class, since they are labelled -1 or 255" in " ".join(said.stderr.split())
    assert hpcseg("info", output, "--verify").exit_code == 0


def test_labels_with_minus_one_for_none(good, output):
    """As scikit-learn and many scripts mark what is not labelled."""

    def unlabelled(label):
        label = label.astype(np.int16)
        label[:10] = -1
        return label

    for number in (1, 2, 3):
        relabel(good, number, unlabelled)
    assert hpcseg("pack", good, "-o", output, "--ignore", "-1").exit_code == 0
    assert read_info(output).class_values == (0, 128, 255)
    assert (packed_labels(output)[:, :10] == 255).all() and (packed_labels(output)[:, 10:] < 3).all()


def test_ignoring_is_another_data_set_and_so_is_ignoring_elsewhere(good, tmp_path):
    hashes = []
    for name, options in {"all": (), "one": ("--ignore", "255"), "two": ("--ignore", "0")}.items():
        assert hpcseg("pack", good, "-o", tmp_path / f"{name}.h5", *options).exit_code == 0
        hashes.append(read_info(tmp_path / f"{name}.h5").data_sha256)
    relabel(good, 1, lambda label: np.where(label == 255, 0, label).astype(np.uint8))
    assert hpcseg("pack", good, "-o", tmp_path / "moved.h5", "--ignore", "255").exit_code == 0
    hashes.append(read_info(tmp_path / "moved.h5").data_sha256)
    assert len(set(hashes)) == 4


@pytest.mark.parametrize("text", ["-1=none,0=pore,128-255=solid", "0=pore,128-255=solid,256=none"])
def test_a_class_of_values_that_no_label_can_hold_is_left_out(good, output, text):
    assert "but no label has a pixel of it. Leave it out" in refused(good, output, "--classes", text, code=2)


def test_a_class_is_written_as_its_first_value_that_labels_can_hold(good, output):
    assert hpcseg("pack", good, "-o", output, "--classes", "-5-0=pore,128-999=solid").exit_code == 0
    assert read_info(output).class_values == (0, 128)
    assert "there already" in hpcseg("pack", good, "-o", output, "--classes", "-5-0=pore,128-999=solid").stderr


def test_classes_are_in_the_order_of_the_values_that_labels_can_hold(good, output):
    assert hpcseg("pack", good, "-o", output, "--classes", "-1=other,255=other,0=pore,128=pore").exit_code == 0
    info = read_info(output)
    assert (info.class_values, info.class_names) == ((0, 255), ("pore", "other"))


def test_a_value_that_no_packed_file_can_hold_is_refused_before_a_slice_is_read(good, output):
    assert "--ignore is 18446744073709551615, and label values are" in refused(
        good, output, "--ignore", str(2**64 - 1), code=2
    )


def test_the_least_value_of_all_may_be_left_out(good, output):
    """That is what a missing value becomes that is made a whole number of 64 bits."""
    least = np.iinfo(np.int64).min
    files = sorted((good / "labels").iterdir())
    for file in files:
        label = tifffile.imread(file).astype(np.int64)
        label[0] = least
        np.save(file.with_suffix(".npy"), label)
    stack = np.stack([np.load(file.with_suffix(".npy")) for file in files])
    np.save(good / "labels.npy", stack)
    given = ("--images", good / "data", "--labels", good / "labels.npy", "-o", output)
    assert f"--ignore {least}" in " ".join(hpcseg("pack", *given).stderr.split())
    assert hpcseg("pack", *given, "--force", "--ignore", str(least)).exit_code == 0
    assert least not in read_info(output).class_values


def test_slices_with_hardly_a_labelled_pixel_are_noted_by_pack_and_where_they_are_a_set(good, output):
    def click(label):
        label[:] = 255
        label[3, 4] = 0
        return label

    for number in (1, 2, 3):
        for kind in ("image", "label"):
            file = next(good.glob(f"*/{kind}{number}.tif"))
            shutil.copy(file, file.with_name(f"{kind}{number + 3}.tif"))
    for number in range(1, 6):
        relabel(good, number, click)
    said = " ".join(hpcseg("pack", good, "-o", output, "--ignore", "255").stderr.split())
    assert "5 of 6 slices have hardly a labelled pixel, such as label1.tif: 1, where the mean is" in said
    layout = DataConfig(tiles="cover", tile_size=16, split="blocked", gap_slices=1)
    sets = list(describe_sets(read_info(output), [CellConfig(data=layout)]))
    # 9 tiles are 1 batch of 25.
    assert sum("a training is 15 steps, in which it learns little" in line for line in sets) == 1
    assert any("learns little. Take more: train.epoch_steps, as 50." in line for line in sets)
    set_already = describe_sets(
        read_info(output), [CellConfig(data=layout, train=TrainConfig(epochs=2, epoch_steps=50))]
    )
    # 139 passes of 9 tiles are 51 batches of 25.
    assert any("102 steps, in which it learns little. Take more: train.epochs." in line for line in set_already)
    many = describe_sets(read_info(output), [CellConfig(data=layout, train=TrainConfig(epoch_steps=10))])
    assert not any("learns little" in line for line in many)
    assert sum("slices have 1 labelled pixel in all, which tell little" in line for line in sets) >= 2


def test_labels_of_one_class_and_none_are_refused(good, output):
    said = refused(good, output, "--ignore", "0", "--ignore", "128")
    assert "have the one value 255 besides 0, 128; classes need two" in said


def test_packing_again_under_other_names_is_another_file_and_under_none_the_same(good, output):
    command = ("pack", good, "-o", output)
    assert hpcseg(*command, "--classes", NAMES).exit_code == 0
    for same in ((), ("--classes", NAMES)):
        assert "there already" in hpcseg(*command, *same).stderr
    for option, other, differs in (
        (
            "--classes",
            "0=hole,128=YSZ,255=Ni",
            "YSZ (128), Ni = metal (255), and these are hole (0)",
        ),
        ("--classes", "0=pore,128-255=solid", "and these are pore (0), solid (128)"),
        ("--ignore", "255", "Ni = metal (255), and these are 0, 128."),
    ):
        said = hpcseg(*command, option, other)
        assert said.exit_code == 2 and differs in " ".join(said.stderr.split())
    assert hpcseg(*command, "--ignore", "255", "--force").exit_code == 0
    assert "there already" in hpcseg(*command, "--ignore", "255").stderr
    for options, ignores in (((), "none"), (("--ignore", "255", "--ignore", "-1"), "-1 and 255")):
        said = hpcseg(*command, *options)
        assert said.exit_code == 2
        assert f"the label values that it ignores are 255, and these are {ignores}" in " ".join(said.stderr.split())


def test_slices_without_a_label_are_left_out_with_a_note(good, output):
    (good / "labels" / "label2.tif").unlink()
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "1 of 3 slices have no label and are left out, such as image2.tif (number 2)" in said
    assert read_info(output).numbers.tolist() == [1, 3]
    assert "there already" in hpcseg("pack", good, "-o", output).stderr


def test_a_stack_of_labels_that_is_shorter_is_refused(good, output):
    stack = good / "labels.tif"
    tifffile.imwrite(stack, np.stack([tifffile.imread(good / "labels" / f"label{number}.tif") for number in (1, 2)]))
    said = hpcseg("pack", "--images", good / "data", "--labels", stack, "-o", output)
    assert said.exit_code == 3 and "1 of 3 slices have no label, such as image3.tif (number 3)" in said.stderr
    assert "labels of some slices only go into a folder" in said.stderr


def test_a_stray_pixel_is_noted_with_its_file_and_the_options(tmp_path):
    folder, output = tmp_path / "big", tmp_path / "big.h5"
    for number in (1, 2, 3):
        write_image(folder, number, shape=(128, 128))
        write_label(folder, number, shape=(128, 128))

    def stray(label):
        label[3, 4] = 77
        return label

    relabel(folder, 2, stray)
    said = " ".join(hpcseg("pack", folder, "-o", output).stderr.split())
    assert "1 of 4 classes have less than 0.01% of the labelled pixels each, such as 77: 1 pixel in label2.tif" in said
    assert "--ignore 77" in said


def test_a_class_that_is_nothing_but_edges_is_noted(good, output):
    for number in (1, 2, 3):
        relabel(good, number, lambda label: np.repeat([[0] * 20 + [100] + [200] * 27], 40, axis=0).astype(np.uint8))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "120 of 120 pixels of 100 in some labels lie where two other classes meet" in said
    assert "--ignore 100" in said
    for number in (1, 2, 3):  # as of labels that were enlarged fourfold
        relabel(good, number, lambda label: np.repeat([[0] * 20 + [100] * 2 + [200] * 26], 40, axis=0).astype(np.uint8))
    assert "240 of 240 pixels of 100 in some" in " ".join(hpcseg("pack", good, "-o", output, "--force").stderr.split())
    for number in (1, 2, 3):  # three pixels wide, as it may have been drawn
        relabel(good, number, lambda label: np.repeat([[0] * 20 + [100] * 3 + [200] * 25], 40, axis=0).astype(np.uint8))
    assert "lie between" not in hpcseg("pack", good, "-o", output, "--force").stderr


def test_numbered_grains_are_noted(good, output):
    relabel(good, 1, lambda label: (np.arange(label.size).reshape(label.shape) // 48).astype(np.uint8))
    packed = hpcseg("pack", good, "-o", output)
    asked = "are these grey values, or instances? --classes names and merges them"
    assert re.search(rf"^Classes +42, from 0 to 255: {re.escape(asked)}$", packed.stdout, re.MULTILINE)
    said = " ".join(packed.stderr.split())
    assert "the labels have 42 classes, such as 1: 48 pixels in label1.tif. If nobody drew them (edges" in said
    assert "grains that are numbered), say which values are one class, as --classes" in said


def test_more_values_than_classes_name_the_option_that_merges(good, output):
    relabel(good, 1, lambda label: np.arange(label.size).reshape(label.shape).astype(np.uint16))
    assert '--classes "0=background,1-65535=grain"' in refused(good, output)
    assert hpcseg("pack", good, "-o", output, "--classes", "0=background,1-65535=grain").exit_code == 0


def test_signed_labels_are_noted(good, output):
    for number in (1, 2, 3):
        relabel(good, number, lambda label: label.view(np.int8))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "the labels are signed 8-bit and have -128, -1, which are 128, 255 in unsigned ones" in said
    for number in (1, 2, 3):
        relabel(good, number, lambda label: np.where(label == -1, -1, 5).astype(np.int32))
    said = " ".join(hpcseg("pack", good, "-o", output, "--force").stderr.split())
    assert "the labels are int32 and have -1. " in said and "is left out with --ignore" in said


def test_classes_that_no_label_has_both_of_are_noted(good, output):
    """As of masks that one program writes with 1 and another with 255."""
    for number in (1, 2, 3, 4):
        write_image(good, number)
        write_label(good, number, values=(0, 1 if number % 2 else 255))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "no label has both 1, as label1.tif, and 255, as label2.tif. If they are one class" in said
    said = " ".join(hpcseg("pack", good, "-o", output, "--classes", "0=a,1=b,255=b", "--force").stderr.split())
    assert "no label has both" not in said
    for number in (1, 2, 3, 4):  # whole slices of one class
        write_label(good, number, values=(number % 2,))
    assert "no label has both" not in hpcseg("pack", good, "-o", output, "--force").stderr


def test_a_label_that_nobody_has_drawn_and_a_class_of_one_slice_are_noted(good, output):
    for number in (4, 5):
        write_image(good, number)
        write_label(good, number)
    relabel(good, 2, lambda label: np.zeros_like(label))
    relabel(good, 3, lambda label: np.where(label == 255, 9, label).astype(np.uint8))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "1 of 5 slices have one class on every pixel, such as 0 in label2.tif. If nobody has labelled them" in said
    assert "9 is in 1 label only, such as label3.tif, so that not every one of the three sets" in said


def test_a_slice_of_one_grey_value_is_noted(good, output):
    tifffile.imwrite(good / "data" / "image2.tif", np.full((40, 48), 700, "uint16"))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "1 of 3 slices have one grey value only, such as 700 in image2.tif" in said


def test_weights_of_other_classes_than_the_data_has_are_refused_before_anything_is_trained(tiny_dataset, tmp_path):
    def planned(weights: str):
        wish = f'train.class_weights="{weights}"'
        return plan_run("smoke", tiny_dataset, tmp_path / "run", (wish, "data.tile_size=32", "data.tiles=1x1"))

    for weights in ("none", "frequency", "1+4+1"):
        assert planned(weights).cells
    for weights, number in (("1+4", "2 numbers"), ("1", "1 number"), ("1+1+1+1", "4 numbers")):
        with pytest.raises(
            ConfigError, match=f"{number}, but the classes of the data are 0, 128, 255: give one for each"
        ):
            planned(weights)


@pytest.mark.parametrize("form", ["folder", "stack"])
def test_slices_on_which_nobody_has_labelled_anything_are_left_out_with_a_note(good, output, form):
    write_label(good, 2, values=(255,))
    write_label(good, 3, values=(255, 254))
    labels = good / "labels"
    if form == "stack":
        stacked = np.stack([tifffile.imread(labels / f"label{number}.tif") for number in (1, 2, 3)])
        labels = good / "labels.tif"
        tifffile.imwrite(labels, stacked, photometric="minisblack")
    command = (
        "pack",
        "--images",
        good / "data",
        "--labels",
        labels,
        "-o",
        output,
        "--ignore",
        "255",
        "--ignore",
        "254",
    )
    said = hpcseg(*command)
    assert said.exit_code == 0, said.output
    note = "2 of 3 slices have no label on any pixel and are left out, such as image2.tif"
    assert note in " ".join(said.stderr.split())
    assert read_info(output).numbers.tolist() == [1]
    assert "there already" in hpcseg(*command).stderr
    write_label(good, 1, values=(254, 255))
    nothing = hpcseg("pack", good, "-o", output, "--ignore", "255", "--ignore", "254", "--force")
    assert nothing.exit_code == 3 and "has a pixel of another value than 254, 255" in nothing.stderr


def test_pixels_outside_of_the_field_of_view_are_no_labelled_ones(good, output):
    pixels = tifffile.imread(good / "data" / "image2.tif").astype(np.float32)
    for number in (1, 2, 3):
        tifffile.imwrite(good / "data" / f"image{number}.tif", pixels)
    label = np.full(pixels.shape, 255, np.uint8)
    label[:4], pixels[:4] = 0, np.nan
    tifffile.imwrite(good / "data" / "image2.tif", pixels)
    tifffile.imwrite(good / "labels" / "label2.tif", label)
    assert hpcseg("pack", good, "-o", output, "--ignore", "255").exit_code == 0
    assert read_info(output).numbers.tolist() == [1, 3]


def test_what_differs_from_what_is_packed_is_said_in_words(good, output):
    command = ("pack", good, "-o", output)
    assert hpcseg(*command).exit_code == 0
    write_image(good, 2, value=7)
    assert "data: image2.tif has other pixels" in hpcseg(*command).stderr
    assert hpcseg(*command, "--classes", "0=pore,1-255=grain", "--force").exit_code == 0
    said = " ".join(hpcseg(*command).stderr.split())
    assert "labels: label1.tif has other pixels, or other classes." in said
    for kind, name in (("data", "image2"), ("labels", "label2")):
        (good / kind / f"{name}.tif").unlink()
    assert "slice 2 is in it and not here." in " ".join(hpcseg(*command).stderr.split())
    for number in (4, 5):
        write_image(good, number)
        write_label(good, number)
    write_image(good, 2)
    write_label(good, 2)
    said = " ".join(hpcseg(*command).stderr.split())
    assert "slice 4 is here and not in it, and so are 1 more" in said


def test_labels_that_are_nan_where_nobody_labelled_are_refused_with_what_to_do(good, output):
    label = tifffile.imread(good / "labels" / "label2.tif").astype(np.float16)
    tifffile.imwrite(good / "labels" / "label2.tif", label)
    assert hpcseg("pack", good, "-o", output).exit_code == 0, "whole numbers of any type are labels"
    output.unlink()
    (output.parent / "packed.png").unlink(missing_ok=True)
    label[:2] = np.nan
    tifffile.imwrite(good / "labels" / "label2.tif", label)
    said = hpcseg("pack", good, "-o", output).stderr
    assert "96 pixels of no whole number" in said and "such as 255, and pack with --ignore 255" in said


def test_labels_that_are_mostly_blank_are_noted(good, output):
    for number in (2, 3):
        relabel(good, number, lambda label: np.zeros_like(label))
    assert "2 of 3 slices have one class on every pixel" in " ".join(hpcseg("pack", good, "-o", output).stderr.split())


def test_grains_that_are_numbered_in_few_labels_are_noted_and_classes_are_not(good, output):
    grains = np.zeros((40, 48), np.uint8)
    for number in range(1, 6):
        grains[2:10, 8 * number : 8 * number + 5] = number
    grains[20:30, 8:12] = 1  # of a grain that a slice cuts twice
    relabel(good, 1, lambda _: grains)
    relabel(good, 2, lambda _: np.roll(grains, 3, axis=0))
    relabel(good, 3, lambda _: np.roll(grains, 6, axis=0))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "each of 5 classes is hardly more than one piece of a label" in said and '"0=pore,1-5=grain"' in said
    relabel(good, 1, lambda _: np.roll(grains, 1, axis=1) + np.roll(grains, 12, axis=0))  # other values where they meet
    assert "hardly more than one piece" not in hpcseg("pack", good, "-o", output, "--force").stderr


def test_labels_that_went_through_jpeg_are_noted_by_their_values_or_their_compression(good, output):
    relabel(good, 1, lambda label: np.where(label == 255, 254, label).astype(np.uint8))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "the labels have both 254 and 255, where others are as far apart as 128. Were they saved as JPEG?" in said
    for number in (1, 2, 3):
        file = good / "labels" / f"label{number}.tif"
        tifffile.imwrite(file, np.kron(tifffile.imread(file), np.ones((1, 1), np.uint8)), compression="jpeg")
    said = " ".join(hpcseg("pack", good, "-o", output, "--force").stderr.split())
    assert "the labels are compressed as JPEG, which may change values" in said


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "jpegxr", "lerc"])
def test_labels_in_a_compression_that_may_change_values_are_noted(good, output, compression):
    relabel(good, 1, lambda label: label)
    assert "may change values" not in hpcseg("pack", good, "-o", output).stderr
    for number in (1, 2, 3):
        file = good / "labels" / f"label{number}.tif"
        tifffile.imwrite(file, tifffile.imread(file), compression=compression, metadata=None)
    assert "which may change values" in " ".join(hpcseg("pack", good, "-o", output, "--force").stderr.split())


@pytest.mark.parametrize(("mark", "dtype"), [(255, np.uint8), (65_535, np.uint16), (-128, np.int8), (255, np.int32)])
def test_a_value_at_the_end_of_its_type_may_mark_what_nobody_labelled(good, output, mark, dtype):
    for number in (1, 2, 3):
        file = good / "labels" / f"label{number}.tif"
        label = tifffile.imread(file).astype(np.int32)
        tifffile.imwrite(file, np.where(label == 255, mark, label // 100).astype(dtype))
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert f"the labels have {mark}, where the others are 0 to 1" in said and f"--ignore {mark}." in said
    assert "JPEG" not in said


def test_masks_that_were_written_in_two_ways_are_noted_as_that_alone(good, output):
    for number in (1, 2, 3):
        relabel(good, number, lambda label: ((label > 0) * (255 if number == 2 else 1)).astype(np.uint8))  # noqa: B023
    copy = good / "labels" / "label4.tif"
    shutil.copy(good / "labels" / "label2.tif", copy)
    shutil.copy(good / "data" / "image2.tif", good / "data" / "image4.tif")
    said = " ".join(hpcseg("pack", good, "-o", output).stderr.split())
    assert "no label has both 1, as" in said and "JPEG" not in said and "--ignore" not in said


def test_images_and_labels_that_are_the_same_files_are_refused(good, output):
    answer = hpcseg("pack", "--images", good / "labels", "--labels", good / "labels", "-o", output)
    assert answer.exit_code == 3 and "images and labels are the same files; name the labels" in answer.stderr
