"""Words of the command line into options and settings; argparse cannot take any `--a.b value`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlkit.core.errors import ConfigError, nearest


@dataclass
class Parsed:
    """What was typed."""

    positional: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)  # of the command itself
    switches: set[str] = field(default_factory=set)
    settings: dict[str, str] = field(default_factory=dict)  # of the run: dotted keys

    def help_wanted(self) -> bool:
        """Whether --help was typed."""
        return "help" in self.switches


def parse(
    words: list[str], *, options: tuple[str, ...], switches: tuple[str, ...], settings: bool, usage: str
) -> Parsed:
    """Split `words`; a flag that is neither an option nor a switch is a setting, or an error if there are none.

    Both `--key value` and `--key=value`. Raises ConfigError for a flag without value, twice the same, or unknown.
    """
    parsed, rest = Parsed(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "-h":
            word = "--help"
        if not word.startswith("--"):
            parsed.positional.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if key in (*switches, "help") and not equals:
            parsed.switches.add(key)
            continue
        if key not in options and not settings:
            known = [*options, *switches, "help"]
            raise ConfigError(
                f"unknown option --{key}",
                why=f"known: {', '.join('--' + name for name in known)}.{nearest(key, known)}",
                fix=usage.splitlines()[0],
            )
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} has no value", why="a value must follow", fix=f"--{key} VALUE")
            value = rest.pop(0)
        place = parsed.options if key in options else parsed.settings
        if key in place:
            raise ConfigError(f"--{key} is given twice", why=f"as {place[key]!r} and {value!r}", fix="keep one")
        place[key] = value
    return parsed


def one_positional(parsed: Parsed, what: str, usage: str) -> str:
    """The single word that a command needs. Raises ConfigError if there is none or more."""
    if len(parsed.positional) == 1:
        return parsed.positional[0]
    found = " ".join(parsed.positional) or "nothing"
    raise ConfigError(
        f"{what} is missing" if not parsed.positional else f"too many words: {found}",
        why=f"one {what} is needed, found {found}",
        fix=usage.splitlines()[0],
    )


def whole_number(options: Mapping[str, str], key: str, default: int) -> int:
    """Option `key` as a positive whole number."""
    text = options.get(key, str(default))
    if not text.isdigit() or int(text) == 0:
        raise ConfigError(f"--{key} is {text!r}", why="it must be a whole number above 0", fix=f"--{key} {default}")
    return int(text)
