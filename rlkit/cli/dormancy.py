"""rlkit dormancy."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
import time
from pathlib import Path

from rlkit.cli.flags import one_positional, parse
from rlkit.core.errors import ConfigError

USAGE = """usage: rlkit dormancy RUN [--threshold T] [--score NAME] [--follow] [--runs DIR]

Shows per layer which share of the units is dormant, over the time of a run that is finished or running.
--threshold T   a unit is dormant if its score is at most T (default 0.025), a share of the layer's average
--score NAME    redo (default) or another one that the record holds: redo_centred, active_share, ace, grama
--follow        show it anew while the run is running
--runs DIR      where run folders are (default: runs)

example: rlkit dormancy last --threshold 0.1"""
_PERIOD_S = 2.0


def main(words: list[str]) -> int:
    """Show; the exit status."""
    parsed = parse(words, options=("threshold", "score", "runs"), switches=("follow",), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    text = one_positional(parsed, "RUN", USAGE)
    threshold = _threshold(parsed.options.get("threshold", "0.025"))
    from rlkit.cli.runs import run_paths
    from rlkit.report.run_data import load_run
    from rlkit.report.terminal import dormancy_lines

    paths = run_paths([text], Path(parsed.options.get("runs", "runs")))
    if len(paths) > 1:
        raise ConfigError(f"{text} holds {len(paths)} runs", why="one is shown", fix=f"rlkit dormancy {paths[-1]}")
    blocks = (sys.stdout.encoding or "").lower().startswith("utf")
    printed = 0
    while True:
        run = load_run(paths[0])
        status = _status(paths[0], str(run.about.get("status", "?")))
        if status != run.about.get("status"):  # it has just ended: what came last is to be shown, too
            run = load_run(paths[0])
            run = dataclasses.replace(run, about=run.about | {"status": status})
        goes_on = "follow" in parsed.switches and status == "running"
        columns = shutil.get_terminal_size().columns
        if goes_on and not run.record.parts and run.config.get("plasticity", {}).get("monitor", True):
            lines = [f"{run.name}, running: no probe yet"]
        else:
            score = parsed.options.get("score", "redo")
            lines = dormancy_lines(run, threshold, score, columns=columns, blocks=blocks)
        if printed and sys.stdout.isatty():
            sys.stdout.write(f"\x1b[{printed}F\x1b[J")
        print("\n".join(lines), flush=True)
        printed = sum(max(1, math.ceil(len(line) / columns)) for line in lines)  # long ones go on in the next row
        if not goes_on:
            return 0
        time.sleep(_PERIOD_S)


def _status(path: Path, written: str) -> str:
    """As `rlkit ls` says it: a run whose process is gone does not run. Logs of other loops have no lock to tell."""
    if written != "running" or not (path / "lock").exists():
        return written
    from rlkit.training.run_folder import RunFolder

    return RunFolder(path).status()


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"--threshold is {text!r}", why="it must be a number of 0 or more", fix="--threshold 0.025")
    return value
