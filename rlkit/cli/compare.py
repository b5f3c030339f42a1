"""rlkit compare."""

from __future__ import annotations

from pathlib import Path

from rlkit.cli.flags import parse
from rlkit.cli.tables import print_table
from rlkit.core.errors import ConfigError

USAGE = """usage: rlkit compare RUN ... [--by KEY] [--force] [--runs DIR]

Compares groups of runs: interquartile mean of what they reached with its 95 % stratified bootstrap interval, and the
probability that a run is better than one of the first group. A RUN may be a folder with runs below it.
--by KEY     what makes a group: agent (default; with its interventions), or any setting, as in plasticity.replay_ratio
--force      compare although environments, protocols, lengths or definitions differ
--runs DIR   where run folders are (default: runs)

example: rlkit compare runs --by plasticity.interventions"""


def main(words: list[str]) -> int:
    """Compare and print; the exit status."""
    parsed = parse(words, options=("by", "runs"), switches=("force",), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    if not parsed.positional:
        raise ConfigError("RUN is missing", why="at least two runs are compared", fix=USAGE.splitlines()[0])
    import numpy as np

    from rlkit.cli.runs import run_paths
    from rlkit.report.compare import compare
    from rlkit.report.run_data import load_run

    runs = [load_run(path) for path in run_paths(parsed.positional, Path(parsed.options.get("runs", "runs")))]
    by = parsed.options.get("by", "agent")
    result = compare(runs, by, np.random.default_rng(0), force="force" in parsed.switches)
    rows = [
        [
            group.name,
            f"{sum(len(values) for values in group.scores.values())}",
            f"{len(group.scores)}",
            f"{group.mean:.2f}",
            "-" if group.interval is None else "{:.2f} to {:.2f}".format(*group.interval),
            "-" if group.better is None else f"{group.better:.2f}",
            "-" if group.better_interval is None else "{:.2f} to {:.2f}".format(*group.better_interval),
        ]
        for group in result.groups
    ]
    columns = [by, "runs", "environments", "IQM", "95 % interval", f"P(better than {result.groups[0].name})", "95 %"]
    print_table(columns, rows)
    for note in result.notes:
        print(note)
    return 0
