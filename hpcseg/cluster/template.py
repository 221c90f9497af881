"""A user's job script with words in braces in; the script of one job, and the commands that submit and cancel it, out.

For a scheduler that hpcseg does not know. Two kinds of lines tell how to use it, as they would be typed:

    #HPCSEG submit = qsub {script}          or bsub < {script}, which gives the script to its standard input
    #HPCSEG cancel = qdel {id}              may be left out

Both run without a shell. A template is code of the user's, as a profile's `setup` lines are.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.files import read_regular
from hpcseg.text import has_controls

WORDS: Mapping[str, str] = {
    "command": "what the job runs",
    "log": "the file for all that it prints",
    "name": "its name, of at most 15 letters",
    "gpus": "how many GPUs",
    "cpus": "how many cores",
    "memory_gib": "host memory in GiB",
    "minutes": "its time limit",
}
"""What may stand in braces in a template, and what takes its place."""
_MOST_BYTES = 1_000_000
_SECONDS = 120
# `${NAME}` is the shell's.
_WORD = re.compile(r"(?<!\$)\{([A-Za-z_]\w*)\}")
_OURS = re.compile(r"#HPCSEG\b")
# A scheduler's own lines follow the # at once: #PBS, #BSUB, #OAR, #$.
_COMMENT = re.compile(r"\s*#(\s|#|$)")
_ENTRY = re.compile(r"#HPCSEG[ \t]+(submit|cancel)[ \t]*=[ \t]*(\S.*)")
# Both are quoted for a shell already.
_IN_QUOTES = re.compile(r"""["'`]\{(command|log)\}|\{(command|log)\}["'`]""")
_SHELLS = re.compile(r"[|&;<>()$`]")
# Some print other numbers before it.
_NUMBERS = (re.compile(r"\b[Jj]ob <?([0-9]+)\b"), re.compile(r"\bOAR_JOB_ID=([0-9]+)"), re.compile(r"([0-9]+)"))


@dataclass(frozen=True)
class Template:
    """A job script of the user's."""

    text: str
    submit: tuple[str, ...]
    """The command that submits a script, with {script} in the place of its path, or without where it reads it."""
    reads: bool
    """The script is the command's standard input."""

    @property
    def sha256(self) -> str:
        """Of its text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def script(self, values: Mapping[str, str]) -> str:
        """The script of one job; `values` are those of all `WORDS`, each on one line."""
        lines = self.text.splitlines(keepends=True)
        return "".join(line if _is_kept(line) else _WORD.sub(lambda found: values[found[1]], line) for line in lines)


def _is_kept(line: str) -> bool:
    return bool(_OURS.match(line) or _COMMENT.match(line))


def read_template(path: Path) -> Template:
    """Read and check a template.

    Raises:
        ConfigError: it cannot be read, has a control character, an unknown word, no {command}, or no command that
            submits a script.
    """
    text = _read(path)
    told = _told(text, path)
    has_command = False
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, line {number}"
        if _is_kept(line):
            continue
        words = _WORD.findall(line)
        _refuse_unknown(words, WORDS, where)
        if quoted := _IN_QUOTES.search(line):
            raise ConfigError(f"{where}: {{{quoted[1] or quoted[2]}}} is quoted already. Take its quotes off.")
        has_command |= "command" in words and not line.lstrip().startswith("#")
    if not has_command:
        raise ConfigError(f"{path} has no line with {{command}}, so its jobs would do nothing: exec {{command}}")
    if "submit" not in told:
        raise ConfigError(
            f"{path} does not say how a script is submitted. Write a line such as `#HPCSEG submit = qsub {{script}}` "
            "or `#HPCSEG submit = bsub < {script}`."
        )
    before, reads, after = told["submit"].partition("<")
    if reads and after.strip() != "{script}":
        raise ConfigError(f"{path}: behind < stands {{script}} alone, but it is {after.strip()}.")
    submit = _split(before, "script", f"{path}, submit", needed=not reads)
    if "cancel" in told:
        _split(told["cancel"], "id", f"{path}, cancel")
    return Template(text, submit, bool(reads))


def _read(path: Path) -> str:
    try:
        text = read_regular(path.resolve(), _MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"The template {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise ConfigError(f"The template {path} is no text in UTF-8.") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if has_controls(line.replace("\t", " ")):
            raise ConfigError(
                f"{path}, line {number} has a control character, perhaps the line ends of Windows. Take it out."
            )
    return text


def _told(text: str, path: Path) -> dict[str, str]:
    """What the lines of `#HPCSEG` say, by their first word."""
    told: dict[str, str] = {}
    for line in filter(_OURS.match, text.split("\n")):
        entry = _ENTRY.fullmatch(line.rstrip())
        if entry is None or entry[1] in told:
            raise ConfigError(
                f"{path}: {line}: #HPCSEG is for `#HPCSEG submit = COMMAND {{script}}` and "
                "`#HPCSEG cancel = COMMAND {id}`, once each."
            )
        told[entry[1]] = entry[2]
    return told


def _split(line: str, word: str, where: str, *, needed: bool = True) -> tuple[str, ...]:
    if shells := _SHELLS.search(line):
        raise ConfigError(
            f"{where}: it runs without a shell, which {shells[0]} would be for. Write what a shell has to do into a "
            "script of your own, and name that."
        )
    try:
        parts = tuple(shlex.split(line))
    except ValueError as error:
        raise ConfigError(f"{where}: {line} is no command: {error}.") from None
    words = _WORD.findall(" ".join(parts))
    _refuse_unknown(words, [word], where)
    if not parts or bool(words) != needed:
        raise ConfigError(
            f"{where}: a command {f'with {{{word}}}' if needed else 'and < {script}'} has to stand there."
        )
    return parts


def _refuse_unknown(words: list[str], known: Mapping[str, str] | list[str], where: str) -> None:
    for word in words:
        if word not in known:
            raise ConfigError(
                f"{where}: {{{word}}} is no word that is known there; known is {_list(known)}. A variable of the shell "
                f"is ${{{word}}}, and {{ {word} }} with blanks is the shell's own."
            )


def _list(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(f"{{{name}}}" if name in WORDS or name in ("script", "id") else name for name in sorted(names))


def submit_script(template: Template, script: Path) -> str | None:
    """Submit a script; returns the job's number, or None where it is not known whether it was taken.

    Raises:
        SchedulerError: the command is not there, or refuses; what it said is in the message.
    """
    command = [part.replace("{script}", str(script)) for part in template.submit]
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(script.open("rb")) if template.reads else subprocess.DEVNULL
        try:
            said = _run(command, given)
        except subprocess.TimeoutExpired:
            return None
        except (OSError, subprocess.CalledProcessError) as error:
            raise SchedulerError(f"`{shlex.join(command)}` refused the job: {_what(error)}") from None
    found = next((found for pattern in _NUMBERS if (found := pattern.search(said))), None)
    return found[1] if found else None


def cancel_job(script: Path, number: str | None) -> str:
    """Cancel a job by its number, with the command that its script has for it; returns what went wrong, or nothing."""
    try:
        told = _told(_read(script), script)
        command = [part.replace("{id}", number or "") for part in _split(told.get("cancel", ""), "id", str(script))]
    except ConfigError:
        command = []
    if not (command and number):
        return "your template has no command to cancel it"
    try:
        _run(command, subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        return f"`{shlex.join(command)}`: {_what(error)}"
    return ""


def _run(command: list[str], given: IO[bytes] | int) -> str:
    done = subprocess.run(
        command, stdin=given, capture_output=True, check=True, timeout=_SECONDS, encoding="utf-8", errors="replace"
    )
    return done.stdout


def _what(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return " ".join(f"{error.stderr} {error.stdout}".split()) or f"it ended with {error.returncode}."
    return f"{error}."
