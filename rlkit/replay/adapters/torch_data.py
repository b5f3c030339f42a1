"""Plain PyTorch: a batch sampler for `torch.utils.data.DataLoader`. docs/plugins/torch_data.md"""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from torch.utils.data import Sampler

from rlkit.core.errors import ConfigError, ReplayError
from rlkit.core.typing import State
from rlkit.replay.adapters.slots import SlotSampler


class BatchSampler(Sampler[list[int]]):
    """Batches of indices into a fixed or growing dataset: `DataLoader(dataset, batch_sampler=...)`.

    One `for` over the loader is a pass of len(dataset) // batch_size batches (at least one), all of the same size. The
    sampler goes on where the pass before ended: its epochs are exact whatever the batch size is, and no rest is lost.

    capacity: the largest len(dataset) there will ever be; None: it does not grow. Rows that are appended are noticed at
    the next batch. seed, sampler, sampler_config: see SlotSampler; the object is the attribute `slots`.

    Indices are drawn in the main process, so they do not depend on the number of workers. Workers are ahead of the
    loop: `state_dict` then has to be told how far the loop is.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        *,
        seed: int,
        capacity: int | None = None,
        sampler: str = "rr-c",
        sampler_config: object = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(
                f"a batch_size of {batch_size}",
                why="a batch has at least one row",
                fix="batch_size=32",
                see="docs/plugins/torch_data.md",
            )
        self.batch_size, self._dataset = batch_size, dataset
        self._settings = (len(dataset) if capacity is None else capacity, sampler, seed, sampler_config)
        self.slots = SlotSampler(*self._settings)
        self._yielded = 0  # batches of this pass
        self._begin, self._before = self.slots.state_dict(), 0  # when the last `for` began, and what it had skipped
        self._restored = False

    def __len__(self) -> int:
        return max(1, len(self._dataset) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of a pass, or what is left of a restored one."""
        self._notice()
        self._yielded = self._yielded if self._restored else 0
        self._begin, self._before, self._restored = self.slots.state_dict(), self._yielded, False
        while self._yielded < len(self):
            self._notice()
            batch: list[int] = self.slots.draw(self.batch_size).tolist()
            self._yielded += 1
            yield batch

    def state_dict(self, taken: int | None = None) -> State:
        """Where the sampler is after `taken` batches of this pass; None: all that it has yielded.

        Without workers that is where the loop is. With workers give the number of batches that the loop has received,
        counted from the beginning of the pass. Raises ReplayError if it has not been there, or the dataset has grown
        since.
        """
        if taken is None or taken == self._yielded:
            return {"slots": self.slots.state_dict(), "yielded": self._yielded}
        if not self._before <= taken < self._yielded:
            raise ReplayError(
                f"the state after {taken} batches of this pass",
                why=f"batches {self._before} to {self._yielded} have been drawn",
                fix="give the number of batches that the loop has received in this pass",
                see="docs/plugins/torch_data.md",
            )
        if self._begin["high"] != self.slots.high:
            raise ReplayError(
                f"the state after {taken} batches of this pass",
                why="the dataset has grown since, and a pass is drawn again only over the same rows",
                fix="DataLoader(num_workers=0) for a dataset that grows, and state_dict() without a number",
                see="docs/plugins/torch_data.md",
            )
        then = SlotSampler(*self._settings)
        then.load_state_dict(self._begin)
        for _ in range(taken - self._before):
            then.draw(self.batch_size)
        return {"slots": then.state_dict(), "yielded": taken}

    def load_state_dict(self, state: State) -> None:
        """Continue; the next `for` is the rest of the stored pass. Refuses another sampler, capacity or seed."""
        self.slots.load_state_dict(state["slots"])
        self._yielded, self._restored = state["yielded"], True

    def _notice(self) -> None:
        """Rows that the dataset has got since the last batch."""
        length = len(self._dataset)
        if length > self.slots.sampler.capacity:
            raise ReplayError(
                f"the dataset has {length:,} rows",
                why=f"the sampler was made for {self.slots.sampler.capacity:,}",
                fix=f"BatchSampler(capacity={length}) or more",
                see="docs/plugins/torch_data.md",
            )
        if length > self.slots.high:
            self.slots.written(np.arange(self.slots.high, length))
