"""One tool in a process of its own: it learns from labelled slices until the time is over, or segments slices.

    python results/peers/tools.py train|predict TOOL FOLDER

peers.py puts into FOLDER: task.json, train.npz with `images` (N, H, W) uint16 and `labels` (N, H, W) uint8, class
indices, and test-SIGMA.npy (M, H, W) uint16. `train` leaves a model and train.json, with the seconds for which it
learned; `predict` predicted-SIGMA.npy (M, H, W) uint8 and predict.json, with the seconds of each. A tool loads its
packages in its own functions alone.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from hpcseg.memory import peak_bytes

Segment = Callable[[np.ndarray], np.ndarray]
"""(M, H, W) uint16 to (M, H, W) class indices."""

# The shipped job for slices of one's own (tiles over all of each slice, symmetries, half of the tiles noisy), with less
# width, for a CPU, and with one cycle, since minutes are few. Its own test is kept small: here it is not looked at.
HPCSEG = {"train.width": 16, "train.schedule": "one-cycle", "train.seed": 0}
# The blocks that it is given are far apart already.
HPCSEG |= {"evaluate.whole_slices": False, "evaluate.mixed_fraction": 0.0, "data.gap_slices": 1}


def hpcseg_train(folder: Path, task: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Two epochs say how many fit into the time; then as many, from the beginning."""
    import hpcseg.api as hs
    from hpcseg.data.layout import lay_out
    from hpcseg.jobfile import as_overrides, find_shipped, load_job
    from hpcseg.runs.folder import CellFolder
    from hpcseg.runs.record import read_json, read_lines

    beside = task["beside"]
    with np.load(folder / "beside.npz") as more:
        images, labels = np.concatenate([images, more["images"]]), np.concatenate([labels, more["labels"]])
    for number, image, label in zip(task["numbers"] + beside["numbers"], images, labels, strict=True):
        for name, pixels in (("data", image), ("labels", label)):
            (folder / "slices" / name).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / "slices" / name / f"slice_{number:04}.tif", pixels)
    info = hs.pack(folder / "slices", folder / "set.h5", grey_range=tuple(task["grey_range"]))
    settings = HPCSEG | {"data.split_seed": beside["split_seed"]}
    data = load_job(find_shipped("job", "segment"), as_overrides(settings)).cells[0].data
    tiles, split = lay_out(info, data)
    learned = info.numbers[np.unique(tiles[split.train, 0])].tolist()
    assert learned == sorted(task["numbers"]), "hpcseg would learn from other slices"

    def train(name: str, epochs: int) -> Path:
        more = settings | {"train.epochs": epochs}
        return hs.train(folder / "set.h5", out=folder / name, job="segment", settings=more, say=print)

    events = read_lines(CellFolder(train("sizing", 2)).events_file)
    epoch = [event["seconds"] for event in events if event["event"] == "epoch"][-1]
    epochs = max(1, round(task["seconds"] / epoch))
    cell = train("run", epochs)
    (folder / "model.txt").write_text(str(cell))
    record = read_json(CellFolder(cell).training_file)
    return {"seconds": record["seconds"], "epochs": epochs, "steps": record["steps"], "precision": record["precision"]}


def hpcseg_predict(folder: Path, task: dict[str, Any]) -> Segment:
    """The labels of the packed file are class indices, and so are those predicted."""
    import hpcseg.api as hs

    model = hs.load_model((folder / "model.txt").read_text())
    return lambda images: hs.predict(model, images)


def _nnunet(folder: Path, task: dict[str, Any]) -> None:
    """What nnU-Net reads as it is imported."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ.update(nnUNet_def_n_proc=str(task["threads"]), nnUNet_n_proc_DA=str(task["threads"]))


def nnunet_train(folder: Path, task: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Its fingerprint, plan, preprocessing, network, loss, augmentation and optimizer; its length is the clock's.

    `fold all`: it learns from all slices. Without the validation after each epoch, of which nothing follows.
    """
    _nnunet(folder, task)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as Trainer

    raw, made = folder / "raw" / "Dataset001_peers", folder / "preprocessed" / "Dataset001_peers"
    for name, ending, pixels in (("imagesTr", "_0000", images), ("labelsTr", "", labels)):
        (raw / name).mkdir(parents=True)
        for index, one in enumerate(pixels):
            tifffile.imwrite(raw / name / f"slice{index:04}{ending}.tif", one)
    about = {"channel_names": {"0": "xray"}, "numTraining": len(images), "file_ending": ".tif"}
    about |= {"labels": {"background" if index == 0 else str(index): index for index in range(task["classes"])}}
    about |= {"overwrite_image_reader_writer": "NaturalImage2DIO"}
    (raw / "dataset.json").write_text(json.dumps(about))
    planning.extract_fingerprints([1], num_processes=task["threads"])
    # A plan for 8 GB, the default, has steps that take minutes on a CPU.
    planning.plan_experiments([1], gpu_memory_target_in_gb=1)
    planning.preprocess([1], configurations=("2d",), num_processes=(task["threads"],))
    # Augmentation in the training's own process: there is no core beside those that it computes on.
    os.environ.update(nnUNet_n_proc_DA="0")
    spent: dict[str, Any] = {"steps": 0}

    # Of the name by which its prediction finds it: the model is none of ours.
    class nnUNetTrainer(Trainer):
        def run_training(self) -> None:
            self.on_train_start()
            self.network.train()
            began = time.monotonic()
            while (gone := (time.monotonic() - began) / task["seconds"]) < 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - gone) ** 0.9
                self.train_step(next(self.dataloader_train))
                spent["steps"] += 1
            spent["seconds"] = time.monotonic() - began
            self.on_train_end()

    plans = json.loads((made / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    plan = plans["configurations"]["2d"]
    device = torch.device("cpu")
    nnUNetTrainer(plans, "2d", "all", json.loads((made / "dataset.json").read_text()), device).run_training()
    return spent | {"patch": plan["patch_size"], "batch": plan["batch_size"]}


def nnunet_predict(folder: Path, task: dict[str, Any]) -> Segment:
    """As its command predicts by default: overlapping windows, each mirrored as well."""
    _nnunet(folder, task)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    model = folder / "results" / "Dataset001_peers" / "nnUNetTrainer__nnUNetPlans__2d"
    predictor.initialize_from_trained_model_folder(str(model), ("all",), "checkpoint_final.pth")
    properties = {"spacing": (999, 1, 1)}

    def one(image: np.ndarray) -> np.ndarray:
        return predictor.predict_single_npy_array(image[None, None].astype(np.float32), properties)[0]

    return lambda images: np.stack([one(image) for image in images])


VOLSEG_SIZE, VOLSEG_FILE = 256, "volseg-settings/2d_model_train_settings.yaml"
# The settings of the tool's repository, but for what is said in the README. The rate is the upper end of those that its
# former trainer searched: with the lower end, weights from nothing learn next to nothing in minutes.
VOLSEG = """{data_im_dirname: data, seg_im_out_dirname: seg, model_output_fn: model, data_hdf5_path: /data,
 seg_hdf5_path: /data, clip_data: true, st_dev_factor: 2.575, minmax_norm: false, downsample: false, training_axes: Z,
 image_size: 256, training_set_proportion: 0.85, cuda_device: 0, num_cyc_frozen: 0, num_cyc_unfrozen: 1000000,
 patience: 1000000, starting_lr: 0.001, random_seed: 0, quality: low, prediction_axis: Z, one_hot: false,
 output_probs: false, output_entropy: false, model: {type: U_Net, encoder_name: resnet34, encoder_weights: null}}
"""


def volseg_train(folder: Path, task: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Its command, with a trainer that stops in time; its volumes are parts of the slices that cover them together."""
    os.environ["VOLSEG_NUM_WORKERS"] = "0"
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import Timer
    from volume_segmantics.scripts import train_2d_model

    spent: dict[str, Any] = {}

    class Trainer(lightning.Trainer):
        def fit(self, *arguments: Any, **options: Any) -> None:
            super().fit(*arguments, **options)
            (timer,) = (one for one in self.callbacks if isinstance(one, Timer))
            spent.update(seconds=timer.time_elapsed("train"), steps=self.global_step, epochs=self.current_epoch)

    lightning.Trainer = lambda **options: Trainer(max_time=timedelta(seconds=task["seconds"]), **options)
    (folder / "volseg-settings").mkdir()
    (folder / VOLSEG_FILE).write_text(VOLSEG)
    starts = [np.linspace(0, edge - VOLSEG_SIZE, -(-edge // VOLSEG_SIZE)).astype(int) for edge in images.shape[1:]]
    files: dict[str, list[str]] = {"data": [], "labels": []}
    for y, x in itertools.product(*starts):
        for name, pixels in (("data", images), ("labels", labels)):
            files[name].append(str(folder / f"{name}-{y}-{x}.tif"))
            part = pixels[:, y : y + VOLSEG_SIZE, x : x + VOLSEG_SIZE]
            tifffile.imwrite(files[name][-1], part, photometric="minisblack")
    sys.argv[1:] = ["--data", *files["data"], "--labels", *files["labels"], "--data_dir", str(folder)]
    train_2d_model.main()
    return spent


def volseg_predict(folder: Path, task: dict[str, Any]) -> Segment:
    """As its command does it, of slices in memory."""
    from volume_segmantics.data import get_settings_data
    from volume_segmantics.model import VolSeg2DPredictionManager

    (model,) = folder.glob("*.pytorch")
    settings = get_settings_data(folder / VOLSEG_FILE)
    return lambda images: VolSeg2DPredictionManager(str(model), images, settings).predict_volume_to_path(None)


# Pixels per minute of training: of so many a hundred trees, as many as ilastik grows, take about as long as there is.
FOREST_PIXELS, FOREST_TREES = 60_000, 100


def _features(image: np.ndarray, threads: int) -> np.ndarray:
    """(H * W, 24) float32: Gaussian, gradient and eigenvalues of the Hessian at six widths from 0.5 to 16 pixels."""
    from skimage.feature import multiscale_basic_features

    found = multiscale_basic_features(image.astype(np.float32) / 65_535, sigma_min=0.5, sigma_max=16, workers=threads)
    return found.reshape(-1, found.shape[-1])


def forest_train(folder: Path, task: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The same number of pixels of each slice, by lot, and a tree per core at a time; half of the time for features."""
    from sklearn.ensemble import RandomForestClassifier

    rng, began = np.random.default_rng(0), time.monotonic()
    each = max(1, round(FOREST_PIXELS * task["seconds"] / 60 / len(images)))
    # By lot, so that those for which there is time are of the whole block.
    columns, classes = [], []
    for index in rng.permutation(len(images)):
        if columns and time.monotonic() - began > task["seconds"] / 2:
            break
        pixels = rng.choice(labels[index].size, min(each, labels[index].size), replace=False)
        columns.append(_features(images[index], task["threads"])[pixels])
        classes.append(labels[index].ravel()[pixels])
    learned, known = np.concatenate(columns), np.concatenate(classes)
    forest = RandomForestClassifier(n_estimators=0, n_jobs=task["threads"], warm_start=True, random_state=0)
    while forest.n_estimators < FOREST_TREES and (
        not forest.n_estimators or time.monotonic() - began < task["seconds"]
    ):
        forest.n_estimators += task["threads"]
        forest.fit(learned, known)
    spent = {"seconds": time.monotonic() - began, "trees": forest.n_estimators}
    (folder / "forest.pickle").write_bytes(pickle.dumps(forest))
    return spent | {"slices": len(columns), "pixels": len(known)}


def forest_predict(folder: Path, task: dict[str, Any]) -> Segment:
    """Slice by slice."""
    forest = pickle.loads((folder / "forest.pickle").read_bytes())
    return lambda images: np.stack(
        [forest.predict(_features(image, task["threads"])).reshape(image.shape) for image in images]
    )


TOOLS = {
    "hpcseg": (hpcseg_train, hpcseg_predict),
    "nnunet": (nnunet_train, nnunet_predict),
    "volseg": (volseg_train, volseg_predict),
    "forest": (forest_train, forest_predict),
}


def main(what: str, tool: str, folder: Path) -> None:
    """Do it, and write down how long it took."""
    task = json.loads((folder / "task.json").read_text())
    torch.set_num_threads(task["threads"])
    train, predict = TOOLS[tool]
    if what == "train":
        with np.load(folder / "train.npz") as given:
            spent = train(folder, task, given["images"], given["labels"])
    else:
        segment, spent = predict(folder, task), {}
        for sigma in task["sigmas"]:
            began = time.monotonic()
            found = segment(np.load(folder / f"test-{sigma}.npy"))
            spent[str(sigma)] = time.monotonic() - began
            np.save(folder / f"predicted-{sigma}.npy", np.asarray(found, dtype=np.uint8))
    (folder / f"{what}.json").write_text(json.dumps(spent | {"peak_memory_mib": peak_bytes() // 2**20}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve())
