"""rlkit replay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlkit.cli.flags import parse, whole_number
from rlkit.cli.tables import print_table
from rlkit.core.errors import ConfigError, ReplayError, nearest

USAGE = """usage: rlkit replay stats [--sampler NAME] [--sampler.KEY VALUE] [--capacity 1000] [--ratios 1,8] [--seed 0]

How often a sampler (default: rr-c) draws a row before it is overwritten: measured on a full ring, and the closed form
for large capacities where it is known: without settings. A ratio is draws per env step, r = batch size * replay ratio:
DQN 8, SAC 256. KEY is a setting of the sampler, as in `rlkit train`.

example: rlkit replay stats --sampler uniform --sampler.replacement false --ratios 1/4,8"""

RINGS = 20  # rows counted, in capacities
PARTS = 100  # a batch draws, and follows, at most 1/100 of the ring where r allows it; the closed forms assume nothing
MOST_DRAWS, MOST_SLOTS = 10_000, 1_000_000
STORED = ("priority_exponent", "priority_rule", "priority_epsilon", "uniform_share")  # say which p a priority becomes
PRIORITY_SPREAD = 0.6  # standard deviation of a priority's logarithm: spread 1, flattened by the usual exponent


def main(words: list[str]) -> int:
    """Print the table; the exit status."""
    own = tuple(word[2:].partition("=")[0] for word in words if word.startswith("--sampler."))
    options = ("sampler", "capacity", "ratios", "seed", *own)
    parsed = parse(words, options=options, switches=(), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    if parsed.positional != ["stats"]:
        command = " ".join(["rlkit replay", *parsed.positional])
        raise ConfigError(f"{command} is not a command", why="there is `stats`", fix=USAGE.splitlines()[0])
    seed = parsed.options.get("seed", "0")
    if not seed.isdecimal():
        raise ConfigError(f"--seed is {seed!r}", why="it must be a whole number", fix="--seed 0")
    capacity = whole_number(parsed.options, "capacity", 1000)
    if capacity > MOST_SLOTS:
        raise ConfigError(
            f"--capacity is {capacity:,}",
            why=f"the simulation takes at most {MOST_SLOTS:,} slots; the closed forms hold from some hundred on",
            fix="--capacity 1000",
        )
    ratios = [ratio(text, capacity) for text in parsed.options.get("ratios", "0.5,1,8").split(",")]
    settings = {key: parsed.options[key] for key in dict.fromkeys(own)}
    print_statistics(parsed.options.get("sampler", "rr-c"), settings, capacity, ratios, int(seed))
    return 0


def ratio(text: str, capacity: int) -> Fraction:
    """Draws per env step as a fraction a/b in lowest terms: a draws every b steps, which the ring must hold."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= MOST_DRAWS or value.denominator > capacity:
        raise ConfigError(
            f"--ratios holds {text!r}",
            why=f"a ratio is above 0, at most {MOST_DRAWS:,}, and a fraction a/b with b <= {capacity}, the capacity",
            fix="--ratios 0.5,1,8",
        )
    return value


@dataclass(frozen=True)
class Settings:
    """What `--sampler.KEY` sets, as in the settings of a run."""

    sampler: Any = None


def sampler_config(name: str, settings: Mapping[str, str]) -> Any:
    """The settings of sampler `name`, by dotted key and YAML text. Raises ConfigError for a name or setting unknown."""
    from rlkit.configs.parse import build, flag_layer
    from rlkit.replay.samplers import SAMPLERS

    if name not in SAMPLERS:
        raise ConfigError(
            f"unknown sampler {name!r}",
            why=f"there are: {', '.join(SAMPLERS)}.{nearest(name, SAMPLERS)}",
            fix="--sampler rr-c",
        )
    for key in settings:
        if key.removeprefix("sampler.") in STORED:
            raise ConfigError(
                f"--{key} has no meaning here",
                why="rows get log-normal priorities, stored as they are, so that the expected draws of each are known",
                fix=f"leave --{key} out",
            )
    return build(Settings, [flag_layer(settings)], {"sampler": SAMPLERS[name].config}).sampler


def print_statistics(name: str, own: Mapping[str, str], capacity: int, ratios: list[Fraction], seed: int) -> None:
    """The count table of a sampler with settings of its own, a line for each ratio."""
    from rlkit.replay.samplers import SAMPLERS

    config = sampler_config(name, own)
    settings = SAMPLERS[name].config.__dataclass_fields__
    proportional = "priority_rule" in settings  # what is stored depends on a row's own priority, not on its rank
    columns = ["r", "batch / env steps", "mean N", "var N", "N = 0", "least N", "most N", "delay"]
    notes = [
        f"{name}: {SAMPLERS[name].summary}",
        f"{capacity:,} slots, {RINGS * capacity:,} rows a line, seed {seed}; measured / closed form",
        "N: draws of a row while it lives; delay: from its write to its first draw, in passes of the capacity",
    ]
    if own:
        notes.insert(1, ", ".join(f"{key} {value}" for key, value in own.items()))
    if "priority_exponent" in settings:
        notes.append("no priority is ever updated")
    if proportional:
        columns[3] = "var(N - e)"
        notes.append("e: expected N by the priorities, which are log-normal; independent draws have var(N - e) = r")
    rows = []
    for r in ratios:
        try:
            cells = line(name, config, capacity, r, seed, proportional)
        except ReplayError as error:  # a queue runs dry, say
            notes.append(f"r = {number(float(r))} cannot be: {error.what}; {error.why}")
            cells = ["-"] * (len(columns) - 1)
        rows.append([number(float(r)), *cells])
    print("\n".join(notes))
    print_table(columns, rows)


def line(name: str, config: Any, capacity: int, r: Fraction, seed: int, proportional: bool) -> list[str]:
    """What one simulation found, beside what is known."""
    import dataclasses

    import numpy as np

    from rlkit.core.seeding import SeedTree
    from rlkit.replay.samplers import SAMPLERS
    from rlkit.replay.visits import CLOSED_FORMS, simulate

    kind, seeds = SAMPLERS[name], SeedTree(seed)
    priority = None
    if proportional:
        config = dataclasses.replace(config, priority_exponent=1.0)
        normal = seeds.generator("priority").standard_normal((RINGS + 2) * capacity)
        priority = np.exp(PRIORITY_SPREAD * normal)
    times = max(1, capacity // (PARTS * max(r.numerator, r.denominator)))
    batch_size, env_steps = times * r.numerator, times * r.denominator
    visits = simulate(
        kind.build(capacity, seeds.integer("sampler"), config),
        batch_size=batch_size,
        writes_per_batch=env_steps,
        warm_up=capacity,
        rings=RINGS,
        priority=priority,
    )
    count, expected = visits.count[capacity:], visits.expected[capacity:]
    delay = visits.first_visit_delay[capacity:][count > 0]
    measured = [count.mean(), (count - expected).var(), (count == 0).mean(), count.min(), count.max()]
    measured.append(delay.mean() if delay.size else math.nan)
    known = [math.nan] * len(measured)
    if name in CLOSED_FORMS and config == kind.config():
        form, x = CLOSED_FORMS[name], float(r)
        known = [x, form.variance(x), form.never(x), *form.bounds(x), form.delay(x)]
    pairs = zip(measured, known, strict=True)
    return [f"{batch_size} / {env_steps}", *(f"{number(left)} / {number(right)}" for left, right in pairs)]


def number(value: float) -> str:
    """Four digits, none behind the sixth decimal; a dash where there is no number."""
    return f"{round(value, 6):.4g}" if math.isfinite(value) else "-"
