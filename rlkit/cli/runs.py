"""Which run folders a command was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlkit.core.errors import ConfigError


def run_paths(words: Sequence[str], runs_dir: Path) -> list[Path]:
    """Folders of runs: each word is one, or a folder with runs below it, or a name or `last` below `runs_dir`.

    In the order of the words, each run once. Raises ConfigError for a word that names none.
    """
    found: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        if (path / "run.json").exists():
            found[path] = None
            continue
        below = sorted(file.parent for file in path.glob("**/run.json")) if path.is_dir() else []
        if below:
            found |= dict.fromkeys(below)
            continue
        if path.is_dir():
            raise ConfigError(f"{word} holds no run", why="no run.json in it or below", fix="rlkit ls lists the runs")
        from rlkit.training.run_folder import find_run

        found[find_run(runs_dir, word)] = None
    return list(found)
