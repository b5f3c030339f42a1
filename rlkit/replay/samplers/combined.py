"""CER: combined experience replay (Zhang and Sutton 2017, arXiv:1712.01275)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers.arrival import ArrivalLog
from rlkit.replay.samplers.reshuffle import ReshuffleSampler
from rlkit.replay.samplers.sampler import SampleInfo, check_batch_size, check_state, no_usable_row
from rlkit.replay.samplers.uniform import UniformSampler

_INNER: dict[str, type[UniformSampler | ReshuffleSampler]] = {"uniform": UniformSampler, "rr-c": ReshuffleSampler}


@dataclass(frozen=True)
class CombinedConfig:
    """Settings of CombinedSampler."""

    inner: Literal["uniform", "rr-c"] = "uniform"  # draws the rest of the batch, with its default settings


class CombinedSampler:
    """The last row of each batch is the newest usable one; the inner sampler draws the others and knows nothing of it.

    So the newest row gets an extra visit per batch, and may be in it twice. Newest by the order of `extend`.
    """

    def __init__(self, capacity: int, seed: int, config: CombinedConfig = CombinedConfig()) -> None:
        self.capacity, self.config = capacity, config
        self._inner = _INNER[config.inner](capacity, seed)
        self._log = ArrivalLog(capacity)

    def __len__(self) -> int:
        return len(self._log)

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable. `priority` is ignored."""
        self._log.extend(slots, uids)
        self._inner.extend(slots, uids)

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        self._log.invalidate(slots)
        self._inner.invalidate(slots)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B], the newest usable row last. Raises ReplayError if no row is usable."""
        check_batch_size(batch_size)
        if len(self) == 0:
            no_usable_row()
        others = self._inner.sample(batch_size - 1)[0] if batch_size > 1 else np.empty(0, np.int64)
        slots = np.append(others, self._log.newest)
        return slots, SampleInfo(uid=self._log.uid[slots], epoch=getattr(self._inner, "epoch", None))

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """Combined sampling has no priorities."""

    def metrics(self) -> dict[str, float]:
        """Those of the inner sampler."""
        return self._inner.metrics()

    def state_dict(self) -> State:
        """The inner sampler's, and who arrived when."""
        return {
            "kind": self._kind(),
            "capacity": self.capacity,
            "inner": self._inner.state_dict(),
            "log": self._log.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity, seed or other settings."""
        check_state(state, self._kind(), self.capacity)
        self._inner.load_state_dict(state["inner"])
        self._log.load_state_dict(state["log"])

    def _kind(self) -> str:
        return f"cer with {self.config}"
