"""What all adapters share: a sampler for buffers that know slots but do not number their rows."""

from __future__ import annotations

import numpy as np

from rlkit.core.errors import ConfigError
from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers import find, make
from rlkit.replay.samplers.sampler import SampleInfo, check_slots


class SlotSampler:
    """Any sampler of the registry over the slots of a foreign buffer.

    The buffer says which slots it has written; each writing is a new row and gets the next number (uid).

    sampler: a name in the registry. config: of its own dataclass, None = its defaults. seed: of its random stream, the
    only randomness there is.

    Raises ConfigError for a name, config or seed that does not fit. Pickles as its state.
    """

    def __init__(self, capacity: int, sampler: str, seed: int, config: object = None) -> None:
        kind = find(sampler)
        if config is not None and not isinstance(config, kind.config):
            raise ConfigError(
                f"sampler_config is a {type(config).__name__}",
                why=f"the sampler {sampler!r} has settings of its own",
                fix=f"sampler_config={kind.config.__name__}(...), from {kind.config.__module__}",
                see="docs/plugins/README.md",
            )
        if not isinstance(seed, int | np.integer):
            raise ConfigError(
                f"the sampler's seed is {seed!r}",
                why="its draws come from a stream of its own, never from a global generator",
                fix="seed=1, or the seed of your run",
                see="docs/plugins/README.md",
            )
        self._settings = (capacity, sampler, int(seed), config)
        self.clear()

    def clear(self) -> None:
        """No rows any more; everything as newly made."""
        capacity, sampler, seed, config = self._settings
        self.sampler = make(sampler, capacity, seed, config)
        self.drawn: IntArray = np.empty(0, np.int64)  # the last draw
        self.info: SampleInfo | None = None  # and what else is known of it
        self.high = 0  # slots from here on were never written
        self._next = 0  # number of the next row
        # Libraries hand priorities back by slot alone. They are meant for the row that was last drawn from it; if
        # another one lives there now, the sampler ignores them.
        self.meant = np.full(capacity, -1, np.int64)

    def written(self, slots: IntArray) -> tuple[IntArray, IntArray]:
        """New rows live in these slots [N], the newest last. Returns the slots and the numbers of their rows.

        Of more rows than there are slots only the last ones have survived and count. Raises ReplayError for a slot out
        of range.
        """
        slots = slots[-self.sampler.capacity :]
        check_slots(slots, self.sampler.capacity)
        uids = np.arange(self._next, self._next + len(slots))
        self.sampler.invalidate(slots)
        self.sampler.extend(slots, uids)
        self._next += len(slots)
        self.high = max(self.high, int(slots.max(initial=-1)) + 1)
        return slots, uids

    def forget(self, slots: IntArray) -> None:
        """What lives in these slots [N] may not be drawn any more."""
        self.sampler.invalidate(slots)

    def draw(self, batch_size: int) -> IntArray:
        """Slots int64 [B]; they are `drawn` then, and `info` has the rest. Raises ReplayError if no row is usable."""
        self.drawn, self.info = self.sampler.sample(batch_size)
        self.meant[self.drawn] = self.info.uid
        return self.drawn

    def update(self, slots: IntArray, priority: FloatArray) -> None:
        """Priorities [N] of rows drawn from these slots; ignored where another row lives there by now.

        Raises ReplayError, and changes nothing, for a slot out of range or a priority that is negative or not finite.
        """
        check_slots(slots, self.sampler.capacity)
        self.sampler.update(slots, self.meant[slots], priority)

    def state_dict(self) -> State:
        """Everything that the next draw depends on."""
        return {
            "sampler": self.sampler.state_dict(),
            "next": self._next,
            "high": self.high,
            "meant": self.meant.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses (ResumeError) another sampler, capacity, seed or other settings."""
        self.sampler.load_state_dict(state["sampler"])
        self._next, self.high = state["next"], state["high"]
        self.meant[:] = state["meant"]

    def __getstate__(self) -> State:
        return {"settings": self._settings, "state": self.state_dict()}

    def __setstate__(self, state: State) -> None:
        self._settings = state["settings"]
        self.clear()
        self.load_state_dict(state["state"])
