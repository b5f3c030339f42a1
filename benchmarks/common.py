"""Interleaved rounds and JSON lines: only ratios taken in one run count on a shared machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN_PYTHON = ROOT / ".venv" / "bin" / "python"
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"


def emit(**row: object) -> None:
    """One JSON line."""
    print(json.dumps(row), flush=True)


def machine() -> dict[str, object]:
    """What the numbers were taken on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def interleave(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every case once a round, in an order that rotates, so that drift of the machine hits all alike."""
    names = list(cases)
    found: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(cases[name]())
    return found


def paired_ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Median, minimum and maximum of the ratio round by round."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


# Of Student's t at 97.5 %, by the number of values.
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def interval(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """By key: mean over rows, and half of its 95 % t-interval (None for a single row)."""
    found: dict[str, list[float | None]] = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        mean = statistics.fmean(values)
        half = _T[len(values)] * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        found[key] = [round(mean, 4), None if half is None else round(half, 4)]
    return found


def compare_trainings(
    runs: Path,
    conditions: Iterable[str],
    seeds: Iterable[int],
    train: Callable[[str, int], object],
    measure: Callable[[Path], dict[str, float]],
) -> None:
    """Train every condition with every seed below `runs`/condition, but those that are there; print what they reached.

    A JSON line a training, and one a condition: means with 95 % t-intervals over the seeds.
    """
    chosen = list(conditions)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        for condition in chosen:
            if _finished(runs / condition, seed) is None:
                train(condition, seed)
            folder = _finished(runs / condition, seed)
            assert folder is not None, "the training was interrupted"
            row = measure(folder)
            rows.setdefault(condition, []).append(row)
            emit(condition=condition, seed=seed, **{key: round(value, 4) for key, value in row.items()})
    summarise(rows)


def summarise(rows: Mapping[str, list[dict[str, float]]]) -> None:
    """A line a condition."""
    for condition, found in rows.items():
        emit(condition=condition, seeds=len(found), mean_and_half_interval=interval(found))


def _finished(runs: Path, seed: int) -> Path | None:
    """The finished run of `seed`, if there is one."""
    for file in sorted(runs.glob(f"*/*/*-s{seed}*/run.json")):
        if json.loads(file.read_text())["status"] == "finished":
            return file.parent
    return None


def worker(python: Path, script: Path, *arguments: str, threads: int) -> float:
    """Run a worker process that prints one number as its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MUJOCO_GL": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(python), str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def rounded(ratio: Mapping[str, float], digits: int = 2) -> dict[str, float]:
    """To as many decimals as the noise leaves."""
    return {name: round(value, digits) for name, value in ratio.items()}
