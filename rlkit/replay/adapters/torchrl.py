"""TorchRL 0.14: a sampler for `ReplayBuffer(sampler=...)`. Needs no compiled extension. docs/plugins/torchrl.md"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.core.typing import IntArray
from rlkit.replay.adapters import package_missing
from rlkit.replay.adapters.slots import SlotSampler

try:
    from torchrl.data.replay_buffers.samplers import Sampler
except ModuleNotFoundError as error:
    raise package_missing("torchrl", "torchrl>=0.14,<0.15") from error

_FILE = "rlkit_sampler.pt"


class ReplaySampler(Sampler):  # named for what it plugs into; rlkit.replay.Sampler is the protocol
    """Any sampler of the registry over the slots of a TorchRL storage, of any number of dimensions.

    Capacity and rows are taken from the storage, also those that were there before. A batch has, besides the rows,
    `uid` (number of the row) and, if the sampler has weights, `priority_weight`.

    seed: of the sampler's stream; None = the `generator` of the replay buffer, whose initial seed is then used.
    sampler, sampler_config: see SlotSampler; the object is the attribute `slots`, None before the first row.

    Not for several processes: a row that another process overwrites is not noticed.
    """

    def __init__(self, *, seed: int | None = None, sampler: str = "rr-c", sampler_config: object = None) -> None:
        self._seed, self._name, self._config = seed, sampler, sampler_config
        self._shape: tuple[int, ...] = ()
        self.slots: SlotSampler | None = None

    def sample(self, storage: Any, batch_size: int) -> tuple[Any, dict[str, Tensor]]:
        """Index (int64 [B] or, of storages with more dimensions, a tuple of them) and info.

        Raises ReplayError if the storage is empty or no row is usable.
        """
        slots = self._bind(storage)
        self._write(np.arange(slots.high, len(storage)))
        drawn = slots.draw(batch_size)
        assert slots.info is not None
        device = getattr(storage, "device", None)
        device = None if device == "auto" else device
        info = {"uid": torch.as_tensor(slots.info.uid, device=device)}
        if slots.info.weight is not None:
            info["priority_weight"] = torch.as_tensor(slots.info.weight, device=device)
        index = [torch.as_tensor(part, device=device) for part in np.unravel_index(drawn, self._shape)]
        return (index[0] if len(index) == 1 else tuple(index)), info

    def mark_update(self, index: int | Tensor, *, storage: Any = None) -> None:
        """The storage has new rows: each writer says so to each buffer that reads from the storage."""
        slots = self._bind(storage)
        rows = self._flat(index)
        rows = rows[rows >= 0]  # -1: a writer that kept something better
        self._write(np.setdiff1d(np.arange(slots.high, len(storage)), rows))
        self._write(rows)

    def update_priority(self, index: int | Tensor, priority: float | Tensor, *, storage: Any = None) -> None:
        """Priorities [N], or one for all, of the rows at `index`, not negative; nothing if the sampler has none.

        As in TorchRL's own sampler, a row that was overwritten since the draw cannot be told apart by its index alone;
        `slots.sampler.update` takes the `uid` of the batch.
        """
        slots = self._bind(storage)
        flat = self._flat(index)
        values = torch.as_tensor(priority).detach().to("cpu", torch.float32).numpy().reshape(-1)
        slots.update(flat, np.broadcast_to(values, flat.shape).copy() if values.size == 1 else values)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts."""
        return {
            "shape": list(self._shape),
            "seed": self._seed,
            "slots": None if self.slots is None else _to_tensors(self.slots.state_dict()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses (ResumeError) another kind, shape of storage, seed or other settings."""
        shape = tuple(state_dict["shape"])
        if self._shape not in ((), shape):
            raise ResumeError(
                "the stored sampler belongs to another storage",
                why=f"stored shape {list(shape)}, this one {list(self._shape)}",
                fix="make the storage with the max_size of the stored one",
                see="docs/plugins/torchrl.md",
            )
        if state_dict["slots"] is None:
            self.slots, self._shape = None, ()
            return
        seed = state_dict["seed"] if self._seed is None else self._seed
        slots = SlotSampler(math.prod(shape), self._name, seed, self._config)
        slots.load_state_dict(_to_arrays(state_dict["slots"]))
        self.slots, self._shape, self._seed = slots, shape, seed

    def dumps(self, path: str | Path) -> None:
        """Write the state into folder `path`."""
        Path(path).mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), Path(path) / _FILE)

    def loads(self, path: str | Path) -> None:
        """Read what `dumps` wrote; as `load_state_dict`."""
        self.load_state_dict(torch.load(Path(path) / _FILE, weights_only=True))

    def _empty(self) -> None:
        if self.slots is not None:
            self.slots.clear()

    def _bind(self, storage: Any) -> SlotSampler:
        """The slots of `storage`."""
        if self.slots is None:
            if not len(storage):
                raise ReplayError(
                    "the storage is empty",
                    why="its shape is known, and a row can be drawn, once something has been written",
                    fix="extend the buffer before the first sample",
                    see="docs/plugins/torchrl.md",
                )
            inner = tuple(storage.shape[1:])  # the first dimension grows; max_size counts rows of all dimensions
            self._shape = (-(-storage.max_size // math.prod(inner)), *inner)
            self.slots = SlotSampler(self._capacity(), self._name, self._stream_seed(), self._config)
        elif math.prod(self._shape) < len(storage):
            raise ReplayError(
                f"the storage has {len(storage):,} rows, this sampler {math.prod(self._shape):,} slots",
                why="a sampler belongs to one storage",
                fix="make a new sampler for each storage",
                see="docs/plugins/torchrl.md",
            )
        return self.slots

    def _write(self, rows: IntArray) -> None:
        """New rows; a priority that comes without a draw is meant for them (`extend` with a priority key)."""
        assert self.slots is not None
        rows, uids = self.slots.written(rows)
        self.slots.meant[rows] = uids

    def _capacity(self) -> int:
        capacity = math.prod(self._shape)
        if capacity >= 2**31:
            raise ConfigError(
                "the storage has no max_size",
                why="a sampler keeps something for each slot",
                fix="ListStorage(max_size=100_000)",
                see="docs/plugins/torchrl.md",
            )
        return capacity

    def _stream_seed(self) -> int:
        if self._seed is None:
            if self._rng is None:
                raise ConfigError(
                    "the sampler has no seed",
                    why="it draws from a stream of its own, and the replay buffer has no generator to take a seed from",
                    fix="ReplaySampler(seed=1), or ReplayBuffer(generator=torch.Generator().manual_seed(1))",
                    see="docs/plugins/torchrl.md",
                )
            self._seed = self._rng.initial_seed()
        return self._seed

    def _flat(self, index: int | Tensor) -> IntArray:
        """Flat slots of an index: a number, [N], or [N, dimensions]."""
        places: IntArray = torch.as_tensor(index).cpu().numpy().astype(np.int64).reshape(-1, len(self._shape))
        strides = [math.prod(self._shape[i + 1 :]) for i in range(len(self._shape))]
        return places @ np.array(strides, np.int64)


def _to_tensors(node: Any) -> Any:
    """Arrays of a nested state as tensors, so that `torch.load` with `weights_only` takes it."""
    if isinstance(node, dict):
        return {key: _to_tensors(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_to_tensors(value) for value in node]
    return torch.from_numpy(node.copy()) if isinstance(node, np.ndarray) else node


def _to_arrays(node: Any) -> Any:
    """The inverse of `_to_tensors`."""
    if isinstance(node, dict):
        return {key: _to_arrays(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_to_arrays(value) for value in node]
    return node.cpu().numpy() if isinstance(node, Tensor) else node
