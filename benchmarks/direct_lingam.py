"""Seconds of a DirectLiNGAM fit on 10,000 rows: rlkit against the lingam package, in the same run.

    .venv/bin/python benchmarks/direct_lingam.py --columns 20,40 --rounds 3

Makes .venv-lingam, an environment of the package's own at pinned versions, if it is not there. A measurement is a
process of its own on one thread; rounds are interleaved. `whole` is what the package does: the order of all columns
and their effects on each other. `target`: the last column is a reward, and only the effects on it are wanted, as ACE
needs them; `sink`: it is known to act on nothing. What a search finds must be the same, or the benchmark stops.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from common import ROOT, emit, interleave, machine, paired_ratios

ENVIRONMENT = ROOT / ".venv-lingam"
PACKAGES = ("lingam==1.13.0", "scikit-learn==1.9.1", "numpy==2.2.6")
ROWS = 10_000
OWN_CASES = ("numpy whole", "torch whole", "torch target", "torch sink")


def make_data(columns: int) -> np.ndarray:
    """States, actions that depend on some of them, and a reward in the last column; no noise is Gaussian."""
    rng = np.random.default_rng(columns)
    states = columns // 2
    x = np.empty((ROWS, columns))
    x[:, :-1] = rng.uniform(-1, 1, (ROWS, columns - 1))
    x[:, states:-1] += 0.5 * x[:, : columns - 1 - states]
    effect = rng.uniform(-2, 2, columns - 1) * (rng.random(columns - 1) < 0.5)
    x[:, -1] = x[:, :-1] @ effect + 0.2 * rng.laplace(size=ROWS)
    return x


def fit(case: str, x: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Order, and effects on the last column."""
    if case == "lingam":
        import lingam

        model = lingam.DirectLiNGAM()
        model.fit(x)
        return [int(column) for column in model.causal_order_], model.adjacency_matrix_[-1]
    import torch

    from rlkit.causal import direct_lingam, regress_on_all

    library, what = case.split()
    data = torch.from_numpy(x) if library == "torch" else x
    last = x.shape[1] - 1
    if what == "sink":
        model = regress_on_all(data, last, refit=True)
    else:
        model = direct_lingam(data, target=last if what == "target" else None, residual="lingam", refit=True)
    return list(model.order), model.effects[-1]


def work(case: str, columns: int) -> None:
    """The worker: seconds, order and effects of one fit, as JSON."""
    x = make_data(columns)
    fit(case, x[:50])  # imports, first calls
    start = time.perf_counter()
    order, effects = fit(case, x)
    seconds = time.perf_counter() - start
    sys.stdout.write(json.dumps({"seconds": seconds, "order": order, "effects": list(effects)}) + "\n")


def measure(case: str, columns: int, found: dict[str, dict]) -> float:
    """Seconds of one worker; what it found goes to `found`."""
    python = ENVIRONMENT / "bin" / "python" if case == "lingam" else sys.executable
    command = [str(python), __file__, "--worker", case, "--columns", str(columns)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{case} failed:\n{done.stderr[-2000:]}")
    found[case] = json.loads(done.stdout.splitlines()[-1])
    return found[case]["seconds"]


def make_environment() -> None:
    if not (ENVIRONMENT / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", default="20,40")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", metavar="CASE")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, int(arguments.columns))
        return
    make_environment()
    emit(benchmark="direct_lingam", rows=ROWS, packages=PACKAGES, **machine())
    for columns in map(int, arguments.columns.split(",")):
        found: dict[str, dict] = {}
        cases = {
            case: (lambda case=case, columns=columns, found=found: measure(case, columns, found))
            for case in ("lingam", *OWN_CASES)
        }
        seconds = interleave(cases, arguments.rounds)
        for case in OWN_CASES:
            order, wanted = found[case]["order"], found["lingam"]["order"]
            difference = float(np.abs(np.subtract(found["lingam"]["effects"], found[case]["effects"])).max())
            if not case.endswith("sink") and (order != wanted[: len(order)] or difference > 1e-9):
                raise RuntimeError(f"{case} finds something else at {columns} columns: {found[case]}")
            emit(
                case=case,
                columns=columns,
                seconds=round(statistics.median(seconds[case]), 4),
                lingam_seconds=round(statistics.median(seconds["lingam"]), 4),
                lingam_over_own=paired_ratios(seconds["lingam"], seconds[case]),
                largest_difference_of_effects=difference,
            )


if __name__ == "__main__":
    main()
