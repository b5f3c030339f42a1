"""rlkit resume."""

from __future__ import annotations

from pathlib import Path

from rlkit.cli.flags import one_positional, parse

USAGE = """usage: rlkit resume RUN [--break-lock] [--fork] [--runs DIR] [--KEY VALUE ...]

Goes on with RUN (a path, a folder name, or `last`) from its newest whole checkpoint.
--break-lock    take over a run whose process is dead on another machine
--fork          go on in a copy, where any setting may change
--runs DIR      where run folders are (default: runs)
--KEY VALUE     a changed setting: env_steps, threads, logging.*, evaluation.*, checkpoint.*; others need --fork

example: rlkit resume last --env_steps 200000"""


def main(words: list[str]) -> int:
    """Continue; the exit status."""
    parsed = parse(words, options=("runs",), switches=("break-lock", "fork"), settings=True, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    text = one_positional(parsed, "RUN", USAGE)
    from rlkit.training.experiment import resume
    from rlkit.training.plan import make_plan
    from rlkit.training.resolve import check_resume, load_config, with_flags
    from rlkit.training.run_folder import RunFolder, find_run

    runs = Path(parsed.options.get("runs", "runs"))
    run = RunFolder.open(find_run(runs, text)).path
    old = load_config(run / "config.yaml")
    new = with_flags(run / "config.yaml", parsed.settings)
    fork = "fork" in parsed.switches
    for key, before, after in check_resume(old, new, allow_all=fork):
        print(f"changed: {key} {before} -> {after}")
    make_plan(new, runs, measure=False).check()
    return resume(run, new, fork=fork, break_lock="break-lock" in parsed.switches)
