"""The verb `suggest`: which slices to label next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hpcseg.cli import console
from hpcseg.cli.options import AsJson, MovedData, Run
from hpcseg.cli.reading import DataSetName, Every, Percentiles, Range, ReadingOptions
from hpcseg.runs.finding import find_all_trained
from hpcseg.text import counted

if TYPE_CHECKING:
    from hpcseg.predict.suggest import Suggestion
    from hpcseg.slices.source import Source


def suggest(
    cell: Annotated[
        str, typer.Argument(help="A trained cell: its name, its id, its folder; a pattern that fits several is better.")
    ],
    volume: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="All slices, those with labels among them; in any format."),
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many slices to choose.")] = 10,
    dataset: DataSetName = None,
    range_: Range = None,
    percentiles: Percentiles = None,
    every: Every = None,
    run: Run = None,
    data: MovedData = None,
    *,
    how: ReadingOptions,
    as_json: AsJson = False,
) -> None:
    """Rank slices without labels by what the models do not know, apart from each other: to be labelled next."""
    from hpcseg.predict import suggest as suggesting
    from hpcseg.predict.model_file import open_data, open_model
    from hpcseg.predict.request import Request, in_memory
    from hpcseg.predict.volume import open_volume
    from hpcseg.segment.network import Wishes
    from hpcseg.slices.source import choose_slices

    source = choose_slices(open_volume(volume, how.reading(dataset=dataset)), every=every)
    folders = find_all_trained(cell, run, console.note)
    packed = [open_data(folder, data) for folder in folders]
    labelled = {sha256: int(of) for info in packed for sha256, of in zip(info.image_sha256, info.numbers, strict=True)}
    request = Request(
        models=tuple(folder.path for folder in folders),
        source=volume,
        out=Path(),
        range_=range_,
        percentiles=percentiles,
        wishes=Wishes(uncertainty=True, float16=True),
    )
    prediction = in_memory(request, [open_model(folder.path, data) for folder in folders], source)
    with console.json_answer(as_json) as answer:
        with console.progress_bar() as progress:
            task = progress.add_task("Segmenting slices", total=len(source))
            found = suggesting.suggest(
                prediction, count, labelled=labelled, on_slice=lambda done, _: progress.update(task, completed=done)
            )
        _show(found, (*source.notes, *prediction.notes), source, count, [model.name for model in prediction.models])
        answer["models"] = [model.name for model in prediction.models]
        answer["labelled"] = list(found.labelled)
        answer["picks"] = [
            {
                "name": source.names[index],
                "number": source.numbers[index] if source.numbered else None,
                "uncertainty": found.uncertainty[index],
            }
            for index in found.picks
        ]


def _show(found: Suggestion, notes: Sequence[str], source: Source, count: int, models: list[str]) -> None:
    few = f"no more than {counted(len(found.picks), 'slice')} of these {len(source)} have no labels."
    for note in (*notes, *([few] if len(found.picks) < count else [])):
        console.note(note)
    looked_at = "" if source.whole is None else f"{len(source)} of "
    of = counted(len(source.whole or source), "slice")
    console.stdout.print(f"{looked_at}{of}, {len(found.labelled)} with labels. Models: {', '.join(models)}")
    if not found.labelled:
        console.note(
            "none of the slices looked at is one that the models were trained on, so all were ranked. The input "
            "is to be what the labelled slices are from."
        )
    table = Table("to label", "number", "not known", box=None, pad_edge=False)
    for index in found.picks:
        number = str(source.numbers[index]) if source.numbered else "-"
        table.add_row(source.names[index], number, f"{found.uncertainty[index]:.2%}")
    console.stdout.print(table)
    console.say(
        "Put the labels of these beside the others, and pack all into a new file, for these models need theirs, with "
        "the options of before (`hpcseg info` shows them): hpcseg pack DATA -o more.h5"
    )
