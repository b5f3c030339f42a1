"""Replay against a bare numpy gather and against installed peers: draws with their batch, priorities, writes, curves.

    scripts/test tests/plugins  # makes .venv-plugins, which holds the peers
    .venv-plugins/bin/python benchmarks/replay.py [--quick] [--only NAME] [--rounds N]

One JSON line a case. `ratio_to_numpy` is the time of a whole `sample` over that of `numpy.take` of the same number of
rows into ready arrays (for Atari the 8 frames of both stacks), median over rounds in which both are measured one
after the other; less is better. Peers sample from stores of their own with the same content, at the capacity that the
row names. torch and numba run in one thread.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common import emit, interleave, machine, paired_ratios, rounded
from rlkit.core.timestep import TimeStep
from rlkit.replay import ReplayBuffer, Window
from rlkit.replay.samplers import make
from rlkit.training.memory import free_memory

OBSERVATIONS, ACTIONS = 24, 6  # walker-walk
SAMPLERS = ("uniform", "rr-c", "per", "per-rank", "rr-m")
Call = Callable[[], object]


def seconds_of(call: Call, least: float) -> float:
    """Seconds a call, over a burst of at least `least` seconds."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < least or count == 0:
        call()
        count += 1
    return passed / count


def compare(
    cases: dict[str, Call], reference: str, rounds: int, least: float
) -> dict[str, tuple[float, dict[str, float]]]:
    """Median seconds of each case, and its ratio to `reference` round by round."""
    for call in cases.values():
        seconds_of(call, least / 2)
    gc.collect()
    gc.disable()
    try:
        timed = {name: (lambda call=call: seconds_of(call, least)) for name, call in cases.items()}
        found = interleave(timed, rounds)
    finally:
        gc.enable()
    return {name: (statistics.median(s), paired_ratios(s, found[reference])) for name, s in found.items()}


# --- what is stored


@dataclass
class Data:
    """The content of every store of a kind."""

    kind: str  # "atari" or "state"
    rows: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.rng = np.random.default_rng(1)
        if self.kind == "atari":
            block = rng.integers(0, 255, (2048, 84, 84), dtype=np.uint8)
            self.frames = np.empty((self.rows + 8, 84, 84), np.uint8)
            for k in range(0, self.rows + 8, 2048):
                self.frames[k : k + 2048] = block[: min(2048, self.rows + 8 - k)]
        else:
            self.frames = rng.random((self.rows + 8, OBSERVATIONS), dtype=np.float32)
            self.following = rng.random((self.rows, OBSERVATIONS), dtype=np.float32)
            self.actions = rng.random((self.rows, ACTIONS), dtype=np.float32)

    def stacks(self, start: int, stop: int) -> np.ndarray:
        """[stop - start, 4, 84, 84] stacks that begin at frames `start` and on, a copy."""
        return np.stack([self.frames[k : k + stop - start] for k in range(4)], axis=1)

    def gather(self, batch: int) -> Call:
        """The reference: numpy.take of random rows into ready arrays."""
        rows, rng = self.rows, self.rng
        scalars = [np.zeros(rows, np.float32), np.zeros(rows, bool)]
        if self.kind == "atari":
            flat, four = self.frames.reshape(len(self.frames), -1), np.arange(4)
            now, then = np.empty((2, batch * 4, flat.shape[1]), np.uint8)
            scalars.append(np.zeros(rows, np.int64))

            def frames(index: np.ndarray) -> None:
                stack = (index[:, None] + four).ravel()
                np.take(flat, stack, axis=0, out=now, mode="clip")
                np.take(flat, stack + 1, axis=0, out=then, mode="clip")
        else:
            columns = [self.frames[:rows], self.following]
            scalars.append(self.actions)
            outputs = [np.empty((batch, OBSERVATIONS), np.float32) for _ in columns]

            def frames(index: np.ndarray) -> None:
                for column, output in zip(columns, outputs, strict=True):
                    np.take(column, index, axis=0, out=output, mode="clip")

        ready = [np.empty((batch, *column.shape[1:]), column.dtype) for column in scalars]

        def call() -> None:
            index = rng.integers(0, rows, batch)
            frames(index)
            for column, output in zip(scalars, ready, strict=True):
                np.take(column, index, axis=0, out=output, mode="clip")

        return call


def own(data: Data, sampler: str, num_envs: int = 1) -> ReplayBuffer:
    """A full replay of `data`'s rows; rows are put in as from a checkpoint, the sampler is told of all of them."""
    atari = data.kind == "atari"
    rows = data.rows // num_envs
    replay = ReplayBuffer(
        capacity=rows * num_envs,
        num_envs=num_envs,
        observation_shape=(84, 84) if atari else (OBSERVATIONS,),
        observation_dtype=np.uint8 if atari else np.float32,
        action_shape=() if atari else (ACTIONS,),
        action_dtype=np.int64 if atari else np.float32,
        sampler=make(sampler, rows * num_envs, seed=0),
        stack=4 if atari else 1,
        has_lives=atari,
    )
    piece = 20_000
    for env in range(num_envs):
        for start in range(0, rows, piece):
            stop = min(start + piece, rows)
            n = stop - start
            frames = data.frames[env * rows + start : env * rows + stop].reshape(n, -1)
            flags = {name: np.zeros(n, bool) for name in ("terminated", "truncated", "first", "final")}
            action = np.zeros(n, np.int64) if atari else data.actions[env * rows + start : env * rows + stop]
            columns = {"frames": frames, "action": action, "reward": np.zeros(n, np.float32), **flags}
            replay.load_rows(env, start, {**columns, "lives": np.zeros(n, np.uint8)})
    state = replay.state_dict() | {"rows_written": np.full(num_envs, rows), "starts": np.zeros(num_envs, bool)}
    replay.load_state_dict(state)
    replay.add(*step(data.kind, num_envs))  # announces every row
    return replay


def step(kind: str, num_envs: int) -> tuple[np.ndarray, np.ndarray, TimeStep]:
    """Something to add."""
    atari = kind == "atari"
    observation = np.zeros((num_envs, 84, 84), np.uint8) if atari else np.zeros((num_envs, OBSERVATIONS), np.float32)
    action = np.zeros(num_envs, np.int64) if atari else np.zeros((num_envs, ACTIONS), np.float32)
    no = np.zeros(num_envs, bool)
    lives = np.zeros(num_envs, np.uint8)
    return observation, action, TimeStep(observation, observation, np.zeros(num_envs, np.float32), no, no, no, lives)


# --- peers: (name, sample of a batch, update of priorities or None, add one row or None)


@dataclass
class Peer:
    """A store of somebody else's, filled."""

    sample: Callable[[int], Call]
    update: Callable[[int], Call] | None = None
    add: Call | None = None


def stable_baselines3(data: Data, *, optimize: bool) -> Peer:
    import gymnasium as gym
    from stable_baselines3.common.buffers import ReplayBuffer as Buffer

    if data.kind == "atari":
        space: Any = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        options = {"optimize_memory_usage": True, "handle_timeout_termination": False} if optimize else {}
        buffer = Buffer(data.rows, space, gym.spaces.Discrete(4), device="cpu", **options)
        for k in range(0, data.rows, 1000):
            buffer.observations[k : k + 1000, 0] = data.stacks(k, min(k + 1000, data.rows))
            if not optimize:
                buffer.next_observations[k : k + 1000, 0] = data.stacks(k + 1, min(k + 1000, data.rows) + 1)
        row = data.stacks(0, 1), data.stacks(1, 2), np.zeros((1, 1), np.int64)
    else:
        space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
        buffer = Buffer(data.rows, space, gym.spaces.Box(-1, 1, (ACTIONS,), np.float32), device="cpu")
        buffer.observations[:, 0], buffer.next_observations[:, 0] = data.frames[: data.rows], data.following
        buffer.actions[:, 0] = data.actions
        row = data.frames[:1], data.following[:1], data.actions[:1]
    buffer.full = True
    rest = np.zeros(1, np.float32), np.zeros(1, bool), [{}]
    return Peer(lambda batch: lambda: buffer.sample(batch), add=lambda: buffer.add(*row, *rest))


def torchrl(data: Data, *, without_replacement: bool) -> Peer:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import RandomSampler, SamplerWithoutReplacement

    sampler = SamplerWithoutReplacement() if without_replacement else RandomSampler()
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(data.rows), sampler=sampler, batch_size=32)

    def rows(start: int, stop: int) -> TensorDict:
        n = stop - start
        if data.kind == "atari":
            now, then = torch.from_numpy(data.stacks(start, stop)), torch.from_numpy(data.stacks(start + 1, stop + 1))
            action = torch.zeros(n, dtype=torch.int64)
        else:
            now, then, action = (
                torch.from_numpy(column[start:stop]) for column in (data.frames, data.following, data.actions)
            )
        flag = torch.zeros(n, 1, dtype=torch.bool)
        following = {"observation": then, "reward": torch.zeros(n, 1), "done": flag, "terminated": flag.clone()}
        return TensorDict({"observation": now, "action": action, "next": TensorDict(following, [n])}, [n])

    piece = 1_000 if data.kind == "atari" else 100_000
    for k in range(0, data.rows, piece):
        buffer.extend(rows(k, min(k + piece, data.rows)))
    one = rows(0, 1)[0]
    return Peer(lambda batch: lambda: buffer.sample(batch), add=lambda: buffer.add(one))


def tianshou(data: Data, *, prioritized: bool) -> Peer:
    from tianshou.data import Batch, PrioritizedReplayBuffer
    from tianshou.data import ReplayBuffer as Buffer

    options = {"stack_num": 4, "ignore_obs_next": True, "save_only_last_obs": True} if data.kind == "atari" else {}
    kind = PrioritizedReplayBuffer if prioritized else Buffer
    priorities = {"alpha": 0.6, "beta": 0.4} if prioritized else {}
    buffer = kind(data.rows, **priorities, **options)

    def row(k: int) -> Any:
        flags = {"rew": 0.0, "terminated": False, "truncated": False, "info": {}}
        if data.kind == "atari":
            return Batch(obs=data.stacks(k, k + 1)[0], act=0, obs_next=data.stacks(k + 1, k + 2)[0], **flags)
        return Batch(obs=data.frames[k], act=data.actions[k], obs_next=data.following[k], **flags)

    for k in range(4):
        buffer.add(row(k))
    store = buffer._meta  # filling it through `add` takes minutes
    if data.kind == "atari":
        store.obs[:] = data.frames[: data.rows]
    else:
        store.obs[:], store.obs_next[:], store.act[:] = data.frames[: data.rows], data.following, data.actions
    for name in ("rew", "terminated", "truncated", "done"):
        store[name][:] = 0
    buffer._size = data.rows
    if prioritized:
        buffer.init_weight(np.arange(data.rows))
    one = row(0)

    def update(batch: int) -> Call:
        index, priority = data.rng.integers(0, data.rows, batch), np.random.default_rng(0).random(batch)
        return lambda: buffer.update_weight(index, priority)

    return Peer(lambda batch: lambda: buffer.sample(batch), update if prioritized else None, lambda: buffer.add(one))


def cpprb(data: Data, *, prioritized: bool) -> Peer:
    import cpprb as library

    columns: dict[str, Any] = {"rew": {}, "done": {"dtype": bool}}
    if data.kind == "atari":
        columns |= {"obs": {"shape": (84, 84, 4), "dtype": np.uint8}, "act": {"dtype": np.int64}}
        options = {"next_of": "obs", "stack_compress": "obs"}
    else:
        columns |= {"obs": {"shape": OBSERVATIONS}, "act": {"shape": ACTIONS}}
        options = {"next_of": "obs"}
    if prioritized:
        buffer = library.PrioritizedReplayBuffer(data.rows, columns, alpha=0.6, **options)
    else:
        buffer = library.ReplayBuffer(data.rows, columns, **options)

    def rows(start: int, stop: int) -> dict[str, np.ndarray]:
        n = stop - start
        scalars = {"rew": np.zeros(n, np.float32), "done": np.zeros(n, bool)}
        if data.kind == "atari":
            now, then = (np.ascontiguousarray(np.moveaxis(data.stacks(k, k + n), 1, -1)) for k in (start, start + 1))
            return {"obs": now, "next_obs": then, "act": np.zeros(n, np.int64), **scalars}
        following = data.frames[start + 1 : stop + 1]  # next_of: the next row's observation
        return {"obs": data.frames[start:stop], "next_obs": following, "act": data.actions[start:stop], **scalars}

    piece = 1_000 if data.kind == "atari" else 100_000
    for k in range(0, data.rows, piece):
        buffer.add(**rows(k, min(k + piece, data.rows)))
    one = rows(0, 1)

    def update(batch: int) -> Call:
        index, priority = data.rng.integers(0, data.rows, batch), np.random.default_rng(0).random(batch)
        return lambda: buffer.update_priorities(index, priority)

    if prioritized:
        return Peer(lambda batch: lambda: buffer.sample(batch, beta=0.4), update, lambda: buffer.add(**one))
    return Peer(lambda batch: lambda: buffer.sample(batch), add=lambda: buffer.add(**one))


PEERS: dict[str, Callable[[Data], Peer]] = {
    "stable-baselines3": lambda data: stable_baselines3(data, optimize=False),
    "stable-baselines3 optimize_memory_usage": lambda data: stable_baselines3(data, optimize=True),
    "torchrl RandomSampler": lambda data: torchrl(data, without_replacement=False),
    "torchrl SamplerWithoutReplacement": lambda data: torchrl(data, without_replacement=True),
    "tianshou": lambda data: tianshou(data, prioritized=False),
    "tianshou prioritized": lambda data: tianshou(data, prioritized=True),
    "cpprb": lambda data: cpprb(data, prioritized=False),
    "cpprb prioritized": lambda data: cpprb(data, prioritized=True),
}


# --- the parts


def draw(replay: ReplayBuffer, batch: int) -> Call:
    """A whole draw with its batch."""
    window = Window(n_step=1)
    return lambda: replay.sample(batch, window)


def batches(quick: bool, rounds: int, least: float, only: str) -> None:
    """Draw and gather, ours and the peers', each against numpy in the same rounds."""
    for kind, sizes, rows in (("atari", (32, 256), 100_000), ("state", (256, 1024), 1_000_000)):
        rows = rows // 20 if quick else rows
        data = Data(kind, rows)
        stores: dict[str, Callable[[], Peer]] = {}
        for sampler in SAMPLERS:
            stores[f"rlkit {sampler}"] = lambda sampler=sampler, data=data: own_peer(own(data, sampler), data.kind)
        for name, build in PEERS.items():
            if kind == "atari" or "optimize" not in name:
                stores[name] = lambda build=build, data=data: build(data)
        for name, build_store in stores.items():
            if only not in f"{kind} {name}":
                continue
            torch.set_num_threads(1)
            store = build_store()
            for batch in sizes:
                cases = {name: store.sample(batch), "numpy": data.gather(batch)}
                if store.update:
                    cases["update"] = store.update(batch)
                found = compare(cases, "numpy", rounds, least)
                seconds, ratio = found[name]
                row: dict[str, object] = {"part": "batch", "data": kind, "case": name, "rows": rows, "batch": batch}
                row |= {"us": round(1e6 * seconds, 1), "ratio_to_numpy": rounded(ratio)}
                if store.update:
                    row["update_us"] = round(1e6 * found["update"][0], 1)
                emit(**row)
            if store.add:
                store.add()  # compiles what it has not yet run
                emit(part="add one row", data=kind, case=name, us=round(1e6 * seconds_of(store.add, 4 * least), 1))
            del store
            gc.collect()


def own_peer(replay: ReplayBuffer, kind: str) -> Peer:
    """Our replay in the form of a peer."""

    def update(batch: int) -> Call:
        drawn, priority = replay.sample(batch, Window(n_step=1), copy=True), torch.rand(batch)
        return lambda: replay.update_priority(drawn, priority)

    one = step(kind, 1)
    prioritized = "weight" in replay.sample(2, Window()) or "MaskedReshuffle" in type(replay.sampler).__name__
    return Peer(lambda batch: draw(replay, batch), update if prioritized else None, lambda: replay.add(*one))


def full_atari(rounds: int, least: float) -> None:
    """RR-C over a million Atari rows; with the frames that numpy reads this takes 14 GB."""
    data = Data("atari", 1_000_000)
    replay = own(data, "rr-c")
    for batch in (32, 256):
        cases = {"rlkit rr-c": draw(replay, batch), "numpy": data.gather(batch)}
        seconds, ratio = compare(cases, "numpy", rounds, least)["rlkit rr-c"]
        row = {"us": round(1e6 * seconds, 1), "ratio_to_numpy": rounded(ratio)}
        emit(part="batch", data="atari", case="rlkit rr-c", rows=data.rows, batch=batch, **row)


def priorities(quick: bool, rounds: int, least: float) -> None:
    """Draw and update of priorities alone, without rows: our samplers against the peers' stores of one number a row."""
    rows = 50_000 if quick else 1_000_000
    for batch in (32, 256, 1024):
        cases: dict[str, Call] = dict(priority_peers(rows, batch))
        for name in ("per", "per-rank", "rr-m"):
            sampler = make(name, rows, seed=0)
            sampler.extend(np.arange(rows), np.arange(rows))
            given = np.random.default_rng(0).random((64, batch), dtype=np.float32)
            turn = iter(range(10**9))

            def call(sampler: Any = sampler, given: np.ndarray = given, turn: Iterator[int] = turn) -> None:
                slots, info = sampler.sample(given.shape[1])
                sampler.update(slots, info.uid, given[next(turn) % 64])

            cases[f"rlkit {name}"] = call
        found = compare(cases, "rlkit per", rounds, least)
        for name, (seconds, ratio) in found.items():
            row = {"us": round(1e6 * seconds, 2), "times_rlkit_per": rounded(ratio)}
            emit(part="priorities", case=name, rows=rows, batch=batch, **row)


def priority_peers(rows: int, batch: int) -> Iterator[tuple[str, Call]]:
    """Draw and update of the peers' prioritised stores; their rows are one float, so that little else is measured."""
    import cpprb as library
    from tianshou.data.utils.segtree import SegmentTree

    rng = np.random.default_rng(0)
    given = rng.random(batch) + 0.1
    tree = SegmentTree(rows)
    tree[np.arange(rows)] = rng.random(rows) + 0.1

    def tianshou_tree() -> None:  # what its prioritised buffer does for a draw and an update
        slots = tree.get_prefix_sum_idx(np.random.rand(batch) * tree.reduce())  # noqa: NPY002  (its own generator)
        weight = (tree[slots] / tree.reduce()) ** -0.4
        weight / weight.max()
        tree[slots] = given**0.6

    yield "tianshou SegmentTree", tianshou_tree
    buffer = library.PrioritizedReplayBuffer(rows, {"done": {}}, alpha=0.6)
    for k in range(0, rows, 10_000):
        buffer.add(done=np.zeros(min(10_000, rows - k)), priorities=rng.random(min(10_000, rows - k)) + 0.1)

    def cpprb_store() -> None:
        drawn = buffer.sample(batch, beta=0.4)
        buffer.update_priorities(drawn["indexes"], given)

    yield "cpprb PrioritizedReplayBuffer", cpprb_store


def writes(quick: bool, rounds: int, least: float) -> None:
    """A vector step of E environments, against copying the same rows into arrays."""
    for kind in ("state", "atari"):
        for num_envs in (1, 8, 64):
            rows = (2_000 if quick else 20_000) // num_envs * num_envs
            replay = own(Data(kind, rows), "rr-c", num_envs)
            observation, action, outcome = step(kind, num_envs)
            ring = rows // num_envs
            store = np.zeros((ring, *observation.shape), observation.dtype)
            others = [np.zeros((ring, *column.shape), column.dtype) for column in (action, outcome.reward)]
            turn = iter(range(10**9))

            def copy(
                store: np.ndarray = store,
                others: list[np.ndarray] = others,
                ring: int = ring,
                turn: Iterator[int] = turn,
                given: tuple[np.ndarray, np.ndarray, TimeStep] = (observation, action, outcome),
            ) -> None:
                k = next(turn) % ring
                store[k], others[0][k], others[1][k] = given[0], given[1], given[2].reward

            cases = {
                "rlkit": lambda replay=replay, given=(observation, action, outcome): replay.add(*given),
                "copy": copy,
            }
            found = compare(cases, "copy", rounds, least)
            own_us, copy_us = (1e6 * found[name][0] for name in ("rlkit", "copy"))
            row = {"us": round(own_us, 1), "copy_us": round(copy_us, 1), "beyond_copy_us": round(own_us - copy_us, 1)}
            emit(part="add a vector step", data=kind, envs=num_envs, **row)


CURVE_PEERS = ("cpprb", "stable-baselines3", "torchrl RandomSampler", "tianshou")
BYTES_PER_ROW = {"state": 1_000, "atari": 14_300}  # of the content that numpy reads and of the largest store


def curves(quick: bool, rounds: int, least: float, only: str) -> None:
    """Cost of a draw against the capacity (samplers alone, then batches, ours and the peers') and the environments."""
    capacities = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000, 10_000_000)
    batch = 256
    for rows in capacities:
        cases: dict[str, Call] = {}
        for name in SAMPLERS:
            sampler = make(name, rows, seed=0)
            for start in range(0, rows, 1_000_000):
                slots = np.arange(start, min(start + 1_000_000, rows))
                sampler.extend(slots, slots)
            cases[name] = lambda sampler=sampler: sampler.sample(batch)
        rng = np.random.default_rng(0)
        cases["numpy integers"] = lambda rng=rng, rows=rows: rng.integers(0, rows, batch)
        for name, (seconds, ratio) in compare(cases, "numpy integers", rounds, least).items():
            row = {"us": round(1e6 * seconds, 2), "times_numpy": rounded(ratio)}
            emit(part="draw alone", case=name, rows=rows, batch=batch, **row)
        del cases
        gc.collect()
    names = {
        "state": [f"rlkit {name}" for name in ("uniform", "rr-c", "per")] + list(CURVE_PEERS),
        "atari": ["rlkit rr-c"],  # a million rows of a peer that stores stacks are 56 GB
    }
    for kind, cases_of_kind in names.items():
        chosen = [name for name in cases_of_kind if only in f"{kind} {name}"]
        for rows in [rows for rows in capacities if kind == "state" or rows <= 1_000_000]:
            if not chosen:
                continue
            if rows * BYTES_PER_ROW[kind] > free_memory().amount:
                emit(part="batch against capacity", data=kind, rows=rows, left_out="does not fit into the memory")
                continue
            data = Data(kind, rows)
            for name in chosen:
                torch.set_num_threads(1)
                ours = name.removeprefix("rlkit ")
                store = PEERS[name](data) if name in PEERS else own_peer(own(data, ours), kind)
                cases = {name: store.sample(batch), "numpy": data.gather(batch)}
                seconds, ratio = compare(cases, "numpy", rounds, least)[name]
                row = {"us": round(1e6 * seconds, 1), "ratio_to_numpy": rounded(ratio)}
                emit(part="batch against capacity", data=kind, case=name, rows=rows, batch=batch, **row)
                del store, cases
                gc.collect()
            del data
    rows = 64_000 if quick else 1_024_000
    data = Data("state", rows)
    for sampler in ("uniform", "rr-c", "per"):
        for num_envs in (1, 4, 16, 64):
            name = f"rlkit {sampler}"
            cases = {name: draw(own(data, sampler, num_envs), batch), "numpy": data.gather(batch)}
            seconds, ratio = compare(cases, "numpy", rounds, least)[name]
            row = {"us": round(1e6 * seconds, 1), "ratio_to_numpy": rounded(ratio)}
            emit(
                part="batch against environments", data="state", case=name, envs=num_envs, rows=rows, batch=batch, **row
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small stores: shows that it works")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", default="batches,full-atari,priorities,writes,curves")
    parser.add_argument(
        "--only", default="", help="of the batches, also against capacity: only cases whose name holds this"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds, least = (3, 0.01) if arguments.quick else (arguments.rounds, 0.05)
    emit(benchmark="replay", quick=arguments.quick, rounds=rounds, **machine())
    parts: dict[str, Callable[[], None]] = {
        "batches": lambda: batches(arguments.quick, rounds, least, arguments.only),
        "full-atari": lambda: full_atari(rounds, least),
        "priorities": lambda: priorities(arguments.quick, rounds, least),
        "writes": lambda: writes(arguments.quick, rounds, least),
        "curves": lambda: curves(arguments.quick, rounds, least, arguments.only),
    }
    for name in arguments.parts.split(","):
        parts[name]()


if __name__ == "__main__":
    main()
