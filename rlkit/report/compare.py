"""Groups of runs against each other: what they reached, how sure that is, and whether they may be compared at all."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkit.core.errors import ConfigError
from rlkit.plasticity.measurement import Definition
from rlkit.report.run_data import RunData
from rlkit.report.statistics import (
    interquartile_mean,
    interquartile_mean_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
)

FEWEST_SEEDS = 3  # below this an interval would only look like one
_LAST_SHARE = 0.1  # of the env steps, over which training returns are averaged if there is no evaluation


@dataclass(frozen=True)
class Group:
    """Runs that share a value."""

    name: str
    runs: list[RunData]
    scores: dict[str, list[float]]  # by environment
    mean: float  # interquartile, over all scores
    interval: tuple[float, float] | None  # 95 %; None with fewer than 3 seeds in some environment
    better: float | None  # P(a run of this group is better than one of the first group)
    better_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """Groups in the order in which their first runs were given; notes say what a reader must know."""

    by: str
    groups: list[Group]
    notes: list[str]


def final_score(run: RunData) -> tuple[float, str] | None:
    """What a run reached and where that number is from, or None if it has none yet."""
    if run.evaluations:
        return float(run.evaluations[-1]["mean"]), "mean return of the last evaluation"
    returns = [line for line in run.metrics if "episode_return" in line]
    if not returns:
        return None
    since = (1 - _LAST_SHARE) * run.metrics[-1]["step"]
    last = [line for line in returns if line["step"] >= since] or returns[-1:]
    weights = [line.get("episodes", 1) for line in last]  # a line is the mean of so many episodes
    mean = np.average([line["episode_return"] for line in last], weights=weights)
    return float(mean), "mean training return of the last tenth"


def compare(runs: Sequence[RunData], by: str, rng: np.random.Generator, *, force: bool = False) -> Comparison:
    """Groups of `runs` by the setting `by` (a dotted key, or "agent").

    Raises ConfigError if there are fewer than two runs with a score, and unless `force` if what they report differs in
    kind: environments, evaluations or training returns, protocols, lengths, definitions of dormancy, probes.
    """
    scored = [(run, score) for run in runs if (score := final_score(run)) is not None]
    if len(scored) < 2:
        raise ConfigError(
            f"{len(scored)} of {len(runs)} runs have a return",
            why="two are needed for a comparison",
            fix="give more runs: rlkit ls lists them",
            see="docs/report.md",
        )
    grouped: dict[str, list[tuple[RunData, tuple[float, str]]]] = {}
    for run, score in scored:
        grouped.setdefault(value_of(run, by), []).append((run, score))
    notes = [f"left out, no return yet: {run.path.name}" for run in runs if final_score(run) is None]
    differing = differences([run for run, _ in scored], grouped)
    if differing and not force:
        raise ConfigError(
            "these runs do not measure the same: " + "; ".join(differing),
            why="their difference would not be that of " + by,
            fix="leave the odd ones out, or add --force",
            see="docs/report.md",
        )
    notes += [f"compared by force although {line}" for line in differing]
    sources = {source for _, (_, source) in scored}
    notes += [f"scores: {source}" for source in sorted(sources)]
    unfinished = [f"{run.path.name} ({run.about.get('status')})" for run, _ in scored if not _finished(run)]
    if unfinished:
        notes.append(f"not finished, what they have reached so far counts: {', '.join(unfinished)}")
    groups: list[Group] = []
    for name, members in grouped.items():
        scores: dict[str, list[float]] = {}
        for run, (reached, _) in members:
            scores.setdefault(str(run.about.get("env", "")), []).append(reached)
        enough = min(len(values) for values in scores.values()) >= FEWEST_SEEDS
        seeds = Counter((run.about.get("env", ""), run.about.get("seed")) for run, _ in members)
        notes += [
            f"{name}: {count} runs on {env or 'the task'} have seed {seed}; if one is a copy, intervals are too narrow"
            for (env, seed), count in seeds.items()
            if count > 1
        ]
        if not enough:
            notes.append(f"{name}: fewer than {FEWEST_SEEDS} seeds in an environment, so no interval")
        first = groups[0] if groups else None
        comparable = first is not None and set(first.scores) & set(scores)
        both = enough and first is not None and first.interval is not None
        groups.append(
            Group(
                name,
                [run for run, _ in members],
                scores,
                float(interquartile_mean([each for values in scores.values() for each in values])),
                interquartile_mean_interval(scores, rng) if enough else None,
                probability_of_improvement(scores, first.scores) if first and comparable else None,
                probability_of_improvement_interval(scores, first.scores, rng)
                if both and first and comparable
                else None,
            )
        )
    return Comparison(by, groups, notes)


def value_of(run: RunData, key: str) -> str:
    """The value of a dotted setting of a run; of "agent" its name, with what is done to its networks."""
    if key == "agent":
        cures = run.config.get("plasticity", {}).get("interventions", [])
        return " + ".join([str(run.about.get("agent", "?")), *map(str, cures)])
    place: Any = run.config
    for part in key.split("."):
        if not isinstance(place, dict) or part not in place:
            raise ConfigError(
                f"{run.path.name} has no setting {key}",
                why="--by takes `agent` or a key of config.yaml, as in --by plasticity.interventions",
                fix="rlkit config show AGENT --env ID prints every key",
            )
        place = place[part]
    return str(place)


def differences(runs: Sequence[RunData], grouped: dict[str, Any]) -> list[str]:
    """What the runs differ in that a comparison assumes equal, in words that name the runs."""
    found = []
    environments = {name: {str(run.about.get("env", "")) for run, _ in members} for name, members in grouped.items()}
    if len({frozenset(each) for each in environments.values()}) > 1:
        shown = ", ".join(f"{name}: {' '.join(sorted(each))}" for name, each in environments.items())
        found.append(f"the groups have other environments ({shown})")
    by_env: dict[str, list[RunData]] = {}
    for run in runs:
        by_env.setdefault(str(run.about.get("env", "")), []).append(run)
    for env, members in by_env.items():
        where = f" on {env}" if env else ""
        for what, value in _ASSUMED_EQUAL.items():
            found += _odd_ones(members, what + where, value)
        for score in dict.fromkeys(score for run in members for score in _definitions(run)):
            found += _odd_ones(members, f"definition of {score}{where}", functools.partial(_definition, score))
    return found


def _odd_ones(runs: Sequence[RunData], what: str, value: Callable[[RunData], Any]) -> list[str]:
    """A line if `value` is not the same for all runs; those without it do not count."""
    values: dict[str, list[str]] = {}
    for run in runs:
        found = value(run)
        if found is not None:
            values.setdefault(str(found), []).append(run.path.name)
    if len(values) < 2:
        return []
    shown = "; ".join(f"{text}: {', '.join(names)}" for text, names in sorted(values.items(), key=lambda i: -len(i[1])))
    return [f"{what} differs ({shown})"]


def _protocol(run: RunData) -> Any:
    return run.evaluations[-1].get("protocol") if run.evaluations else None


def _definitions(run: RunData) -> Mapping[str, Definition]:
    return run.record.parts[-1].definitions if run.record.parts else {}


def _definition(score: str, run: RunData) -> Definition | None:
    return _definitions(run).get(score)


def _states(run: RunData) -> str | None:
    """Of a probe: counts of dormant units depend on how many there are."""
    probe = run.record.parts[-1].probe if run.record.parts else None
    return None if probe is None else f"{probe.batch} states, {probe.source}"


def _source(run: RunData) -> str | None:
    score = final_score(run)
    return None if score is None else score[1]


def _finished(run: RunData) -> bool:
    return str(run.about.get("status", "finished")) == "finished"


_ASSUMED_EQUAL: dict[str, Callable[[RunData], Any]] = {
    "what is compared": _source,
    "evaluation protocol": _protocol,
    "number of env steps": lambda run: run.config.get("env_steps"),
    "probe": _states,
}
