"""Samplers and episodes for other people's code. One file per library; each is imported by name, none by another.

An adapter tells the sampler which slots the foreign buffer writes, lets it draw, and leaves the data, its layout and
what the end of an episode means to the library.
"""

from __future__ import annotations

from rlkit.core.errors import EnvError


def package_missing(package: str, requirement: str) -> EnvError:
    """The error to raise from the ImportError of `package`; `requirement` is what pip takes."""
    return EnvError(
        f"the package {package} is not installed",
        why="this adapter plugs into it, and rlkit itself does not need it",
        fix=f"pip install '{requirement}'",
        see="docs/plugins/README.md",
    )
