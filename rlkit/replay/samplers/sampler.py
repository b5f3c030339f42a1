"""The sampler protocol: index-only, seedable, never sees data; and the checks that all samplers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from rlkit.core.errors import ReplayError, ResumeError
from rlkit.core.kernels import kernel
from rlkit.core.typing import FloatArray, IntArray, State


@dataclass(frozen=True)
class SampleInfo:
    """What a sampler knows about the slots that it just returned."""

    uid: IntArray  # [B] number of the row that lived in the slot when it was drawn
    weight: FloatArray | None = None  # [B] importance weight, if the sampler has one
    epoch: int | None = None  # finished passes, if the sampler reshuffles


class Sampler(Protocol):
    """Who draws slots. The buffer says which rows are usable; the sampler decides which come next.

    Not locked: one thread at a time. Every method but `sample` and `update` is a few microseconds for a few rows.
    """

    capacity: int  # slots

    def __len__(self) -> int:
        """Usable rows."""

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows BECAME usable: their next frame and n-step window are there.

        Raises ReplayError, and changes nothing, for a slot out of range, another number of uids than slots or, in a
        sampler with priorities, one that is negative or not finite; others ignore them.
        """

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable (overwritten, or their stack's history is). Unknown slots are ignored."""

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B], in arrays of their own. Raises ReplayError if no row is usable, or if B is below 1."""

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """New priorities; rows whose uid has changed meanwhile are ignored.

        Raises ReplayError, and changes nothing, for a slot out of range or a priority that is negative or not finite.
        A sampler without priorities does nothing, and looks at nothing.
        """

    def metrics(self) -> dict[str, float]:
        """Numbers about the draws since the last call, for the log; the counters start anew."""

    def state_dict(self) -> State:
        """Everything that the next draw depends on: arrays, ints, floats, texts; a copy."""

    def load_state_dict(self, state: State) -> None:
        """Refuses (ResumeError) another kind, capacity, seed or other settings."""


def no_usable_row() -> NoReturn:
    """Raise the error of a draw from an empty sampler."""
    raise ReplayError(
        "replay holds no usable row",
        why="a row can be drawn once its n-step window is complete; 0 are",
        fix="collect more steps before the first update (learning_starts)",
        see="docs/replay.md",
    )


def batch_too_large(batch_size: int, usable: int, kind: str) -> NoReturn:
    """Raise the error of a batch that cannot be filled without drawing a row twice."""
    raise ReplayError(
        f"a batch of {batch_size} from {usable} usable rows",
        why=f"{kind} draws no row twice in a batch",
        fix=f"collect more steps first, or a batch of at most {usable}",
        see="docs/replay.md",
    )


def check_batch_size(batch_size: int) -> None:
    """Raise ReplayError if there is nothing to draw."""
    if batch_size < 1:
        raise ReplayError(
            f"a batch of {batch_size} rows", why="a batch has at least one", fix="give a batch size of 1 or more"
        )


def check_slots(slots: IntArray, capacity: int, uids: IntArray | None = None) -> None:
    """Raise ReplayError if a slot lies outside [0, capacity), or if there is not one uid for each."""
    if uids is not None and uids.shape != slots.shape:
        raise ReplayError(
            f"uids have shape {list(uids.shape)} for {len(slots)} slots",
            why="every row has one; nothing has been changed",
            fix="hand in as many uids as slots",
            see="docs/replay.md",
        )
    bad = first_outside(slots, capacity)
    if bad >= 0:
        raise ReplayError(
            f"slot {slots[bad]} is out of range",
            why=f"this sampler has slots 0 to {capacity - 1}; nothing has been changed",
            fix="make sampler and buffer with the same capacity",
            see="docs/replay.md",
        )


def check_priority(priority: FloatArray, slots: IntArray) -> None:
    """Raise ReplayError if a priority is NaN, infinite or negative, or there is not one for each slot."""
    if priority.shape != slots.shape:
        raise ReplayError(
            f"{priority.size} priorities of shape {list(priority.shape)} for {slots.size} slots",
            why="every slot needs one; nothing has been changed",
            fix="priorities of shape [B], never [B, 1]",
            see="docs/replay.md",
        )
    if priority.size and not (priority.min() >= 0 and priority.max() < np.inf):
        bad = priority[~((priority >= 0) & (priority < np.inf))][0]
        raise ReplayError(
            f"a priority is {bad}",
            why="priorities are finite and not negative; nothing has been changed",
            fix="use |TD error| and look for the first NaN in the loss",
            see="docs/replay.md",
        )


def check_state(state: State, kind: str, capacity: int) -> None:
    """Raise ResumeError if a stored sampler is of another kind or capacity."""
    if state["kind"] != kind or state["capacity"] != capacity:
        raise ResumeError(
            "the stored sampler is another one",
            why=f"stored {state['kind']} of {state['capacity']} slots, this is {kind} of {capacity}",
            fix="resume with the replay settings of the stored run",
            see="docs/replay.md",
        )


@kernel
def first_outside(slots: IntArray, capacity: int) -> int:
    """The first place of `slots` that holds none of [0, capacity), or -1."""
    for i in range(len(slots)):
        if not 0 <= slots[i] < capacity:
            return i
    return -1


@kernel
def occupy(uid: IntArray, slots: IntArray, uids: IntArray) -> int:
    """Write into uid [C] who lives in `slots`; how many of them were empty (-1)."""
    count = 0
    for i in range(len(slots)):
        count += uid[slots[i]] < 0
        uid[slots[i]] = uids[i]
    return count


@kernel
def vacate(uid: IntArray, slots: IntArray) -> int:
    """Empty `slots` of uid [C], those that do not exist left out; how many were not empty."""
    count = 0
    for slot in slots:
        if 0 <= slot < len(uid):
            count += uid[slot] >= 0
            uid[slot] = -1
    return count
