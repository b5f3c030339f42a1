"""How long `rlkit --help` takes against a bare interpreter, and what a full Atari replay holds in memory.

.venv/bin/python benchmarks/start_and_memory.py --rows 1000000
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time

import numpy as np
import psutil

from common import OWN_PYTHON, emit, interleave, machine
from rlkit.core.timestep import TimeStep
from rlkit.replay.buffer import ReplayBuffer
from rlkit.replay.samplers.uniform import UniformSampler

NUM_ENVS = 8


def seconds_of(*command: str) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def full_replay(rows: int) -> dict[str, float]:
    """Resident memory of a replay of `rows` Atari rows after every row has been written."""
    process = psutil.Process()
    before = process.memory_info().rss
    replay = ReplayBuffer(
        capacity=rows,
        num_envs=NUM_ENVS,
        observation_shape=(84, 84),
        observation_dtype=np.uint8,
        action_shape=(),
        action_dtype=np.int64,
        sampler=UniformSampler(rows, seed=0),
        stack=4,
        has_lives=True,
    )
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(NUM_ENVS, 84, 84), dtype=np.uint8)
    actions, no = np.zeros(NUM_ENVS, np.int64), np.zeros(NUM_ENVS, bool)
    rewards, lives = np.ones(NUM_ENVS, np.float32), np.zeros(NUM_ENVS, np.uint8)
    step = TimeStep(frames, frames, rewards, terminated=no, truncated=no, ended=no, lives=lives)
    start = time.perf_counter()
    for _ in range(rows // NUM_ENVS + 1):
        replay.add(frames, actions, step)
    seconds = time.perf_counter() - start
    resident = process.memory_info().rss - before
    return {
        "rows": len(replay),
        "resident_bytes": resident,
        "bytes_per_row": round(resident / rows, 1),
        "add_us_per_row": round(1e6 * seconds / rows, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    emit(benchmark="start_and_memory", **machine())
    found = interleave(
        {
            "rlkit --help": lambda: seconds_of(str(OWN_PYTHON.parent / "rlkit"), "--help"),
            "bare interpreter": lambda: seconds_of(str(OWN_PYTHON), "-c", "pass"),
        },
        arguments.rounds,
    )
    for name, seconds in found.items():
        emit(case=name, seconds=round(statistics.median(seconds), 4), worst=round(max(seconds), 4))
    emit(case="full Atari replay", **full_replay(arguments.rows))


if __name__ == "__main__":
    main()
