"""rlkit ls."""

from __future__ import annotations

from pathlib import Path

from rlkit.cli.flags import parse
from rlkit.cli.tables import print_table

USAGE = """usage: rlkit ls [--runs DIR]

Lists the runs below DIR (default: runs): status, env steps, last return, dormant units (score at most 0.1) of the last
probe.

example: rlkit ls"""


def main(words: list[str]) -> int:
    """List; the exit status."""
    parsed = parse(words, options=("runs",), switches=(), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    from rlkit.training.run_folder import list_runs

    runs_dir = Path(parsed.options.get("runs", "runs"))
    runs = list_runs(runs_dir)
    if not runs:
        print(f"no runs in {runs_dir}; start one with: rlkit train dqn --env gym/CartPole-v1")
        return 0
    rows = [
        [
            run.path.relative_to(runs_dir).as_posix(),
            run.status,
            f"{run.env_steps:,}",
            "-" if run.last_return is None else f"{run.last_return:.1f}",
            "-" if run.dormant is None else f"{100 * run.dormant:.1f} %",
        ]
        for run in runs
    ]
    print_table(["run", "status", "env steps", "last return", "dormant"], rows)
    return 0
