"""Whether two states or runs are the same, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.core.typing import Array
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.run_folder import RunFolder
from rlkit.training.tree_files import crc32

# Wall time is measured, not computed; everything else must agree.
_MEASURED = {"wall_s", "causal/wall_s"}


def differing_leaves(left: Any, right: Any, path: str = "") -> list[str]:
    """Addresses of the leaves of two states that differ in type, shape or any bit."""
    if type(left) is not type(right):
        return [f"{path}: {type(left).__name__} and {type(right).__name__}"]
    match left:
        case dict():
            only = [f"{path}/{key}: on one side only" for key in left.keys() ^ right.keys()]
            both = [key for key in left if key in right and key not in _MEASURED]
            return only + [line for key in both for line in differing_leaves(left[key], right[key], f"{path}/{key}")]
        case list() | tuple():
            if len(left) != len(right):
                return [f"{path}: {len(left)} and {len(right)} items"]
            pairs = enumerate(zip(left, right, strict=True))
            return [line for i, (a, b) in pairs for line in differing_leaves(a, b, f"{path}/{i}")]
        case Tensor():
            same = left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
        case np.ndarray():
            same = left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
        case _:
            same = left == right
    return [] if same else [path]


def differing_runs(left: Path, right: Path) -> list[str]:
    """What differs between two runs: state and replay rows of the newest checkpoints, measurements."""
    stores = [CheckpointStore(path / "checkpoints", keep=1) for path in (left, right)]
    loaded = [store.load() for store in stores]
    found = [f"step: {loaded[0][0]} and {loaded[1][0]}"] if loaded[0][0] != loaded[1][0] else []
    found += [f"state{line}" for line in differing_leaves(loaded[0][1], loaded[1][1])]
    rows = [_rows(store, segments) for store, (_, _, segments, _) in zip(stores, loaded, strict=True)]
    for env in sorted(rows[0].keys() | rows[1].keys()):
        if env not in rows[0] or env not in rows[1] or not _same_rows(rows[0][env], rows[1][env]):
            found.append(f"replay rows of environment {env}")
    for name in ("metrics", "evaluations", "activations"):
        lines = [
            [{k: v for k, v in line.items() if k not in _MEASURED} for line in RunFolder(p).lines(name)]
            for p in (left, right)
        ]
        if lines[0] != lines[1]:
            found.append(f"{name}.jsonl")
    return found


def describe(run: Path) -> str:
    """One line about the newest checkpoint: its step and the CRC32 of all its arrays."""
    step = CheckpointStore(run / "checkpoints", keep=1).steps()[-1]
    return f"{run.name}: step {step:,}, arrays {crc32(run / 'checkpoints' / str(step) / 'state.safetensors'):08x}"


def _rows(store: CheckpointStore, segments: list[dict[str, Any]]) -> dict[int, tuple[int, dict[str, Array]]]:
    """First stored row and all columns of each environment, joined over segments."""
    pieces: dict[int, tuple[int, list[dict[str, Array]]]] = {}
    for env, start, columns in store.read_rows(segments):
        pieces.setdefault(env, (start, []))[1].append(columns)
    return {
        env: (start, {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]})
        for env, (start, parts) in pieces.items()
    }


def _same_rows(left: tuple[int, dict[str, Array]], right: tuple[int, dict[str, Array]]) -> bool:
    """Two runs may cut their segments at different steps, so one may still hold rows that the other has dropped."""
    first = max(left[0], right[0])
    trimmed = [
        {name: column[first - start :].tobytes() for name, column in columns.items()}
        for start, columns in (left, right)
    ]
    return trimmed[0] == trimmed[1]
