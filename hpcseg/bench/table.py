"""A bench's record in, Markdown and the name of the bottleneck out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_ENOUGH = 0.95
_MOSTLY = 0.6


def as_markdown(record: dict[str, Any]) -> str:
    """The record as tables, each with what it was measured on."""
    return "\n".join(_lines(record)) + "\n"


def bottleneck(part: dict[str, Any]) -> str:
    """What a training or a sweep waits for most, of one width."""
    against, share = part["against no data work"], part["share of the peak"]
    if against < _ENOUGH:
        return f"what is around the network: {1 - against:.0%} of the time are not spent in it"
    if share > _MOSTLY:
        return "the convolutions, which run close to the hardware's peak"
    return "the network's smaller layers and its memory traffic: the convolutions alone could be faster"


def _lines(record: dict[str, Any]) -> Iterator[str]:
    of = record["provenance"]
    machine = ", ".join(filter(None, [of["device"], of.get("processor")]))
    yield f"{machine}, {of['cores']} cores, torch {of['torch']}, {record['precision']}, hpcseg {of['commit']}."
    yield f"`{of['command']}`, {of['time']}. Medians of {record['rounds']} rounds in which all take turns."
    for name, unit in (("training", "trained"), ("sweep", "evaluated")):
        if name in record:
            yield from _against(name, unit, record[name])
    yield ""
    yield "| peak of the hardware | GFLOP/s |"
    yield "|---|---|"
    for name, rate in record["hardware"]["operations_per_second"].items():
        yield f"| {name} | {rate / 1e9:.0f} |"
    if "pack" in record:
        yield from _pack(record["pack"])
    if "startup" in record:
        yield ""
        yield "| start-up | seconds |"
        yield "|---|---|"
        for name, seconds in record["startup"]["seconds"].items():
            yield f"| {name} | {seconds:.2f} |"


def _against(name: str, unit: str, widths: dict[str, Any]) -> Iterator[str]:
    ours, resident = next(iter(widths.values()))["tiles_per_second"]
    yield ""
    yield f"| {name}: tiles {unit} per second | {ours} | {resident} | {ours} / {resident} | of the peak |"
    yield "|---|---|---|---|---|"
    for width, part in widths.items():
        rates = " | ".join(f"{rate:.1f}" for rate in part["tiles_per_second"].values())
        yield f"| width {width} | {rates} | {part['against no data work']:.3f} | {part['share of the peak']:.0%} |"
    yield ""
    for width, part in widths.items():
        yield f"Width {width} waits for {bottleneck(part)}."


def _pack(compressions: dict[str, Any]) -> Iterator[str]:
    first = next(iter(compressions.values()))
    contenders = list(first["bytes_per_second"])
    yield ""
    yield (
        f"| pack: MB of decoded pixels per second | {' | '.join(contenders)} "
        "| pack / the slower of decode and write | peak memory, MiB |"
    )
    yield "|---" * (len(contenders) + 3) + "|"
    for compression, part in compressions.items():
        rates = " | ".join(f"{rate / 1e6:.0f}" for rate in part["bytes_per_second"].values())
        slower = part["against"][part["slower"]]
        yield f"| compression {compression} | {rates} | {slower:.2f} | {part['peak_memory_mib']} |"
    yield ""
    yield f"{first['slices']} slices of {first['size']} x {first['size']} pixels: 2 bytes grey value, 1 byte label."
