"""Tianshou 2: its replay buffers, with the sampler of your choice. Changes one line of a script.

Frame stacks, n-step returns and what an end means stay the library's. docs/plugins/tianshou.md
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.core.typing import Array, IntArray
from rlkit.replay.adapters import package_missing
from rlkit.replay.adapters.slots import SlotSampler

try:
    from tianshou import data
except ModuleNotFoundError as error:
    raise package_missing("tianshou", "tianshou>=2,<3") from error


class _SampledRows(data.ReplayBuffer):
    """What both buffers do; stands before the library's class among their bases."""

    slots: SlotSampler

    def add(self, batch: Any, buffer_ids: Any = None) -> tuple[Array, Array, Array, Array]:
        """One step; slots, episode returns, lengths and beginnings, as the library returns them."""
        result: tuple[Array, Array, Array, Array] = super().add(batch, buffer_ids)
        self._announce(result[0])
        return result

    def update(self, buffer: Any) -> IntArray:
        """Append the rows of another buffer; their slots. A vector buffer refuses, as in the library."""
        rows: IntArray = super().update(buffer)
        self._announce(rows)
        return rows

    def sample_indices(self, batch_size: int | None) -> IntArray:
        """Slots int64 [B] from the sampler. None: as many as there are rows; 0: all, in order; negative: none.

        Raises ReplayError if no row is usable.
        """
        if batch_size is None:
            batch_size = len(self)
        if batch_size > 0:
            return self.slots.draw(batch_size)
        rest: IntArray = super().sample_indices(batch_size)
        return rest

    def sample(self, batch_size: int | None) -> tuple[Any, IntArray]:
        """A batch and its slots; `batch.weight` [B] if the sampler has weights."""
        slots = self.sample_indices(batch_size)
        batch = self[slots]
        drawn = batch_size is None or batch_size > 0
        if drawn and self.slots.info is not None and self.slots.info.weight is not None:
            batch.weight = self.slots.info.weight
        return batch, slots

    def update_weight(self, index: IntArray, new_weight: Array | Tensor) -> None:
        """TD errors [B], of either sign, of the rows drawn from `index`; algorithms call it after each update."""
        priority = torch.as_tensor(new_weight).detach().to("cpu", torch.float32).abs().numpy().reshape(-1)
        self.slots.update(np.asarray(index), priority)

    def reset(self, keep_statistics: bool = False) -> None:
        """Empty the buffer; the sampler starts anew."""
        super().reset(keep_statistics)
        self.slots.clear()

    def _announce(self, rows: IntArray) -> None:
        """Rows have been written: with `sample_avail` only those with a whole stack may be drawn.

        The next stack_num - 1 rows of the ring may have lost the beginning of theirs.
        """
        if self.stack_num == 1 or not self._sample_avail:
            self.slots.written(rows)
            return
        edges = self.subbuffer_edges
        ring = np.searchsorted(edges, rows, side="right") - 1
        begin, length = edges[ring][:, None], np.diff(edges)[ring][:, None]
        near = ((rows[:, None] - begin + np.arange(self.stack_num)) % length + begin).T.reshape(-1)
        earliest = near
        for _ in range(self.stack_num - 2):
            earliest = self.prev(earliest)
        available = earliest != self.prev(earliest)
        self.slots.forget(near[~available])
        self.slots.written(rows[available[: len(rows)]])


class ReplayBuffer(_SampledRows):
    """`tianshou.data.ReplayBuffer`. seed, sampler, sampler_config: see SlotSampler; the object is `slots`.

    Pickles and goes to HDF5 with the sampler as it is. `from_data` and `set_batch` do not tell the sampler: append
    such data with `update`.
    """

    def __init__(
        self,
        size: int,
        stack_num: int = 1,
        ignore_obs_next: bool = False,
        save_only_last_obs: bool = False,
        sample_avail: bool = False,
        *,
        seed: int,
        sampler: str = "rr-c",
        sampler_config: object = None,
    ) -> None:
        super().__init__(size, stack_num, ignore_obs_next, save_only_last_obs, sample_avail)
        self.slots = SlotSampler(self.maxsize, sampler, seed, sampler_config)


class VectorReplayBuffer(_SampledRows, data.VectorReplayBuffer):
    """`tianshou.data.VectorReplayBuffer`: one ring per environment, one sampler over all of them."""

    def __init__(
        self,
        total_size: int,
        buffer_num: int,
        stack_num: int = 1,
        ignore_obs_next: bool = False,
        save_only_last_obs: bool = False,
        sample_avail: bool = False,
        *,
        seed: int,
        sampler: str = "rr-c",
        sampler_config: object = None,
    ) -> None:
        super().__init__(
            total_size,
            buffer_num,
            stack_num=stack_num,
            ignore_obs_next=ignore_obs_next,
            save_only_last_obs=save_only_last_obs,
            sample_avail=sample_avail,
        )
        self.slots = SlotSampler(self.maxsize, sampler, seed, sampler_config)
