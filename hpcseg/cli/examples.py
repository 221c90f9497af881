"""What stands below the options in each command's --help: commands as they are typed, and what they are for."""

from __future__ import annotations

_EXAMPLES: dict[str, dict[str, str]] = {
    "demo": {"hpcseg demo": "everything once, on a sample that it makes, in ./demo"},
    "pack": {
        "hpcseg pack DATA/": "slices in DATA/data, labels in DATA/labels, into dataset.h5",
        "hpcseg pack --images SLICES/ --labels labels.tif -o mine.h5": "from elsewhere; each a folder, or one file",
        "hpcseg pack --images scan.nxs::entry/data/data --labels labels/": "a data set of an HDF5 or NeXus file",
    },
    "info": {
        "hpcseg info": "what is in dataset.h5",
        "hpcseg info scan.nxs": "the data sets of a file that is not packed yet, their sizes and types",
        "hpcseg info mine.h5 --verify": "the same of another file, and whether it is undamaged",
    },
    "grid": {
        "hpcseg grid --dry-run": "what would run, on which slices, and how long",
        "hpcseg grid --local --set train.width=16": "a model for your own slices, on this machine, a narrower one",
        "hpcseg grid --job mine.toml --partition gpu --time 2:00:00 --mem 16G": "your own job file, as Slurm arrays",
    },
    "status": {
        "hpcseg status --watch": "until nothing runs any more",
        "hpcseg status 'large-*' --run runs/mine": "some cells of one run",
    },
    "report": {
        "hpcseg report": "of the newest run, also before it has ended",
        "hpcseg report --live": "a page that is written again every minute, until it has ended",
        "hpcseg report --run runs/mine --publish results/mine": "and a copy of the records to keep",
    },
    "compare": {"hpcseg compare runs/segment runs/mine": "two runs in one report, paired by seed and slice"},
    "tensorboard": {
        "hpcseg tensorboard": "of the newest run; again, it adds what is new",
        "hpcseg tensorboard runs/mine -o LOGS/mine": "somewhere else, beside other runs",
    },
    "jobs": {"hpcseg jobs": "all of them"},
    "settings": {
        "hpcseg settings train": "of one section",
        "hpcseg settings gap_slices": "one setting",
        "hpcseg settings --job paper": "all, and what this job has in place of the defaults",
    },
    "init": {
        "hpcseg init mine.toml": "job segment, to change",
        "hpcseg init --job seeds mine.toml": "another one",
    },
    "predict": {
        "hpcseg predict s0 SLICES/ -o OUT": "with a trained cell of the newest run",
        "hpcseg predict s0 SLICES/ -o LOOK --every 20": "a quick look before the whole volume",
        "hpcseg predict mine.safetensors volume.tif -o OUT --uncertainty": "with an exported model, and how sure it is",
        "hpcseg predict s0 SLICES/ -o OUT --ensemble s1 --ensemble s2": "three models together",
    },
    "view": {"hpcseg view OUT": "what predict wrote", "hpcseg view dataset.h5": "what was packed"},
    "suggest": {
        "hpcseg suggest 's*' SLICES/": "ten slices to label next, by all seeds of the newest run",
        "hpcseg suggest s0 scan.nxs::entry/data/data -n 5 --every 10": "five, of every tenth slice, by one model",
    },
    "export": {
        "hpcseg export s0 -o mine.safetensors": "one file to keep, or to give away",
        "hpcseg export s0 --bioimageio mine.zip --license CC-BY-4.0": "and a package for the BioImage Model Zoo",
    },
    "doctor": {
        "hpcseg doctor --partition gpu": "with one short job on a node",
        "hpcseg doctor --profile my-site.toml --no-job": "without one",
    },
    "bench": {"hpcseg bench --width 16 --part training --part sweep": "a few minutes; `grid --dry-run` then has times"},
    "logs": {
        "hpcseg logs --failed": "why cells failed",
        "hpcseg logs s0 --follow": "what one cell says",
    },
    "retry": {
        "hpcseg retry": "all that failed",
        "hpcseg retry s0 --mem 64G --time 4:00:00": "one cell, with more memory and time",
    },
    "cancel": {"hpcseg cancel s0": "the jobs of one cell", "hpcseg cancel --dry-run": "what would be cancelled"},
    "clean": {"hpcseg clean --dry-run": "what would be removed"},
    "train": {"hpcseg train s0 --job segment": "one cell, in this process"},
    "version": {"hpcseg version": "the same as hpcseg --version"},
    "help": {"hpcseg help grid": "the same as hpcseg grid --help"},
}


def examples(command: str) -> str:
    """The text below the options of a command; paragraphs, since a --help joins the lines of one."""
    return "\n\n".join(["Examples:", *(f"  {typed}   # {purpose}" for typed, purpose in _EXAMPLES[command].items())])


def commands(command: str) -> list[str]:
    """The commands alone."""
    return list(_EXAMPLES[command])
