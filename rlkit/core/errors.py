"""Errors that say what happened, why, and what to type next."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class RlkitError(Exception):
    """An error for a person: `error[CODE]: what`, one line why, `fix:`, `see:`.

    `exit_code` is the status of the command line; subclasses fix it and `code`.
    """

    code = "rlkit"
    exit_code = 1

    def __init__(self, what: str, *, why: str, fix: str, see: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix, self.see = what, why, fix, see

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.what}", self.why, f"fix: {self.fix}"]
        if self.see:
            lines.append(f"see: {self.see}")
        return "\n".join(lines)


class ConfigError(RlkitError):
    """A key, value, agent or command that does not exist or does not fit."""

    code, exit_code = "config", 2


class EnvError(RlkitError):
    """An environment, its packages or its renderer cannot be used."""

    code, exit_code = "environment", 3


class ResumeError(RlkitError):
    """A run folder or checkpoint cannot be continued."""

    code, exit_code = "resume", 4


class NumericError(RlkitError):
    """NaN or infinity in a loss or a parameter."""

    code, exit_code = "numeric", 5


class ResourceError(RlkitError):
    """Memory, disk or device does not suffice."""

    code, exit_code = "resources", 6


class ReplayError(RlkitError):
    """Replay was asked for something that it cannot do; its content is unchanged."""

    code, exit_code = "replay", 2


def system_error(error: OSError, *, why: str, fix: str) -> ResourceError:
    """What the operating system refused, for a person: a full disk, a file that may not be written, ...

    why: what has come of it. fix: what to type when the cause is gone.
    """
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else error.strerror or str(error)
    return ResourceError(
        f"{what}: {error.filename}" if error.filename else what,
        why=why,
        fix=f"{'free disk space' if full else 'mend that'}, then {fix}",
        see="docs/run_folder.md",
    )


def require(holds: bool, key: str, value: object, allowed: str, see: str = "docs/configuration.md") -> None:
    """ConfigError about the setting `key` unless `holds`. A comparison with NaN does not hold."""
    if not holds:
        raise ConfigError(f"{key} is {value}", why=f"allowed: {allowed}", fix=f"--{key} VALUE", see=see)


def nearest(word: str, choices: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of `choices`, or an empty string."""
    known = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.55)
    return f" Did you mean {known[close[0]]!r}?" if close else ""


def look_up(table: Mapping[str, T], name: str, what: str, *, fix: str, see: str) -> T:
    """The entry of a registry. Raises ConfigError with the nearest and all names: `unknown {what} 'x'`."""
    if name not in table:
        why = f"there are: {', '.join(table)}.{nearest(name, table)}"
        raise ConfigError(f"unknown {what} {name!r}", why=why, fix=fix, see=see)
    return table[name]
