"""hpcseg beside what a user would pick: the same labelled slices, the same minutes of training, the same test slices.

    pip install -r results/peers/requirements.txt
    python results/peers/peers.py OUT --data dataset.h5 --minutes 10
    python results/peers/peers.py OUT --publish results/peers

The README beside this file says what is measured. Each tool with each number of labelled slices is a record in OUT, as
soon as it is measured; what has one is not run again. One that fails leaves its log in OUT and a hole in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from hpcseg.config import DataConfig
from hpcseg.data import store
from hpcseg.data.batches import TileSource, open_source
from hpcseg.data.splits import split_tiles
from hpcseg.metrics import accuracy, mean_iou
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect

SCHEMA = 1
FOLDER = Path(__file__).resolve().parent
TOOLS = {
    "hpcseg": "hpcseg",
    "nnunet": "nnU-Net v2, 2-D",
    "volseg": "volume-segmantics",
    "forest": "random forest",
}
PACKAGES = ("nnunetv2", "volume-segmantics", "scikit-learn", "scikit-image")
BEGIN, END = "<!-- made by peers.py --publish -->", "<!-- end -->"


def spread(slices: np.ndarray, count: int) -> np.ndarray:
    """So many of these, at equal steps from the first to the last; 0: all."""
    return slices[np.linspace(0, len(slices) - 1, count or len(slices)).round().astype(int)]


def beside(numbers: np.ndarray, validation: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, int]:
    """What hpcseg must have beside the slices with these numbers to learn from all of them, and its data.split_seed.

    It divides all that it is given 70 / 15 / 15 along the stack. So it gets slices of the validation and the test block
    in this proportion, by the numbers of theirs, and a seed with which the training block is where it should be.
    """
    for count in range(1, max(len(validation), len(test)) + 1):
        more = np.concatenate([spread(part, min(count, len(part))) for part in (validation, test)])
        every = np.sort(np.concatenate([numbers, more]))
        tiles = np.column_stack([np.arange(len(every)), np.zeros((len(every), 2), dtype=int)])
        for seed in range(20 * len(every)):
            split = split_tiles(tiles, numbers=every, policy="blocked", seed=seed, gap_slices=0)
            if len(split.train) != len(numbers):
                break
            if set(every[split.train]) == set(numbers):
                return more, seed
    raise ValueError(f"There is no way to let hpcseg learn from exactly these {len(numbers)} slices.")


def read_slices(source: TileSource, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole slices (N, H, W) and their labels by their indices in the file."""
    images, labels = zip(*(store.read_slices(source.info.path, index, index + 1) for index in indices), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def prepare(folder: Path, source: TileSource, labelled: int, test: np.ndarray, options: argparse.Namespace) -> None:
    """All that a tool gets, as tools.py says."""
    numbers, of_tiles = source.info.numbers, source.tiles[:, 0]
    train, validation, tested = (
        np.unique(of_tiles[rows]) for rows in (source.split.train, source.split.validation, source.split.test)
    )
    train = spread(train, labelled)
    more, seed = beside(numbers[train], numbers[validation], numbers[tested])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, slices in (("train", train), ("beside", np.searchsorted(numbers, more))):
        images, labels = read_slices(source, slices)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    counts = read_slices(source, test)[0]
    for sigma in options.sigmas:
        noise = np.random.default_rng(0).normal(scale=sigma, size=counts.shape) if sigma else 0
        np.save(folder / f"test-{sigma}.npy", np.rint(counts + noise).clip(0, 65_535).astype(np.uint16))
    task = {"numbers": numbers[train].tolist(), "seconds": 60 * options.minutes, "threads": options.threads}
    task |= {"sigmas": options.sigmas, "classes": source.classes}
    task |= {"grey_range": [source.info.grey.low, source.info.grey.high]}
    task |= {"beside": {"numbers": more.tolist(), "split_seed": seed}}
    (folder / "task.json").write_text(json.dumps(task))


def run(what: str, tool: str, folder: Path, log: Path, threads: int) -> dict[str, Any]:
    """One process of tools.py: what it says, and its seconds from beginning to end."""
    command = [sys.executable, str(FOLDER / "tools.py"), what, tool, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(FOLDER.parents[1])
    began = time.monotonic()
    with open(log, "a") as file:
        done = subprocess.run(command, env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{what} of {tool} failed: {log}")
    return json.loads((folder / f"{what}.json").read_text()) | {"process_seconds": time.monotonic() - began}


def measure(tool: str, labelled: int, source: TileSource, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train, segment the test slices, compare."""
    folder, log = out / "work", out / f"{tool}-{labelled}.log"
    test = source.test_slices()[:: options.every]
    prepare(folder, source, labelled, test, options)
    log.unlink(missing_ok=True)
    training = run("train", tool, folder, log, options.threads)
    prediction = run("predict", tool, folder, log, options.threads)
    labels, classes = read_slices(source, test)[1], source.classes
    tests = {}
    for sigma in options.sigmas:
        found = np.load(folder / f"predicted-{sigma}.npy")
        counts = np.bincount(labels.ravel() * np.int64(classes) + found.ravel(), minlength=classes**2)
        right = (found == labels).mean((1, 2)).round(6).tolist()
        tests[str(sigma)] = {"confusion": counts.reshape(classes, classes).tolist(), "right_by_slice": right}
    task = json.loads((folder / "task.json").read_text())
    shutil.rmtree(folder)
    words = [Path(word).name for word in sys.argv]
    return {
        "schema": SCHEMA,
        "tool": tool,
        "labelled_slices": len(task["numbers"]),
        "numbers": task["numbers"],
        "beside": task["beside"]["numbers"] if tool == "hpcseg" else [],
        "test_numbers": source.info.numbers[test].tolist(),
        "minutes": options.minutes,
        "threads": options.threads,
        "training": training,
        "prediction": prediction,
        "tests": tests,
        "provenance": collect(
            device=device_facts(torch.device("cpu")),
            command=shlex.join(words),
            data_sha256=source.info.data_sha256,
        ),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def estimate(record: dict[str, Any], minutes: float, slices: int) -> float:
    """Minutes that the same takes with so many of training and so many test slices."""
    training, prediction = record["training"], record["prediction"]
    segmented = sum(prediction[sigma] for sigma in record["tests"])
    around = training["process_seconds"] - training["seconds"] + prediction["process_seconds"] - segmented
    return minutes + (around + segmented / len(record["test_numbers"]) * slices) / 60


def table(records: Sequence[dict[str, Any]]) -> str:
    """All records as Markdown, in the order of the tools."""
    return "\n".join(_lines(records)) + "\n"


def _lines(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not records:
        yield "Not measured yet."
        return
    first = records[0]
    of, sigmas = first["provenance"], list(first["tests"])
    commits = dict.fromkeys((one["provenance"]["commit"] or "unknown")[:7] for one in records)
    yield (
        f"{first['minutes']:g} minutes of training on {of['device']}, {of['processor']}; "
        f"{len(first['test_numbers'])} test slices; torch {of['torch']}, "
        + ", ".join(f"{name} {version}" for name, version in first["packages"].items())
        + f". `{of['command']}`, {of['time'][:10]}, commit {', '.join(commits)}."
    )
    yield ""
    heads = [
        f"{what}, {'clean' if sigma == '0' else f'sigma {sigma}'}" for sigma in sigmas for what in ("right", "IoU")
    ]
    heads += ["minutes of training", "minutes before it", "seconds per slice", "GiB to train", "GiB to segment"]
    yield f"| tool | labelled slices | {' | '.join(heads)} |"
    yield "|---" * (2 + len(heads)) + "|"
    for tool, name in TOOLS.items():
        for labelled in sorted({record["labelled_slices"] for record in records}):
            found = [one for one in records if (one["tool"], one["labelled_slices"]) == (tool, labelled)]
            cells = _cells(found[0]) if found else ["-"] * len(heads)
            yield f"| {name} | {labelled} | {' | '.join(cells)} |"


def _cells(record: dict[str, Any]) -> Iterator[str]:
    training, prediction = record["training"], record["prediction"]
    for test in record["tests"].values():
        yield f"{accuracy(np.array(test['confusion'])):.4f}"
        yield f"{mean_iou(np.array(test['confusion'])):.4f}"
    yield f"{training['seconds'] / 60:.1f}"
    yield f"{(training['process_seconds'] - training['seconds']) / 60:.1f}"
    seconds = [prediction[sigma] for sigma in record["tests"]]
    yield f"{sum(seconds) / len(seconds) / len(record['test_numbers']):.2f}"
    yield from (f"{part['peak_memory_mib'] / 1024:.1f}" for part in (training, prediction))


def figure(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Right pixels against labelled slices, a panel for each noise."""
    sigmas = list(records[0]["tests"])
    drawn, panels = plt.subplots(1, len(sigmas), figsize=(4.5 * len(sigmas), 4), layout="constrained", squeeze=False)
    for sigma, axes in zip(sigmas, panels[0], strict=True):
        for tool, name in TOOLS.items():
            of_tool = sorted((one["labelled_slices"], one) for one in records if one["tool"] == tool)
            shares = [100 * accuracy(np.array(one["tests"][sigma]["confusion"])) for _, one in of_tool]
            axes.plot([labelled for labelled, _ in of_tool], shares, "o-", label=name)
        ticks = sorted({one["labelled_slices"] for one in records})
        axes.set_xscale("log")
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        title = "clean" if sigma == "0" else f"Gaussian noise, sigma {sigma}"
        axes.set(xlabel="labelled slices", ylabel="right pixels, %", title=title)
        axes.grid(alpha=0.3)
    drawn.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(TOOLS))
    drawn.savefig(path, dpi=100)
    plt.close(drawn)


def page(text: str, records: Sequence[dict[str, Any]]) -> str:
    """The README with the table of these records, and the figure, between its two marks."""
    before, _, rest = text.partition(BEGIN)
    shown = table(records) + ("\n![Right pixels against labelled slices](peers.png)\n" if records else "")
    return f"{before}{BEGIN}\n{shown}{END}{rest.partition(END)[2]}"


def read_records(out: Path, **way: object) -> list[dict[str, Any]]:
    """Of one OUT, which all must have been measured in the same way: with these values, and those of the first."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    for key in ("minutes", "threads", "test_numbers"):
        if any(one[key] != way.get(key, records[0][key]) for one in records):
            raise SystemExit(f"{out} has records of another {key}: measure into another folder.")
    return records


def main() -> None:
    """Measure what has no record, or publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the records")
    parser.add_argument("--data", type=Path, help="the packed data set")
    parser.add_argument("--minutes", type=float, default=10, help="of training")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="and cores of each tool")
    parser.add_argument("--labelled", type=int, nargs="+", default=[10, 50, 0], help="slices; 0: all of the training")
    parser.add_argument("--every", type=int, default=1, help="take every k-th test slice")
    parser.add_argument("--sigmas", type=int, nargs="+", default=[0, 5000], help="of the noise on the test slices")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--estimate", type=float, help="say how long so many minutes take, with all test slices")
    parser.add_argument("--publish", type=Path, help="write peers.json, peers.png and the table of README.md there")
    options = parser.parse_args()
    if options.data:
        options.out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(options.threads)
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
        source = open_source(options.data, DataConfig(tiles="cover", split="blocked"))
        test = source.info.numbers[source.test_slices()[:: options.every]].tolist()
        read_records(options.out, minutes=options.minutes, threads=options.threads, test_numbers=test)
        for labelled in options.labelled:
            for tool in options.tools:
                path = options.out / f"{tool}-{labelled}.json"
                if path.exists():
                    continue
                print(f"{tool}, {labelled or 'all'} labelled slices", flush=True)
                try:
                    record = measure(tool, labelled, source, options.out.resolve(), options)
                except RuntimeError as error:
                    print(error, flush=True)
                    continue
                path.write_text(json.dumps(record) + "\n")
    records = read_records(options.out)
    if options.estimate and options.data:
        for one in records:
            minutes = estimate(one, options.estimate, len(source.test_slices()))
            print(f"{one['tool']}, {one['labelled_slices']} labelled slices: {minutes:.0f} minutes")
    if options.publish:
        (options.publish / "peers.json").write_text(json.dumps(records, indent=1) + "\n")
        figure(records, options.publish / "peers.png")
        readme = options.publish / "README.md"
        readme.write_text(page(readme.read_text(), records))


if __name__ == "__main__":
    main()
