"""What the files of a prediction hold: each is written from its type, and read into it, as `runs/schema.py` says.

No torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from hpcseg.predict.layers import Format
from hpcseg.predict.mapping import Mapping, Pair
from hpcseg.runs.schema import Record
from hpcseg.slices.source import Reading

# As whole numbers of 64 bits, which numpy adds up.
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_OneOrMore = Annotated[int, Meta(ge=1)]
_DTypeName = Annotated[str, Meta(pattern="^(u?int(8|16|32|64)|float16)$")]


class SaidOfFiles(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was said of a volume: of a `Reading` what is not as usual, but for its data set."""

    number: str | UnsetType = UNSET
    known: dict[str, int] | UnsetType = UNSET
    first: int | UnsetType = UNSET
    needs_numbers: bool | UnsetType = UNSET
    pixels: Literal["shown", "stored"] | UnsetType = UNSET
    shape: tuple[int, int, int] | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    byteorder: Literal["little", "big"] | UnsetType = UNSET
    header: int | UnsetType = UNSET
    label_dtype: str | UnsetType = UNSET
    allow_external: bool | UnsetType = UNSET


class Asked(Record, frozen=True, kw_only=True):
    """What a prediction was asked for; null where nothing was said. Names are those of a `Request` and its wishes."""

    models: tuple[str, ...]
    """SHA-256 of their weights."""
    dataset: str | None
    reading: SaidOfFiles | UnsetType | None = UNSET
    format: Format | UnsetType | None = UNSET
    range: Pair | None
    percentiles: Pair | None
    precision: str | None
    every: _OneOrMore | UnsetType | None = UNSET
    slices: tuple[int, int] | UnsetType | None = UNSET
    adapt_norm: bool | UnsetType | None = UNSET
    outside: int | UnsetType | None = UNSET
    border: Literal["label", "outside"] | UnsetType | None = UNSET
    probabilities: bool
    uncertainty: bool
    spread: bool
    float16: bool
    flips: bool
    tile: _OneOrMore | None

    @property
    def how(self) -> Reading:
        """What was said of the volume's files."""
        said = self.reading.as_dict() if self.reading else {}
        return Reading(**said, dataset=self.dataset)


class Input(Record, frozen=True, kw_only=True):
    """The slices that are segmented. Paths are those from the folder of the prediction."""

    path: str
    form: str
    dataset: str | None
    dtype: str
    """As they are stored."""
    slices: _Count
    shapes: list[list[int]]
    """Height and width, each pair that there is once."""
    names: list[str]
    identity: str | UnsetType = UNSET
    """`Source.identity` of the whole source that they are of."""


class Statistics(Record, frozen=True, kw_only=True):
    """By what those of batch normalisation were estimated."""

    tiles: int
    tiles_per_batch: int
    shape: list[int]
    """Height and width of a tile."""
    slices: int
    """That the tiles are of."""


class Origin(Record, frozen=True, kw_only=True):
    """A model, and where it comes from as far as its card says it."""

    name: str
    sha256: str
    """Of its weights."""
    code_sha256: str | UnsetType | None = UNSET
    commit: str | UnsetType | None = UNSET
    data_sha256: str | UnsetType | None = UNSET
    numerics: int | UnsetType | None = UNSET


class LayerFacts(Record, frozen=True, kw_only=True):
    """What the files of a layer hold."""

    dtype: _DTypeName
    meaning: str


class Started(Record, frozen=True, kw_only=True):
    """prediction.json, before a slice is predicted."""

    schema: Literal[1]
    state: str
    asked: Asked
    input: Input
    mapping: Mapping
    norm: Statistics | UnsetType | None = UNSET
    models: list[Origin]
    layers: dict[str, LayerFacts]
    hpcseg_version: str | UnsetType = UNSET
    commit: str | UnsetType | None = UNSET
    diff_sha256: str | UnsetType | None = UNSET
    command: str | UnsetType = UNSET
    python: str | UnsetType = UNSET
    torch: str | UnsetType = UNSET
    numpy: str | UnsetType = UNSET
    host: str | UnsetType = UNSET
    cores: int | UnsetType = UNSET
    system: str | UnsetType = UNSET
    time: str | UnsetType = UNSET
    model_paths: list[str]
    data_path: str | None


class Start(Record, frozen=True, kw_only=True):
    """Where a process has worked."""

    device: str
    processor: str | UnsetType | None = UNSET
    cuda: str | UnsetType | None = UNSET
    driver: str | UnsetType | None = UNSET
    precision: str | UnsetType = UNSET
    """Of each model, once."""
    host: str | UnsetType = UNSET
    largest_whole_slice: int | UnsetType | None = UNSET
    """Pixels of the largest slice that it could segment untiled."""


class Finished(Started, frozen=True, kw_only=True):
    """prediction.json, when all slices are written."""

    files: list[str]
    finished: str
    starts: list[Start]
    devices: list[str]
    seconds: float
    slices_per_second: float | None
    peak_memory_mib: int | UnsetType = UNSET
    fractions: dict[str, float]
    """Share of each class, by its name."""
    pixels: dict[str, int]
    slices_of_strange_grey_values: list[str]
    """Their names; see `SliceResult.strange`."""


class SliceResult(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the journal: what is known about one slice that is written."""

    index: _Count
    counts: tuple[_Count, ...]
    """Pixels of each class."""
    outside: float
    """Share of pixels far outside of the grey values of the training."""
    sha256: str = ""
    """Of the grey values that were segmented; empty in journals of before it was kept."""
    around: tuple[str, ...] = ()
    """The same of all slices that the network took with it, the middle one among them; none where it took one alone."""

    @property
    def strange(self) -> bool:
        """Whether these are so many that whoever looks at the labels has to know it."""
        return self.outside > 0.01


class SliceRead(Record, frozen=True, kw_only=True):
    """A line of the journal: what a slice was when something was taken from it for all."""

    place: _Count
    """Where in the source it is, from 0, whether it is segmented or not."""
    sha256: str = ""


class Begun(Record, frozen=True, kw_only=True):
    """A line of the journal: a process has begun."""

    start: Start


class Worked(Record, frozen=True, kw_only=True):
    """A line of the journal: so long it took to write the slices of the lines above, and all that waited for them."""

    seconds: float
    peak_memory_mib: int = 0


LINES: dict[str, type[SliceResult | SliceRead | Begun | Worked]] = {
    "index": SliceResult,
    "place": SliceRead,
    "start": Begun,
    "seconds": Worked,
}
"""The kinds of lines by the key that no other has; a line without these is passed over."""
