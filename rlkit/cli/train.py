"""rlkit train."""

from __future__ import annotations

from pathlib import Path

from rlkit.cli.flags import Parsed, one_positional, parse
from rlkit.configs.schema import RunConfig

USAGE = """usage: rlkit train AGENT --env ID [--preset NAME] [--config FILE] [--runs DIR] [--dry-run] [--KEY VALUE ...]

Trains AGENT (rlkit agents lists them) on an environment (rlkit envs lists them) in a new run folder.
--preset NAME   a named set of settings: smoke, quickstart, atari-hour
--config FILE   settings in a YAML file
--runs DIR      where run folders go (default: runs)
--dry-run       print the plan (frames, updates, memory, disk, time) and stop
--KEY VALUE     any setting: --seed 1, --env.num_envs 8, --agent.learning_rate 1e-3, --replay.capacity 200000

example: rlkit train sac --env dmc/walker-walk --env_steps 50000 --seed 1"""


def main(words: list[str]) -> int:
    """Plan, check, train; the exit status."""
    options = ("preset", "config", "runs")
    parsed = parse(words, options=options, switches=("dry-run",), settings=True, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    agent = one_positional(parsed, "AGENT", USAGE)
    from rlkit.training.experiment import train
    from rlkit.training.plan import make_plan

    config, _ = resolve_words(agent, parsed)
    runs = Path(parsed.options.get("runs", "runs"))
    dry_run = "dry-run" in parsed.switches
    plan = make_plan(config, runs, measure=dry_run)
    print(f"{config.name} on {config.env.id}, seed {config.seed}")
    print("\n".join(f"  {line}" for line in plan.lines()))
    plan.check()
    if dry_run:
        print("dry run: nothing was written; leave out --dry-run to train")
        return 0
    return train(config, runs)


def resolve_words(agent: str, parsed: Parsed) -> tuple[RunConfig, dict[str, str]]:
    """The settings that the command line asks for, and where each comes from."""
    from rlkit.training.resolve import resolve_with_origins

    env_id = parsed.settings.pop("env", parsed.settings.pop("env.id", ""))
    file = parsed.options.get("config")
    return resolve_with_origins(
        agent,
        env_id,
        preset=parsed.options.get("preset"),
        config_file=Path(file) if file else None,
        flags=parsed.settings,
    )
