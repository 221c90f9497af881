"""A notebook as a script: from slices with labels to a model, its labels and its numbers. Into the current folder.

Cells begin with `# %%`, as Jupytext, VS Code and Spyder read them. tests/test_api.py runs it.
"""

# %% Slices with labels; here a synthetic sample, of your own only the path
from pathlib import Path

import numpy as np

import hpcseg.api as hs
from hpcseg.data.sample import write_sample

write_sample(Path("DATA"), slices=16, size=64, seed=3)

# %% What is there?
source = hs.open_source("DATA/data")
first = source.read(0)
print(f"{len(source)} slices, the first {first.shape[0]} x {first.shape[1]} pixels of {first.dtype}")

# %% Pack them with their labels (a script with thousands of slices does this under `if __name__ == "__main__":`)
packed = hs.pack("DATA", "set.h5", classes={"pore": 0, "ceramic": 128, "metal": 255})
print(f"{packed.shape[0]} slices of {', '.join(packed.class_names)}")

# %% Train one model, a small one on small tiles; interrupted, the same call goes on
cell = hs.train(
    "set.h5",
    out="run",
    settings={
        "train.width": 4,
        "train.depth": 2,
        "train.epochs": 12,
        "train.batch_size": 2,
        "train.learning_rate": 0.01,
        "train.noise_fraction": 0,
        "train.precision": "fp32",
        "data.tile_size": 64,
    },
    say=print,
)

# %% Segment slices that are in memory
model = hs.load_model(cell)
volume = np.stack([source.read(index) for index in range(len(source))])
labels, uncertainty = hs.predict(model, volume, uncertainty=True)
for value, name in zip(model.card.class_values, model.card.class_names, strict=True):
    print(f"{name}: {np.mean(labels == value):.1%}")
print(f"least certain: slice {source.numbers[uncertainty.mean((1, 2)).argmax()]}")

# %% How good is it? Every number of the run as a row: pandas.DataFrame(rows) is a table
rows = hs.read_table("run")
for row in rows:
    if row["set"] == "test" and row["measure"] == "accuracy":
        print(f"{row['noise']}: {row['value']:.3f} of the test pixels are right")
