"""The errors that a user can cause or meet, each with the exit code of the command that ends with it.

    HpcsegError            1   anything else that the user can act on
    |- ConfigError         2   a job file, a profile or a command-line option
    |- DatasetError        3   TIFF slices, labels, the packed HDF5 file
    |- SchedulerError      4   sbatch, squeue and their relatives
    `- IncompleteError     5   results that are asked for and not there (yet)

Each takes one text, which says what was wrong, where, and what to do. One argument survives pickling, so the
same error reads the same after a trip through a worker process.
"""


class HpcsegError(Exception):
    """Base of all errors that end a command with one sentence instead of a traceback."""

    exit_code = 1


class ConfigError(HpcsegError):
    """A setting is unknown, of the wrong type or out of its range."""

    exit_code = 2


class DatasetError(HpcsegError):
    """Slices, labels or a packed file cannot be used as they are."""

    exit_code = 3


class SchedulerError(HpcsegError):
    """The cluster's scheduler refused, failed or did not answer."""

    exit_code = 4


class IncompleteError(HpcsegError):
    """Records that a command needs do not exist (yet)."""

    exit_code = 5
