"""h5py, told to do without file locks. Whoever needs it takes it from here, since it looks only when it is loaded."""

from __future__ import annotations

import os

# Lustre and many NFS mounts have no locks, and nobody writes into a packed file.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
# The raw files that a data set names lie beside it, as those of a virtual data set do, wherever a command is run.
os.environ.setdefault("HDF5_EXTFILE_PREFIX", "${ORIGIN}")

import h5py

__all__ = ["h5py"]
