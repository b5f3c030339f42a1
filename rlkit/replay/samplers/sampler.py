"""The sampler protocol: index-only, seedable, never sees data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlkit.core.typing import FloatArray, IntArray, State


@dataclass(frozen=True)
class SampleInfo:
    """What a sampler knows about the slots that it just returned."""

    uid: IntArray  # [B] number of the row that lived in the slot when it was drawn
    weight: FloatArray | None = None  # [B] importance weight, if the sampler has one
    epoch: int | None = None  # finished passes, if the sampler reshuffles


class Sampler(Protocol):
    """Who draws slots. The buffer says which rows are usable; the sampler decides which come next."""

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows BECAME usable: their next frame and n-step window are there."""

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable (overwritten, or their stack's history is). Unknown slots are ignored."""

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B]. Raises ReplayError if no row is usable."""

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """New priorities; rows whose uid has changed meanwhile are ignored. A no-op without priorities."""

    def state_dict(self) -> State:
        """Everything that the next draw depends on."""

    def load_state_dict(self, state: State) -> None:
        """Refuses (ResumeError) another capacity, kind or seed."""
