"""hpcseg from Python, for notebooks and scripts: the code of the commands, with arguments in place of options.

    import hpcseg.api as hs

    source = hs.open_source("DATA/data")                                  # what there is to pack or to segment
    hs.pack("DATA", "set.h5")                                             # as `hpcseg pack DATA -o set.h5`
    cell = hs.train("set.h5", out="run", settings={"train.width": 8})     # as `hpcseg train`, one model
    model = hs.load_model(cell)
    labels = hs.predict(model, source.read(0))                            # as `hpcseg predict`
    rows = hs.read_table("run")                                           # the cells.csv of `hpcseg report`

What cannot be done is a `HpcsegError` (hpcseg.errors) that says why: ConfigError for an argument, DatasetError for
slices and labels, IncompleteError for what is not there yet. Where it names an option of a command, the argument of
that name is meant: `range_` for --range, `out` for --run, `settings` for --set.

Nothing is loaded before it is used; torch is used by `train`, `load_model` and `predict`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hpcseg.errors import ConfigError, DatasetError, HpcsegError
from hpcseg.slices.array import slice_axes
from hpcseg.slices.source import Reading, Source, as_grey_values
from hpcseg.text import shortened

if TYPE_CHECKING:
    from hpcseg.data.store import DatasetInfo
    from hpcseg.predict.model_file import Model

__all__ = ["Reading", "load_model", "open_source", "pack", "predict", "read_table", "train"]


def open_source(path: str | Path, how: Reading = Reading()) -> Source:  # noqa: B008
    """Find the slices of a source, as `hpcseg info` does; reads headers, no pixels.

    Args:
        path: a folder of TIFFs or PNGs, or a file or store of any format; `NAME::DATASET` names what is in it, as
            "scan.nxs::entry/data/data".
        how: what its files do not say, such as `Reading(shape=(500, 501, 501), dtype="uint16")` of a raw file, or
            `Reading(needs_numbers=False)` of files whose names have no numbers, or `Reading(allow_external=True)` of a
            scan whose detector files are in another folder.

    Returns:
        A source: `len(source)` slices, `source.shapes` (height, width) and `source.dtypes` of each, `source.numbers`,
        `source.voxel` with its unit; `source.read(index)` is a slice, (H, W), of that dtype in native byte order.

    Raises:
        DatasetError: nothing there, damaged, or parts missing.
        ConfigError: there is a choice, or an option does not fit.
    """
    from hpcseg.slices.opening import open_source as open_slices

    _check_reading(how)
    return open_slices(_path("path", path), how)


def pack(
    folder: str | Path | None,
    output: str | Path,
    *,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    how: Reading = Reading(),  # noqa: B008
    grey_range: tuple[float, float] | None = None,
    classes: str | Path | Mapping[str, Any] | None = None,
    ignore: int | Iterable[int] = (),
    force: bool = False,
    on_slice: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> DatasetInfo:
    """Pack slices and their labels into one HDF5 file; what it holds already is compared and left as it is.

    Many slices are packed by several processes, each of which begins by importing the script that called: in a script
    (in a notebook not) call this under `if __name__ == "__main__":`.

    Args:
        folder: holds the slices in data and the labels in labels; None: `images` and `labels` are given.
        output: the HDF5 file.
        images: slices in any format, as for `open_source`, in place of folder/data.
        labels: likewise, in place of folder/labels, of some of the slices at least: a whole number per pixel.
        how: what the files do not say.
        grey_range: grey values that a model meets as 0 and 1; None: the type's range if they use it, else 0.1 and
            99.9 % of them.
        classes: what label values mean, as {"pore": 0, "grain": ["1-9", 12]}, "0=pore,1-9=grain" or the name of a TOML
            file; values that it does not have are refused. None: each value is a class.
        ignore: label values of pixels without a class.
        force: replace an output that holds other data.
        on_slice: told how many slices of how many are done.
        on_note: told in a sentence each what was passed over in the files, and what may be wrong with the slices and
            labels; None: they are warnings.

    Returns:
        What the file holds: `shape` (N, H, W), `dtype`, `class_values`, `class_names`, `data_sha256`, ...

    Raises:
        DatasetError: what cannot be packed, naming the files.
        ConfigError: the output holds something else, or an argument does not fit.
        HpcsegError: the output cannot be written; nothing is left under its name then.
    """
    from hpcseg.data.classes import read_class_map
    from hpcseg.data.notes import notes
    from hpcseg.data.pack import pack as pack_slices
    from hpcseg.runs.provenance import command_line

    _check_reading(how)
    if folder is not None:
        images = images or _within(_path("folder", folder), "data")
        labels = labels or _within(_path("folder", folder), "labels")
    if images is None or labels is None:
        raise ConfigError("Name the folder that holds data/ and labels/, or give both --images and --labels.")
    if classes is not None and not isinstance(classes, str | Path | Mapping):
        raise ConfigError(f'--classes is {classes!r}, but it is a dictionary such as {{"pore": 0}}, a text, or a file.')
    try:
        values: list[Any] = [ignore] if isinstance(ignore, str) else list(ignore)  # type: ignore[arg-type]
    except TypeError:
        values = [ignore]
    said = list[str]()
    info = pack_slices(
        _path("images", images),
        _path("labels", labels),
        _path("output", output),
        command=command_line(),
        how=how,
        grey_range=_pair("grey-range", grey_range),
        class_map=read_class_map(
            os.fspath(classes) if isinstance(classes, Path) else classes, [_whole("ignore", value) for value in values]
        ),
        force=force,
        on_slice=on_slice or (lambda *_: None),
        on_note=on_note or said.append,
    )
    for note in (*said, *notes(info)):
        if on_note:
            on_note(note)
        else:
            warnings.warn(note, stacklevel=2)
    return info


def train(
    data: str | Path,
    *,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    job: str | Path | None = None,
    cell: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train and evaluate one cell of a job in this process, from wherever it stands: a finished one is done at once.

    Ctrl-C, or a notebook's "interrupt", stops behind the step under way with a checkpoint, and the same call goes on.

    Args:
        data: the packed file.
        out: folder of the run.
        settings: in place of the job's, by "SECTION.KEY" as `hpcseg settings` lists them with their units, such as
            {"train.epochs": 20, "data.tile_size": 64}. A list is an axis of cells.
        job: name of a shipped job, or the path of a job file; None: "paper" for the paper's slices, else "segment".
        cell: of the job, as `hpcseg train` takes it: an id, a short name or a pattern, or its folder; None: the first.
        say: told in a line each which stage begins, and of every epoch its loss and the accuracy of the validation;
            `print` shows them.

    Returns:
        The cell's folder, for `load_model`; hpcseg/README.md says what is in it.

    Raises:
        ConfigError: the job or a setting is wrong or does not fit on these slices, or the pattern fits no cell or some.
        DatasetError: the packed file cannot be used, or is too small.
        HpcsegError: the training failed, or another process is at this cell.
        KeyboardInterrupt: it was stopped.
    """
    from hpcseg.jobfile import as_overrides
    from hpcseg.runs.alone import run_alone
    from hpcseg.runs.finding import choose_cell, plan_run
    from hpcseg.runs.state import State

    of = None if cell is None else _path("cell", cell).name
    named = None if job is None else os.fspath(_path("job", job))
    grid = plan_run(named, _path("data", data), _path("out", out), as_overrides(settings or {}))
    chosen = grid.cells[0] if of is None else choose_cell(grid, of)
    outcome = run_alone(grid, chosen, say=say or (lambda _: None))
    if outcome is State.BUSY:
        raise HpcsegError(f"Another process is running {chosen.id}. Wait for it, or end it.")
    if outcome is State.STOPPED:
        raise KeyboardInterrupt(f"{chosen.id} was stopped, and has a checkpoint. The same call goes on.")
    return chosen.folder.path


def load_model(model: str | Path, *, run: str | Path | None = None, data: str | Path | None = None) -> Model:
    """Open a trained model, on the CPU.

    Args:
        model: a file that `hpcseg export` wrote, or a trained cell: its folder, or its id or short name in a run.
        run: folder of the run that an id is looked for in; None: the newest in runs/.
        data: the packed file that the cell was trained on, should it have moved.

    Returns:
        The model: its `name`, its `network` in PyTorch, and its `card`: `card.class_values` of the labels,
        `card.class_names`, `card.grey_dtype` and `card.grey_range` of what it was trained on, and more.

    Raises:
        ConfigError: what was named fits no trained cell, or several.
        IncompleteError: there is no such file, the cell is not trained, or its packed file is not there.
        HpcsegError: the file is damaged or none of a model.
    """
    from hpcseg.predict.model_file import open_model
    from hpcseg.runs.finding import find_model

    found = find_model(os.fspath(_path("model", model)), None if run is None else _path("run", run))
    return open_model(found, None if data is None else _path("data", data))


def predict(
    model: Model | Sequence[Model],
    array: Any,
    *,
    uncertainty: bool = False,
    float16: bool = False,
    flips: bool = False,
    range_: tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    tile: int | None = None,
    precision: str | None = None,
    outside: int = 0,
    border: Literal["label", "outside"] | None = None,
) -> Any:
    """Segment slices in memory: bit for bit what `hpcseg predict` writes for the same slices in files.

    Args:
        model: from `load_model`; or several of one data set, whose probabilities are averaged.
        array: (H, W), or (N, H, W) slices: of numpy, or anything with its shape, dtype and indices, such as a data
            set of h5py, or a source of `open_source`, of which one slice at a time is read. Grey values as the model
            was trained on, else say with `range_` or `percentiles` how they map. NaN is a pixel outside of the field of
            view.
        uncertainty: also the entropy of the probabilities, as a share of the largest there is: 0 sure, 1 nothing known.
        float16: that as float16, 0 to 1; else uint8, 0 to 255.
        flips: average over mirror images, which takes four times as long.
        range_: grey values (low, high) for the ends of the training's scale; what errors call --range.
        percentiles: (low, high) in per cent: the array's grey values at these map to the training slices'.
        tile: edge of overlapping tiles in pixels; None: whole slices, if they fit into memory.
        precision: of the convolutions, "fp32", "tf32", "bf16" or "fp16"; None: the training's.
        outside: label of pixels that are NaN, or of a border that lies outside.
        border: what becomes of padding of one value round the slices: "label", or "outside"; None: outside where the
            training's has no labels.

    Returns:
        Labels of the array's shape, in the values and the dtype of the training labels; with `uncertainty` a pair of
        these and the uncertainty, of the same shape.

    Raises:
        ConfigError: an argument does not fit.
        DatasetError: the array is no slices, or its grey values are not those of the training.
        HpcsegError: a slice does not fit into memory.

    Warns:
        UserWarning: more than 1 % of the grey values of a slice are far outside of what the model was trained on, or
            those of the array may be of another exposure.
    """
    from hpcseg.config import PRECISIONS
    from hpcseg.predict.model_file import Model
    from hpcseg.predict.request import Request, in_memory
    from hpcseg.predict.work import segment
    from hpcseg.segment.network import Wishes

    models: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
    if not models or not all(isinstance(one, Model) for one in models):
        given = ", ".join(type(one).__name__ for one in models) or "none"
        raise ConfigError(f"predict takes a model of load_model, or several in a list, and got {given}.")
    known = [name for name in PRECISIONS if name != "auto"]
    if precision not in (None, *known):
        raise ConfigError(f"--precision is {precision!r}, but it must be one of {', '.join(known)}.")
    if border not in (None, "label", "outside"):
        raise ConfigError(f"--border is {border!r}, but it must be label or outside.")
    tile = None if tile is None else _whole("tile", tile)
    if tile is not None and tile < 1:
        raise ConfigError(f"--tile is {tile}, but it is the edge of a tile in pixels.")
    volume = _as_volume(array)
    shape = (len(volume), *volume.shapes[0]) if isinstance(array, Source) else np.shape(array)
    request = Request(
        models=(),
        source=volume.path,
        out=Path(),
        range_=_pair("range", range_),
        percentiles=_pair("percentiles", percentiles),
        precision=precision,
        outside=_whole("outside", outside),
        border=border,
        wishes=Wishes(uncertainty=uncertainty, float16=float16, flips=flips, tile=tile),
    )
    prediction, strange = in_memory(request, models, volume), []
    for note in prediction.notes:
        warnings.warn(note, stacklevel=2)
    found = [np.empty((len(volume), *volume.shapes[0]), layer.dtype) for layer in prediction.layers]
    for layers, result in segment(prediction):
        for values, layer in zip(found, prediction.layers, strict=True):
            values[result.index] = layers[layer.name]
        if result.strange:
            strange.append(volume.names[result.index])
    if strange:
        warnings.warn(
            f"More than 1 % of the grey values of {', '.join(strange[:3])}{' and others' if strange[3:] else ''} are "
            "far outside of what the model was trained on.",
            stacklevel=2,
        )
    shaped = tuple(values.reshape(shape) for values in found)
    return shaped if uncertainty else shaped[0]


def read_table(run: str | Path) -> list[dict[str, Any]]:
    """Every measured number of every cell of a run, one a row: the cells.csv of `hpcseg report`, with numbers as such.

    Args:
        run: folder of the run, or a published one; also while it runs.

    Returns:
        A dictionary per number, as `pandas.DataFrame(rows)` takes them: whose it is (cell: its id; tiles, split,
        noise_fraction 0..1, seed), what it is (set: "train", "validation" or "test"; noise of the test, as
        "gaussian-5000" for a sigma of 5000 counts; measure: "accuracy", "iou" and other shares 0..1, "seconds",
        counts; class_value of the labels; value), and what it was made with (precision, world_size, commit). None where
        a column says nothing, NaN for a share of nothing.

    Raises:
        IncompleteError: there is no run, or its grid.json cannot be read.
    """
    from hpcseg.records.cells import cells_table
    from hpcseg.records.collect import collect
    from hpcseg.runs.finding import find_run

    return cells_table(collect(find_run(_path("run", run))))


def _check_reading(how: Any) -> None:
    """Raises ConfigError where what files do not say is said otherwise."""
    if not isinstance(how, Reading):
        raise ConfigError(f"how is {shortened(repr(how), 80)}, but it must be a Reading, as Reading(first=100).")


def _path(name: str, value: Any) -> Path:
    """The path of an argument, in which ~ is a home; raises ConfigError where it is something else."""
    if not isinstance(value, str | os.PathLike) or "\0" in os.fspath(value):
        raise ConfigError(f"{name} is {shortened(repr(value), 80)}, but it must be the name of a file or folder.")
    return Path(os.path.expanduser(value))


def _pair(name: str, value: Any) -> tuple[float, float] | None:
    """Two numbers of an argument; raises ConfigError where it is something else."""
    if value is None:
        return None
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        raise ConfigError(f"--{name} is {value!r}, but it must be two numbers, (LOW, HIGH).") from None
    return low, high


def _whole(name: str, value: Any) -> int:
    """The whole number of an argument, which may be written as a float; raises ConfigError where it is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise ConfigError(f"--{name} is {value!r}, but it must be a whole number.")
    return number


def _within(folder: Path, name: str) -> Path:
    """Where the slices or the labels of a folder are; raises DatasetError where it has none by that name."""
    if os.path.lexists(folder / name):
        return folder / name
    if not os.path.isdir(folder):
        raise DatasetError(f"There is no folder {folder}.")
    above = Path(os.path.relpath(os.path.dirname(os.path.abspath(folder))))
    meant = f" Did you mean {above}?" if (above / "data").is_dir() and (above / "labels").is_dir() else ""
    raise DatasetError(
        f"There is no {folder / name}, and a folder to pack holds slices in data and labels in labels.{meant} "
        "For others: `hpcseg pack --images SLICES --labels LABELS`, each a folder of TIFFs or PNGs, or a file of any "
        "format that `hpcseg info` can read."
    )


def _as_volume(array: Any) -> Source:
    """The grey values of (H, W), (N, H, W) or a source; raises DatasetError where it is none, or of several sizes."""
    if isinstance(array, Source):
        if len(set(array.shapes)) > 1:
            raise DatasetError(f"The slices of {array.path} are of several sizes. Segment one after the other.")
        return as_grey_values(array, of_any_type=True)
    if isinstance(array, str | os.PathLike):
        raise DatasetError(
            f"The array is the path {shortened(os.fspath(array), 80)}. Open its slices first: open_source(PATH)."
        )
    if not isinstance(getattr(array, "dtype", None), np.dtype):
        try:
            array = np.asarray(array)
        except ValueError:
            raise DatasetError("The array has slices of several sizes, or is none of numbers.") from None
    if isinstance(array, np.ma.MaskedArray):
        way = "array.astype(float).filled(np.nan)"
        raise DatasetError(f"The array has a mask. Give floating-point values with NaN there: {way}.")
    if len(array.shape) not in (2, 3) or (axes := slice_axes(tuple(array.shape))) is None:
        raise DatasetError(
            f"The array is {tuple(array.shape)}, but slices are (H, W) or (N, H, W), one number per pixel: of several "
            "channels, give one."
        )
    # Which of h5py and others takes no None.
    pixels = np.asarray(array).reshape(1, *array.shape[:2]) if len(axes) == 2 else array
    slices, *shape = pixels.shape
    native = pixels.dtype.newbyteorder("=")
    source = Source(
        path=Path("The array"),
        form="raw",
        names=tuple(f"slice {index}" for index in range(slices)),
        numbers=tuple(range(slices)),
        shapes=((shape[0], shape[1]),) * slices,
        dtypes=(native,) * slices,
        stored_dtype=native,
        decode=lambda index: np.asarray(pixels[index]).astype(native, copy=False),
        files=(),
    )
    return as_grey_values(source, of_any_type=True)
