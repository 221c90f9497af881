"""The verb `predict`: a trained model segments a volume."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpcseg.cli import console
from hpcseg.cli.options import SLURM, MovedData, Run, SlurmOptions
from hpcseg.cli.reading import DataSetName, Every, Percentiles, Range, ReadingOptions
from hpcseg.errors import ConfigError
from hpcseg.runs.finding import find_model, find_models, others_trained
from hpcseg.text import counted, some_of

if TYPE_CHECKING:
    from hpcseg.cluster.profile import Resources
    from hpcseg.predict.request import Prediction, Request
    from hpcseg.predict.schema import Finished

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PARTS = 8


def predict(
    model: Annotated[
        str, typer.Argument(help="A model file, or a trained cell: its name, its id, a pattern, its folder.")
    ],
    volume: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="Slices in any format: a folder, a file or a store, or `FILE::DATASET`."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the labels; goes on where it stopped.")],
    dataset: DataSetName = None,
    range_: Range = None,
    percentiles: Percentiles = None,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="More models, whose probabilities are averaged; repeatable.")
    ] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirror images: four times the work.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of each class.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write the entropy: 0 sure, 1 nothing known.")
    ] = False,
    spread: Annotated[
        bool, typer.Option("--spread", help="Also write the standard deviation over an ensemble.")
    ] = False,
    float16: Annotated[
        bool, typer.Option("--float16", help="Write these as float16, 0 to 1, instead of uint8, 0 to 255.")
    ] = False,
    tile: Annotated[
        int | None,
        typer.Option(min=1, help="Edge of overlapping tiles in pixels.", show_default="whole slices if they fit"),
    ] = None,
    every: Every = None,
    slices: Annotated[
        str | None,
        typer.Option(metavar="FIRST-LAST", help="Only these slices, counted from 1, as 1-50.", show_default="all"),
    ] = None,
    precision: Annotated[
        Literal["fp32", "tf32", "bf16", "fp16"] | None,
        typer.Option(help="Of the convolutions.", show_default="the training's, as its evaluation was counted"),
    ] = None,
    adapt_norm: Annotated[
        bool,
        typer.Option(
            "--adapt-norm", help="Batch normalisation takes the statistics of these slices: for noisier scans."
        ),
    ] = False,
    outside: Annotated[
        int, typer.Option(help="Label of pixels outside of the field of view, which are in no fraction: NaN, --border.")
    ] = 0,
    border: Annotated[
        Literal["label", "outside"] | None,
        typer.Option(
            help="Padding of one value round the slices: labelled like all else, or outside.",
            show_default="outside where the training's has no labels",
        ),
    ] = None,
    run: Run = None,
    data: MovedData = None,
    format_: Annotated[
        Literal["tiff", "hdf5", "zarr"] | None,
        typer.Option(
            "--format",
            help="Of the labels: TIFFs, an HDF5 file or an OME-Zarr.",
            show_default="the input's; of MRC, NIfTI and raw files TIFF",
        ),
    ] = None,
    *,
    how: ReadingOptions,
    on_slurm: Annotated[
        bool, typer.Option("--slurm", help="As Slurm jobs; so do --partition and --profile.", rich_help_panel=SLURM)
    ] = False,
    parts: Annotated[
        int | None,
        typer.Option(min=1, help="Array tasks that share the volume.", show_default=str(_PARTS), rich_help_panel=SLURM),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the sbatch scripts, do nothing.", rich_help_panel=SLURM)
    ] = False,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="GPUs of each part; 0: on CPUs.", show_default="1", rich_help_panel=SLURM),
    ] = None,
    throttle: Annotated[int | None, typer.Option(help="Parts that may run at once.", rich_help_panel=SLURM)] = None,
    slurm: SlurmOptions,
) -> None:
    """Segment a volume: labels under the input's names, phase fractions as a table. The same command goes on."""
    from hpcseg.predict.request import Request
    from hpcseg.predict.volume import open_volume
    from hpcseg.segment.network import Wishes
    from hpcseg.signals import like_ctrl_c

    reading = how.reading(dataset=dataset)
    if not os.path.exists(volume):
        open_volume(volume, reading)  # says so before a model is looked for
    request = Request(
        models=(
            find_model(model, run),
            *(path for name in ensemble or () for path in find_models(name, run, console.note)),
        ),
        source=volume,
        out=output,
        how=reading,
        format_=format_,
        data=data,
        range_=range_,
        percentiles=percentiles,
        precision=precision,
        every=every,
        slices=None if slices is None else _first_and_last(slices),
        adapt_norm=adapt_norm,
        outside=outside,
        border=border,
        wishes=Wishes(
            probabilities=probabilities,
            uncertainty=uncertainty,
            spread=spread,
            float16=float16,
            flips=flips,
            tile=tile,
        ),
    )
    wishes = slurm.wishes(gpus_per_node=gpus_per_node, throttle=throttle)
    if not (on_slurm or slurm.wanted):
        if dry_run:
            raise ConfigError("--dry-run shows what Slurm would be asked. Add --slurm, --partition or --profile.")
        if asked := [*wishes.options(), *(["--parts"] if parts else [])]:
            raise ConfigError(
                f"{', '.join(asked)} {'are' if len(asked) > 1 else 'is'} asked of Slurm, and this runs here. Add "
                "--slurm, --partition or --profile; or leave it out."
            )
        try:
            with like_ctrl_c():
                _predict_here(request)
        except KeyboardInterrupt:
            raise console.stopped() from None
        return
    from hpcseg.cluster.profile import resolve
    from hpcseg.config import NeedsConfig

    resources = resolve(NeedsConfig(), slurm.site(), wishes)
    _submit(request, resources, parts=parts or _PARTS, dry_run=dry_run)


def _submit(request: Request, resources: Resources, *, parts: int, dry_run: bool) -> None:
    from hpcseg.cluster.parts import JOIN
    from hpcseg.cluster.submit import require_slurm
    from hpcseg.cluster.volume import NO_SLURM, submit_parts
    from hpcseg.predict.outcome import OutFolder
    from hpcseg.predict.request import begin
    from hpcseg.predict.work import finish

    if not OutFolder(request.out).record_file.exists():
        require_slurm(NO_SLURM, dry_run=dry_run)  # before anything is written
    prediction = begin(request, write=not dry_run)
    _show_models(prediction)
    missing = len(prediction.missing())
    if not missing and not dry_run:
        # All parts are there, but perhaps nobody has joined them.
        show(prediction.finished or finish(prediction), request.out, written=not prediction.finished)
        return
    console.stdout.print(f"{counted(len(prediction.volume), 'slice')}, {missing} to segment")
    submission = submit_parts(prediction, resources, parts=parts, dry_run=dry_run)
    for line in submission.lines({"report": JOIN}):
        console.stdout.print(line)
    if not dry_run:
        console.stdout.print(f"Where they are: hpcseg status --run {shlex.quote(str(request.out))}")
        console.stdout.print("The same command shows the result when the jobs have ended, or submits what is missing.")


def _predict_here(request: Request) -> None:
    from hpcseg.predict.request import begin
    from hpcseg.predict.work import check_precision, finish, work

    if request.precision:
        check_precision(request.precision)  # before anything is written
    with _that_goes_on(request.out), console.progress_bar() as progress:
        looking = progress.add_task(
            "Reading grey values", total=None, visible=bool(request.percentiles) or request.adapt_norm
        )
        prediction = begin(
            request, on_slice=lambda done, of: progress.update(looking, completed=done, total=of, visible=True)
        )
        progress.update(looking, visible=False)
        _show_models(prediction)
        record = prediction.finished
        if record:
            console.stderr.print("This prediction is there already; nothing was written.")
        else:
            missing, slices = prediction.missing(), len(prediction.volume)
            if len(missing) < slices:
                console.stderr.print(f"{slices - len(missing)} of {slices} slices are there already.")
            task = progress.add_task("Segmenting slices", total=slices, completed=slices - len(missing))
            work(prediction, missing, on_slice=lambda *_: progress.update(task, advance=1))
            record = finish(prediction)
    show(record, request.out, written=not prediction.finished)


@contextlib.contextmanager
def _that_goes_on(out: Path) -> Iterator[None]:
    """Where the file system refuses a file, say that the same command goes on."""
    from hpcseg.files import NotWrittenError, not_written

    try:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise not_written(error.filename or out, error) from None
    except NotWrittenError as error:
        raise NotWrittenError(f"{error} The same command goes on then.") from None


def _show_models(prediction: Prediction) -> None:
    """Print which models segment, and where they are from: a pattern does not say it."""
    from hpcseg.runs.folder import RunFolder

    # A cell's folder may also be a copy that lies elsewhere.
    folders = [path for path in prediction.request.models if path.is_dir()]
    run_of = {path: path.parents[1] for path in folders if RunFolder(path.parents[1]).cells == path.parent}
    for model, path in zip(prediction.models, prediction.request.models, strict=True):
        where = f"run {run_of[path]}" if path in run_of else f"{'folder' if path.is_dir() else 'file'} {path}"
        console.stdout.print(f"Model: {model.name} ({where})")
    for note in (*prediction.volume.notes, *prediction.notes, *prediction.target().notes()):
        console.note(note)
    for run in set(run_of.values()):
        for what, others in others_trained(RunFolder(run)).items():
            shown = f", which `hpcseg compare {run.name}` shows," if what == "settings" else ""
            console.note(
                f"short names are those of the last `hpcseg grid`; {counted(len(others), 'more trained cell')} "
                f"of other {what}{shown} are named by their ids."
            )


def show(record: Finished, out: Path, *, written: bool = True) -> None:
    """Print what a finished prediction has found, and its files, whether they were written now or before."""
    from hpcseg.predict.outcome import OutFolder

    strange = record.slices_of_strange_grey_values
    if strange:
        console.note(
            f"more than 1 % of the grey values of {some_of(strange)} are far outside of what the model was trained on."
        )
    if record.mapping.kind != "as trained":
        console.stdout.print(f"Grey values: {record.mapping.counts} = counts of the training")
    if norm := record.norm:
        console.stdout.print(
            f"Batch normalisation: statistics of {norm.tiles} tiles from {norm.slices} of these slices"
        )
    shares = ", ".join(f"{value}: {share:.2%}" for value, share in record.fractions.items())
    every = record.asked.every
    slices = counted(record.input.slices, "slice") + (f" (one of {every})" if every else "")
    speed = f", {record.slices_per_second:g} slices/s" if record.slices_per_second else ""
    console.stdout.print(f"{slices} in {record.seconds:.1f} s{speed} on {', '.join(record.devices)}")
    console.say(f"Phase fractions (class: share of pixels): {shares}")
    for name in (*record.files, "prediction.json"):
        console.stdout.print(f"{'wrote' if written else 'there is'} {out / name}")
    sheet = OutFolder(out).sheet_file
    if sheet.exists():
        console.stdout.print(f"Look at {sheet}")
        console.stdout.print(f"All slices: hpcseg view {shlex.quote(str(out))}{_needs_napari()}")


def _needs_napari() -> str:
    try:
        importlib.metadata.version("napari")
    except importlib.metadata.PackageNotFoundError:
        return " (needs `pip install 'hpcseg[napari]'`)"
    return ""


def _first_and_last(slices: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", slices.replace(" ", ""))
    if found is None:
        raise ConfigError(f'--slices is "{slices}", but it must be FIRST-LAST, as 1-50, or the number of one slice.')
    return int(found[1]), int(found[2] or found[1])
