"""The YAML files that come with rlkit: agents, family defaults, presets."""

from __future__ import annotations

from importlib import resources

from rlkit.configs.parse import Setting, read_layer
from rlkit.core.errors import ConfigError, nearest


def available(kind: str = "") -> list[str]:
    """Names of the shipped agents (kind ""), "presets" or "families"."""
    folder = resources.files("rlkit.configs").joinpath(kind)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_named(kind: str, name: str) -> dict[str, Setting]:
    """A shipped layer. Raises ConfigError with the nearest and all names."""
    known = available(kind)
    if name not in known:
        what = "agent" if kind == "" else kind.removesuffix("s")
        raise ConfigError(
            f"unknown {what} {name!r}",
            why=f"there are: {', '.join(known)}.{nearest(name, known)}",
            fix="rlkit agents lists them" if kind == "" else f"--{what} {known[0]}",
            see="docs/configuration.md",
        )
    place = f"{kind}/{name}.yaml" if kind else f"{name}.yaml"
    return read_layer(resources.files("rlkit.configs").joinpath(kind, f"{name}.yaml").read_text(), f"configs/{place}")
