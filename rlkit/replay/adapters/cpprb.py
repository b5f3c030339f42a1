"""cpprb 11: its ReplayBuffer, with the sampler of your choice. docs/plugins/cpprb.md"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlkit.core.typing import Array, IntArray
from rlkit.replay.adapters import package_missing
from rlkit.replay.adapters.slots import SlotSampler

try:
    import cpprb
except ModuleNotFoundError as error:
    raise package_missing("cpprb", "cpprb>=11,<12") from error


class ReplayBuffer(cpprb.ReplayBuffer):
    """`cpprb.ReplayBuffer`; n-step windows, shared next observations and compressed stacks stay the library's.

    seed, sampler, sampler_config: see SlotSampler; the object is the attribute `slots`. The library stores transitions
    only (`save_transitions`): store `slots.state_dict()` beside them.
    """

    def __init__(
        self,
        size: int,
        env_dict: dict[str, dict[str, Any]],
        *,
        next_of: str | Sequence[str] | None = None,
        stack_compress: str | Sequence[str] | None = None,
        default_dtype: Any = None,
        Nstep: Mapping[str, Any] | None = None,  # noqa: N803  # the library's spelling
        mmap_prefix: str | None = None,
        seed: int,
        sampler: str = "rr-c",
        sampler_config: object = None,
    ) -> None:
        super().__init__(size, env_dict)  # has taken all arguments already, in `__cinit__`; does nothing
        self.slots = SlotSampler(int(size), sampler, seed, sampler_config)

    def add(self, **columns: Any) -> int | None:
        """Rows, one array per column; the first slot, or None while an n-step window is incomplete."""
        first: int | None = super().add(**columns)
        if first is not None:
            size = self.get_buffer_size()
            count = (self.get_next_index() - first - 1) % size + 1
            self.slots.written((first + np.arange(count)) % size)
            if self.get_stored_size() > self.slots.high:  # more rows at once than there are slots
                self.slots.written(np.arange(size))
        return first

    def sample(self, batch_size: int) -> dict[str, Array]:
        """A batch [B, ...] by column, `indexes` [B], and `weights` [B] if the sampler has them.

        Raises ReplayError if nothing has been added.
        """
        slots = self.slots.draw(batch_size)
        batch: dict[str, Array] = self._encode_sample(slots)
        batch["indexes"] = slots
        if self.slots.info is not None and self.slots.info.weight is not None:
            batch["weights"] = self.slots.info.weight
        return batch

    def update_priorities(self, indexes: IntArray, priorities: Array) -> None:
        """Priorities [B], not negative, of the rows drawn from `indexes`; ignored where they were overwritten since."""
        self.slots.update(np.asarray(indexes), np.asarray(priorities, np.float32).reshape(-1))

    def clear(self) -> None:
        """Empty the buffer; the sampler starts anew."""
        super().clear()
        self.slots.clear()
