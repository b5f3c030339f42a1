"""What the plasticity monitor costs: trainings with and without it, interleaved, and the seconds of each kind of probe.

    .venv/bin/python benchmarks/monitor_overhead.py --threads 1 --rounds 5

Probes come at the shortest default interval, 500 gradient steps (runs of more than 100,000 have longer ones). Two
experiments that do the same but for the monitor take turns, each for one whole cycle of four probes, with a third one
that is the second over again: how far its ratio is from 1 is the noise. `share_by_parts` is the time of the probes of a
cycle over that of the cycle in the runs without them: it does not depend on that noise. `share_at_default_period` is
the same in a run of default length. Between probes nothing is hooked: `hooks_between_probes` counts.
"""

from __future__ import annotations

import argparse
import statistics
import time

from common import emit, interleave, machine, paired_ratios, rounded
from rlkit.training.build import planned_updates
from rlkit.training.experiment import Experiment
from rlkit.training.plasticity import probe_period
from rlkit.training.resolve import resolve

CASES = {"dqn": "ALE/Pong-v5", "sac": "dmc/walker-walk"}
LEARNING_STARTS, PERIOD, FULL_EVERY = 1_000, 500, 4


def make(agent: str, threads: int, monitor: bool) -> Experiment:
    flags = {"threads": threads, "learning_starts": LEARNING_STARTS, "replay.capacity": 20_000}
    flags |= {"plasticity.monitor": monitor, "plasticity.period": PERIOD, "plasticity.full_every": FULL_EVERY}
    if agent == "sac":
        flags["random_steps"] = LEARNING_STARTS
    experiment = Experiment(resolve(agent, CASES[agent], flags=flags))
    while experiment.updates < 20:
        experiment.step()
    return experiment


def default_period_of(agent: str) -> int:
    """Gradient steps between probes in a run with default settings."""
    config = resolve(agent, CASES[agent])
    return probe_period(planned_updates(config))


def cycle(experiment: Experiment, updates: int) -> float:
    """Seconds of the next `updates` gradient steps and all that belongs to them."""
    end, start = experiment.updates + updates, time.perf_counter()
    while experiment.updates < end:
        experiment.step()
    experiment.plasticity.take_measurements()
    return time.perf_counter() - start


def probe_seconds(experiment: Experiment, full: bool) -> float:
    """One probe, as the schedule takes it."""
    plasticity = experiment.plasticity
    number = PERIOD * (FULL_EVERY if full else 1)
    start = time.perf_counter()
    before = plasticity.before_update(number)
    plasticity._measure("probe", plasticity._draw(number), 0, number, full=full, before=before)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--agent", choices=list(CASES))
    arguments = parser.parse_args()
    emit(benchmark="monitor_overhead", threads=arguments.threads, period=PERIOD, **machine())
    for agent in [arguments.agent] if arguments.agent else list(CASES):
        monitors = {"without": False, "with": True, "without again": False}
        experiments = {name: make(agent, arguments.threads, monitor) for name, monitor in monitors.items()}
        updates = PERIOD * FULL_EVERY
        cases = {name: (lambda e=experiment, n=updates: cycle(e, n)) for name, experiment in experiments.items()}
        found = interleave(cases, arguments.rounds)
        watched = experiments["with"]
        light, full = (statistics.median(probe_seconds(watched, kind) for _ in range(5)) for kind in (False, True))
        without = statistics.median(found["without"] + found["without again"])
        share = ((FULL_EVERY - 1) * light + full) / without
        default = default_period_of(agent)
        emit(
            case=f"{agent} on {CASES[agent]}",
            ratio=rounded(paired_ratios(found["with"], found["without"]), 4),
            ratio_of_two_without=rounded(paired_ratios(found["without again"], found["without"]), 4),
            share_by_parts=round(share, 4),
            default_period=default,
            share_at_default_period=round(share * PERIOD / default, 4),
            light_probe_ms=round(1000 * light, 2),
            full_probe_ms=round(1000 * full, 2),
            update_and_steps_ms=round(1000 * without / updates, 2),
            hooks_between_probes=sum(len(m._forward_hooks) for m in watched.agent.networks.modules()),
        )
        for experiment in experiments.values():
            experiment.close()


if __name__ == "__main__":
    main()
