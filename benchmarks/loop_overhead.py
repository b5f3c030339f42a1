"""Where a training step's time goes at the agents' defaults: env step, acting, update, and everything else.

    .venv/bin/python benchmarks/loop_overhead.py --threads 1 --rounds 5

"Everything else" is the loop's own cost: replay writes, drawing batches, schedules, metrics, checks. Every share is of
the same window, timed around the calls of one running experiment; the learning starts early and the replay is smaller
than the default, which changes neither the work of a step nor that of an update.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from common import emit, machine
from rlkit.training.experiment import Experiment
from rlkit.training.resolve import resolve

CASES = {"dqn": "ALE/Pong-v5", "sac": "dmc/walker-walk"}
LEARNING_STARTS = 300
INSIDE = ("env", "act", "update")  # what any loop must do; the rest is ours


def timed(call: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    """`call`, adding its seconds to `spent[name]`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        spent[name] += time.perf_counter() - start
        return result

    return wrapper


def shares(experiment: Experiment, spent: dict[str, float], seconds: float) -> dict[str, float]:
    """Share of each part in a window of `seconds`; `total_ms` an env step."""
    spent.clear()
    before, start = experiment.env_steps, time.perf_counter()
    while time.perf_counter() - start < seconds:
        experiment.step()
    total = time.perf_counter() - start
    parts = {name: spent[name] / total for name in (*INSIDE, "sample", "add")}
    rest = 1 - sum(parts[name] for name in INSIDE)
    return {**parts, "overhead": rest, "total_ms": 1000 * total / (experiment.env_steps - before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    emit(benchmark="loop_overhead", threads=arguments.threads, **machine())
    running = {}
    for agent, env_id in CASES.items():
        flags = {"threads": arguments.threads, "learning_starts": LEARNING_STARTS, "replay.capacity": 20_000}
        if agent == "sac":
            flags["random_steps"] = LEARNING_STARTS
        experiment, spent = Experiment(resolve(agent, env_id, flags=flags)), defaultdict[str, float](float)
        wrapped: list[tuple[Any, str, str]] = [
            (experiment.env, "step", "env"),
            (experiment.agent, "act", "act"),
            (experiment.agent, "update", "update"),
            (experiment.replay, "sample", "sample"),
            (experiment.replay, "add", "add"),
        ]
        for owner, method, name in wrapped:
            setattr(owner, method, timed(getattr(owner, method), spent, name))
        while experiment.env_steps < LEARNING_STARTS + 100:
            experiment.step()
        running[agent] = (experiment, spent)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for agent, (experiment, spent) in running.items():
            found[agent].append(shares(experiment, spent, arguments.seconds))
    for agent, rounds in found.items():
        medians = {key: round(statistics.median(row[key] for row in rounds), 4) for key in rounds[0]}
        emit(case=f"{agent} on {CASES[agent]}", rounds_overhead=[round(r["overhead"], 4) for r in rounds], **medians)


if __name__ == "__main__":
    main()
