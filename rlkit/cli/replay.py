"""rlkit replay."""

from __future__ import annotations

import math
from fractions import Fraction

from rlkit.cli.flags import parse, whole_number
from rlkit.cli.tables import print_table
from rlkit.core.errors import ConfigError, ReplayError, nearest

USAGE = """usage: rlkit replay stats [--sampler NAME] [--capacity 1000] [--ratios 0.5,1,8] [--seed 0]

How often a sampler (default: rr-c) draws a row before it is overwritten: measured on a full ring, and the closed form
for large capacities where it is known. A ratio is draws per env step, r = batch size * replay ratio: DQN 8, SAC 256.

example: rlkit replay stats --sampler uniform --ratios 1/4,8"""

RINGS = 20  # rows counted, in capacities
PARTS = 100  # a batch draws, and follows, at most 1/100 of the ring where r allows it; the closed forms assume nothing
MOST_DRAWS, MOST_SLOTS = 10_000, 1_000_000
PRIORITY_SPREAD = 0.6  # standard deviation of a priority's logarithm: spread 1, flattened by the usual exponent


def main(words: list[str]) -> int:
    """Print the table; the exit status."""
    parsed = parse(words, options=("sampler", "capacity", "ratios", "seed"), switches=(), settings=False, usage=USAGE)
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
    print_statistics(parsed.options.get("sampler", "rr-c"), capacity, ratios, int(seed))
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


def print_statistics(name: str, capacity: int, ratios: list[Fraction], seed: int) -> None:
    """The count table of a sampler with its default settings, a line for each ratio."""
    from rlkit.replay.samplers import SAMPLERS

    if name not in SAMPLERS:
        raise ConfigError(
            f"unknown sampler {name!r}",
            why=f"there are: {', '.join(SAMPLERS)}.{nearest(name, SAMPLERS)}",
            fix="--sampler rr-c",
        )
    settings = SAMPLERS[name].config.__dataclass_fields__
    proportional = "priority_rule" in settings  # what is stored depends on a row's own priority, not on its rank
    columns = ["r", "batch / env steps", "mean N", "var N", "N = 0", "least N", "most N", "delay"]
    notes = [
        f"{name}: {SAMPLERS[name].summary}",
        f"{capacity:,} slots, {RINGS * capacity:,} rows a line, seed {seed}; measured / closed form",
        "N: draws of a row while it lives; delay: from its write to its first draw, in passes of the capacity",
    ]
    if "priority_exponent" in settings:
        notes.append("no priority is ever updated")
    if proportional:
        columns[3] = "var(N - e)"
        notes.append("e: expected N by the priorities, which are log-normal; independent draws have var(N - e) = r")
    rows = []
    for r in ratios:
        try:
            cells = line(name, capacity, r, seed, proportional)
        except ReplayError as error:  # a queue runs dry, say
            notes.append(f"r = {number(float(r))} cannot be: {error.what}; {error.why}")
            cells = ["-"] * (len(columns) - 1)
        rows.append([number(float(r)), *cells])
    print("\n".join(notes))
    print_table(columns, rows)


def line(name: str, capacity: int, r: Fraction, seed: int, proportional: bool) -> list[str]:
    """What one simulation found, beside what is known."""
    import dataclasses

    import numpy as np

    from rlkit.core.seeding import SeedTree
    from rlkit.replay.samplers import SAMPLERS
    from rlkit.replay.visits import CLOSED_FORMS, simulate

    kind, seeds = SAMPLERS[name], SeedTree(seed)
    config, priority = kind.config(), None
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
    if name in CLOSED_FORMS:
        form, x = CLOSED_FORMS[name], float(r)
        known = [x, form.variance(x), form.never(x), *form.bounds(x), form.delay(x)]
    pairs = zip(measured, known, strict=True)
    return [f"{batch_size} / {env_steps}", *(f"{number(left)} / {number(right)}" for left, right in pairs)]


def number(value: float) -> str:
    """Four digits, none behind the sixth decimal; a dash where there is no number."""
    return f"{round(value, 6):.4g}" if math.isfinite(value) else "-"
