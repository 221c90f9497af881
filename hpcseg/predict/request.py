"""What a user asks for in, looked at and written down out: everything opened, nothing predicted."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from hpcseg.ahead import OnSlice
from hpcseg.data.classes import outside
from hpcseg.data.grey import border_mask
from hpcseg.errors import ConfigError, DatasetError, IncompleteError
from hpcseg.files import make_folder, remove_left
from hpcseg.predict import mapping as mappings
from hpcseg.predict import norm
from hpcseg.predict.layers import Format, open_target
from hpcseg.predict.mapping import Mapping
from hpcseg.predict.model_file import Model, open_model
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.schema import Asked, Finished, LayerFacts, Origin, SliceResult, Started
from hpcseg.predict.target import Layer, Target
from hpcseg.predict.volume import asked_reading, check_same, describe, noting, open_volume
from hpcseg.runs import provenance
from hpcseg.runs.record import write_json
from hpcseg.segment.network import Wishes
from hpcseg.slices.neighbours import any_neighbours
from hpcseg.slices.source import Reading, Source, choose_slices
from hpcseg.text import counted

# Of a request what a record has under the same name, without the underscore; null where nothing was said.
_ASKED = ("format_", "range_", "percentiles", "precision", "every", "slices", "adapt_norm", "outside", "border")
_KEPT = (
    *("hpcseg_version", "commit", "diff_sha256", "command", "python", "torch", "numpy"),
    *("host", "cores", "system", "time"),
)
# Of a model where it comes from, as far as its card says it.
_ORIGIN = ("commit", "data_sha256", "numerics", "code_sha256")
# What all models of an ensemble must have alike.
_IN_COMMON = {
    "class values": attrgetter("class_values"),
    "class names": attrgetter("class_names"),
    "label dtype": attrgetter("label_dtype"),
    "grey dtype": attrgetter("grey_dtype"),
    "grey scales": attrgetter("grey.low", "grey.high", "grey.limits"),
    "contexts": attrgetter("data.context"),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for."""

    models: tuple[Path, ...]
    """Model files, or folders of trained cells."""
    source: Path
    out: Path
    how: Reading = field(default_factory=Reading)
    """What the files of the input do not say."""
    format_: Format | None = None
    """Of the labels; None: that of the input."""
    data: Path | None = None
    """The packed data set of the cells, should it have moved."""
    range_: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    precision: str | None = None
    """None: of each model its training's, so that labels are those that its evaluation counted."""
    every: int | None = None
    """Only every so-manieth slice; None: each."""
    slices: tuple[int, int] | None = None
    """Only those from the first to the last of these, counted from 1; None: all."""
    adapt_norm: bool = False
    """Batch normalisation takes the statistics of this volume in place of the training's."""
    outside: int = 0
    """Label of pixels that have no grey value (NaN), or lie in a border that is left out."""
    border: Literal["label", "outside"] | None = None
    """What padded borders of one value are: labelled like all else, or outside; None: outside where the training's have
    no labels."""
    wishes: Wishes = field(default_factory=Wishes)


@dataclass(frozen=True)
class Prediction:
    """A request that was looked at: everything opened, nothing predicted."""

    request: Request
    models: tuple[Model, ...]
    volume: Source
    mapping: Mapping
    folder: OutFolder
    layers: tuple[Layer, ...]
    finished: Finished | None = None
    """What came out, where all was done before."""
    notes: tuple[str, ...] = ()
    """On the grey values, a sentence each."""

    def done(self) -> dict[int, SliceResult]:
        """The slices that are written, by index.

        Raises:
            IncompleteError: a journal is damaged.
        """
        done, classes = self.folder.done(), len(self.models[0].card.class_values)
        for index, one in done.items():
            fits = index < len(self.volume) and sum(one.counts) <= math.prod(self.volume.shapes[index])
            if not fits or len(one.counts) != classes:
                raise IncompleteError(
                    f"{self.folder.path}/slices*.jsonl are damaged: the slice of index {index} has {sum(one.counts)} "
                    f"pixels of {len(one.counts)} classes, and there are {len(self.volume)} slices and {classes} "
                    "classes. Delete that line, and the same command goes on."
                )
        return done

    def missing(self) -> list[int]:
        """Indices of the slices that are not written; raises IncompleteError as `done`."""
        done, target = self.done(), self.target()
        return [index for index in range(len(self.volume)) if index not in done or not target.has(index)]

    @property
    def outside_values(self) -> dict[str, float]:
        """What each layer has where a pixel lies outside: no class is probable, and nothing is known."""
        unknown = 1.0 if self.request.wishes.float16 else 255
        return {
            layer.name: {"labels": self.request.outside, "uncertainty": unknown}.get(layer.name, 0)
            for layer in self.layers
        }

    def outside(self, image: np.ndarray) -> np.ndarray | None:
        """(H, W) bool, the pixels of a slice that get no class: without a grey value, or of a border outside."""
        missing = outside(image)
        padded = border_mask(image) if self.request.border == "outside" else None
        return padded if missing is None else missing if padded is None else missing | padded

    def target(self) -> Target:
        """The files of its layers."""
        return open_target(self.folder.path, self.volume, self.layers, self.request.format_)


def begin(request: Request, *, on_slice: OnSlice = lambda *_: None, write: bool = True) -> Prediction:
    """Open everything, decide how grey values are mapped, and write down what is asked.

    Args:
        request: what is asked; with the same, the prediction in its folder goes on.
        on_slice: told how many slices were read, where percentiles of the volume or its statistics are asked for, or a
            prediction goes on with a copy of its input.
        write: False: only look.

    Raises:
        ConfigError: the models do not belong together, the wishes cannot be met, the folder holds something else, or
            the input is not the one that it was.
        DatasetError: the volume cannot be segmented, or its grey values are not those of the training.
        IncompleteError: a file of the prediction is damaged.
        HpcsegError: a model cannot be used, or the file system refuses.
    """
    # A pattern of an ensemble may fit the first model as well; each counts once.
    opened = [(open_model(path, request.data), path) for path in request.models]
    once = {model.card.model_sha256: (model, path) for model, path in reversed(opened)}
    models, paths = zip(*reversed(once.values()), strict=True)
    request = replace(request, models=paths, border=_border(request, models))
    _check_ensemble(models, request)
    whole = open_volume(request.source, request.how)
    volume = choose_slices(whole, every=request.every, slices=request.slices)
    folder = OutFolder(request.out)
    said: dict[str, Any] = {name.rstrip("_"): getattr(request, name) or None for name in _ASKED}
    asked = Asked(
        models=tuple(model.card.model_sha256 for model in models),
        dataset=volume.dataset,
        reading=asked_reading(request.how),
        **said,
        **asdict(request.wishes),
    )
    layers = _layers(models, request.wishes)
    _check_sizes(models[0], whole)
    _check_neighbours(models[0], whole)
    open_target(folder.path, volume, layers, request.format_)  # before anything is written
    record = folder.record()
    if record is not None and (record.asked.percentiles or record.asked.adapt_norm) and not folder.hashes(volume):
        # It was stopped before it had noted which grey values these were taken from, and nothing was segmented.
        record = None
    source = describe(volume, folder.path)
    noted, hashes = noting(whole)
    some = choose_slices(noted, every=request.every, slices=request.slices)
    notes: list[str] = []
    if record is not None:
        folder.check_same(record, asked)
        check_same(folder, record.input, source, volume, on_slice)
        mapping = record.mapping
    else:
        # Percentiles as of all slices, so that each has the labels that it has there.
        mapping = _mapping(noted if request.percentiles else some, models, request, notes.append, on_slice)
    prediction = Prediction(request, models, volume, mapping, folder, layers, notes=tuple(notes))
    if write:
        make_folder(folder.path)
        remove_left(folder.path.rglob(".*.tmp"))
        # Paths are those from the folder of the prediction.
        places = {
            "input": source,
            "model_paths": [os.path.relpath(path.resolve(), request.out.resolve()) for path in request.models],
            "data_path": request.data and os.path.relpath(request.data.resolve(), request.out.resolve()),
        }
        before = record and record.as_dict()
        record = msgspec.structs.replace(record, **places) if record else _record(prediction, asked, places)
        if record.as_dict() != before:
            write_json(folder.record_file, record.as_dict())
        if request.adapt_norm:
            # Behind the record, without which a folder that has something is none to predict into.
            file, anew = folder.norm_file, before is None
            by = norm.adapt(models, some, mapping, prediction.outside, file=file, anew=anew, on_slice=on_slice)
            if by is not None:
                record = msgspec.structs.replace(record, norm=by)
                write_json(folder.record_file, record.as_dict())
        if hashes:
            folder.note_read(hashes)
        if not prediction.target().prepare() and before is not None:
            folder.forget()
    if isinstance(record, Finished) and all((folder.path / name).exists() for name in record.files):
        return prediction if prediction.missing() else replace(prediction, finished=record)
    return prediction


def _check_neighbours(model: Model, volume: Source) -> None:
    context, numbers = model.card.data.context, volume.numbers
    if context and len(numbers) > 1 and not any_neighbours(numbers):
        raise ConfigError(
            f"{model.name} takes {counted(context, 'slice')} on each side of the one that it labels, but the numbers "
            f"of {volume.path} follow each other nowhere ({', '.join(map(str, numbers[:3]))}). Name the files with the "
            "numbers of the slices, or say which number that is with --number."
        )


def in_memory(request: Request, models: Sequence[Model], volume: Source) -> Prediction:
    """A prediction without files: of models that are opened and slices that are in memory, for `work.segment`.

    Raises:
        ConfigError, DatasetError: as `begin`.
    """
    models = tuple({model.card.model_sha256: model for model in models}.values())
    request = replace(request, border=_border(request, models))
    _check_ensemble(models, request)
    _check_sizes(models[0], volume)
    _check_neighbours(models[0], volume.whole or volume)
    looked_at = volume.whole if request.percentiles and volume.whole else volume
    notes: list[str] = []
    mapping = _mapping(looked_at, models, request, notes.append)
    layers = _layers(models, request.wishes)
    return Prediction(request, models, volume, mapping, OutFolder(request.out), layers, notes=tuple(notes))


def read_request(out: Path) -> Request:
    """The request that was written down in a folder; the prediction goes on with it.

    Raises:
        IncompleteError: there is none.
        ConfigError: it is of another schema, or damaged.
    """
    record = OutFolder(out).read()
    said = {name: value for name, value in record.asked.as_dict().items() if value is not None}
    return Request(
        **{name: said[name.rstrip("_")] for name in _ASKED if name.rstrip("_") in said},
        models=tuple(out / path for path in record.model_paths),
        source=out / record.input.path,
        out=out,
        how=record.asked.how,
        data=None if record.data_path is None else out / record.data_path,
        wishes=Wishes(**{item.name: said[item.name] for item in fields(Wishes) if item.name in said}),
    )


def part_of(missing: Sequence[int], slices: int, part: int, parts: int) -> list[int]:
    """The missing slices of one part of a volume: of a run of slices, as long as the others' to one slice."""
    own = slices_of_part(slices, part, parts)
    return [index for index in missing if index in own]


def slices_of_part(slices: int, part: int, parts: int) -> range:
    """Indices of the slices of a part."""
    return range(slices * part // parts, slices * (part + 1) // parts)


def probability_layer(value: int) -> str:
    """Name of the layer with the probability of a label value."""
    return f"probability-{value}"


def _check_ensemble(models: Sequence[Model], request: Request) -> None:
    for model in models[1:]:
        for what, of in _IN_COMMON.items():
            if (ours := of(models[0].card)) != (theirs := of(model.card)):
                raise ConfigError(
                    f"{models[0].name} and {model.name} cannot be one ensemble: their {what} are {ours} and "
                    f"{theirs}. Take models of one data set."
                )
    for model in models:
        model.check_takes_slices()
        if request.adapt_norm and not model.card.train.batch_norm:
            raise ConfigError(
                f"--adapt-norm estimates the statistics of batch normalisation anew, and {model.name} was trained with "
                "train.batch_norm = false, so it has none. Leave it out."
            )
    label = np.iinfo(models[0].card.label_dtype)
    if not label.min <= request.outside <= label.max:
        raise ConfigError(
            f"--outside is {request.outside}, but labels are {label.dtype}: give a value of {label.min} to {label.max}."
        )
    if request.wishes.spread and len(models) < 2:
        raise ConfigError("--spread is the spread over several models. Give more with --ensemble.")


def _mapping(
    volume: Source,
    models: Sequence[Model],
    request: Request,
    on_note: Callable[[str], None],
    on_slice: OnSlice = lambda *_: None,
) -> Mapping:
    """To the grey values of the first model's training; of others that had other ones it is noted, or refused.

    Raises:
        ConfigError, DatasetError: as `mapping.decide`; percentiles would be those of the first model alone.
    """
    for model in models[1:]:
        if differ := mappings.other_exposure(model.card, models[0].card):
            if request.percentiles:
                raise ConfigError(
                    f"--percentiles maps to the grey values of one training, but {models[0].name} and {model.name} had "
                    f"different ones: {differ}. Predict with each alone, or map with --range."
                )
            on_note(
                f"{models[0].name} and {model.name} are of different exposures: {differ}. The volume cannot be like "
                "both, and one of them may label it badly: predict with each alone."
            )
    return mappings.decide(
        volume,
        models[0].card,
        range_=request.range_,
        percentiles=request.percentiles,
        border=request.border,
        on_slice=on_slice,
        on_note=on_note,
    )


def _border(request: Request, models: Sequence[Model]) -> Literal["label", "outside"] | None:
    """What was said of borders or, where nothing was, that they lie outside if no model has learnt from any."""
    ignored = all(model.card.border == "ignored" for model in models)
    return request.border or ("outside" if ignored else None)


def _check_sizes(model: Model, whole: Source) -> None:
    if model.card.data.context and len(set(whole.shapes)) > 1:
        raise DatasetError(
            f"{whole.path} has slices of several sizes, and {model.name} takes each together with its neighbours "
            f"(data.context = {model.card.data.context}), which must be of one. Take a model without context."
        )


def _layers(models: Sequence[Model], wishes: Wishes) -> tuple[Layer, ...]:
    card = models[0].card
    dtype, scale = (np.dtype("f2"), "") if wishes.float16 else (np.dtype("u1"), ", times 255")
    shares: list[tuple[str, str]] = []
    if wishes.probabilities:
        shares += [(probability_layer(value), f"probability of {value}") for value in card.class_values]
    if wishes.uncertainty:
        shares.append(("uncertainty", f"entropy of the probabilities / log({len(card.class_values)})"))
    if wishes.spread:
        what = f"standard deviation over {len(models)} models of the probability of the label"
        shares.append(("spread", what))
    labels = Layer("labels", np.dtype(card.label_dtype), "values of the training labels")
    return labels, *(Layer(name, dtype, f"{meaning}{scale}") for name, meaning in shares)


def _record(prediction: Prediction, asked: Asked, places: dict[str, Any]) -> Started:
    """What is known before the first slice is predicted; `places` is the input and the paths."""
    models = prediction.models
    ours = provenance.collect(device={}, command=provenance.command_line(), data_sha256="")
    return Started(
        schema=1,
        state="started",
        asked=asked,
        mapping=prediction.mapping,
        norm=None,
        models=[
            Origin(
                name=model.name,
                sha256=model.card.model_sha256,
                **{name: getattr(model.card.training, name) for name in _ORIGIN},
            )
            for model in models
        ],
        layers={layer.name: LayerFacts(dtype=layer.dtype.name, meaning=layer.meaning) for layer in prediction.layers},
        **{name: ours[name] for name in _KEPT},
        **places,
    )
