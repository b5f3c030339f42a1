"""Compiled loops that read rings: sequences, n-step windows and frame stacks by index.

Flat slot = row * E + environment, so the next row of an environment is E slots on. Loops go over one column at a time:
the reads of a column do not depend on each other, and the processor has many of them under way at once.
"""

from __future__ import annotations

import numpy as np

from rlkit.core.kernels import kernel
from rlkit.core.typing import Array, BoolArray, FloatArray, IntArray
from rlkit.replay.ring import FINAL, FIRST, TERMINATED


@kernel
def _next(slot: int, envs: int, capacity: int) -> int:
    """Slot of the row after this one."""
    slot += envs
    return slot - capacity if slot >= capacity else slot


@kernel
def _previous(slot: int, envs: int, capacity: int) -> int:
    """Slot of the row before this one."""
    slot -= envs
    return slot + capacity if slot < 0 else slot


@kernel
def sequences(
    starts: IntArray,
    uids: IntArray,
    envs: int,
    length: int,
    burn_in: int,
    flags: Array,
    slots: IntArray,
    row_uids: IntArray,
    mask: BoolArray,
) -> None:
    """Slots and uids [B, burn_in + length] of the rows around each start, and whether they belong to its episode.

    Rows before the episode's first repeat it, rows from its end on repeat its last; `mask` is False there.
    """
    for i in range(len(starts)):
        slots[i, burn_in], row_uids[i, burn_in], mask[i, burn_in] = starts[i], uids[i], True
        inside = True
        for k in range(burn_in - 1, -1, -1):
            newer = slots[i, k + 1]
            inside = inside and not flags[newer] & FIRST
            slots[i, k] = _previous(newer, envs, len(flags)) if inside else newer
            row_uids[i, k] = row_uids[i, k + 1] - envs * inside
            mask[i, k] = inside
        inside = True
        for k in range(burn_in + 1, burn_in + length):
            older = slots[i, k - 1]
            following = _next(older, envs, len(flags))
            inside = inside and not flags[following] & FINAL
            slots[i, k] = following if inside else older
            row_uids[i, k] = row_uids[i, k - 1] + envs * inside
            mask[i, k] = inside


@kernel
def returns(
    slots: IntArray,
    envs: int,
    n_step: int,
    gamma: float,
    clip: float,
    flags: Array,
    reward: FloatArray,
    out_reward: FloatArray,
    out_discount: FloatArray,
    out_terminated: BoolArray,
    out_after: IntArray,
) -> None:
    """n-step windows from `slots` [N]: they stop after a terminated row and before a final-frame row.

    R = sum over j < K of gamma^j r_j (Sutton & Barto 2018, eq. 7.1), discount gamma^K (1 - terminated) for the K rows
    really used; rewards are clipped to [-clip, clip] as they are read. out_after: the slot that follows the window.
    """
    step_gamma, bound = np.float32(gamma), np.float32(clip)
    for i in range(len(slots)):
        out_reward[i] = min(max(reward[slots[i]], -bound), bound)
    for i in range(len(slots)):
        ended = flags[slots[i]] & TERMINATED != 0
        out_terminated[i], out_discount[i] = ended, np.float32(0.0) if ended else step_gamma
        out_after[i] = _next(slots[i], envs, len(flags))
    if n_step == 1:
        return
    for i in range(len(slots)):
        total, power, ended, after = out_reward[i], step_gamma, out_terminated[i], out_after[i]
        for _ in range(1, n_step):
            if ended or flags[after] & FINAL:
                break
            total += power * min(max(reward[after], -bound), bound)
            power *= step_gamma
            ended = flags[after] & TERMINATED != 0
            after = _next(after, envs, len(flags))
        out_reward[i], out_terminated[i], out_after[i] = total, ended, after
        out_discount[i] = np.float32(0.0) if ended else power


@kernel
def stacks(slots: IntArray, envs: int, stack: int, repeat: bool, flags: Array, places: IntArray) -> None:
    """Storage rows of the `stack` frames that end at `slots` [N], oldest first, into `places` [N, >= stack].

    Frames before the episode's first are the all-zero frame behind the last row, or the first frame itself.
    """
    zero = len(flags)
    for i in range(len(slots)):
        newer = slots[i]
        places[i, stack - 1] = newer
        began = False
        for k in range(stack - 2, -1, -1):
            if not began:
                if flags[newer] & FIRST:
                    began = True
                else:
                    newer = _previous(newer, envs, len(flags))
            places[i, k] = zero if began and not repeat else newer


@kernel
def ages(slots: IntArray, envs: int, rows_written: IntArray, capacity: int, out_age: IntArray) -> None:
    """Rows that the environment of each of `slots` [N] has written since the row there."""
    rows = capacity // envs
    if envs == 1:  # a division a row is what this costs otherwise
        newest = (rows_written[0] - 1) % rows
        for i in range(len(slots)):
            age = newest - slots[i]
            out_age[i] = age if age >= 0 else age + rows
        return
    newest_rows = (rows_written - 1) % rows
    for i in range(len(slots)):
        row = slots[i] // envs
        age = newest_rows[slots[i] - row * envs] - row
        out_age[i] = age if age >= 0 else age + rows


@kernel
def copy_rows(column: Array, slots: IntArray, out: Array) -> None:
    """out[i] = the first columns of column[slots[i]], as many as `out` [N, K] has; for short rows of whole numbers.

    A copy waits for each row in turn, since few of them fit into the processor's window; a loop that only reads one
    number at either end of a row waits for many at once. So that one goes first, for its effect on the cache.
    """
    last = out.shape[1] - 1
    for start in range(0, len(slots), 256):
        stop = min(start + 256, len(slots))
        touched = column[0, 0]
        for i in range(start, stop):
            touched ^= column[slots[i], 0] ^ column[slots[i], last]
        out[start, 0] = touched  # or the compiler would drop the loop; overwritten now
        for i in range(start, stop):
            slot = slots[i]
            for j in range(last + 1):
                out[i, j] = column[slot, j]


@kernel
def read(
    starts: IntArray,
    envs: int,
    n_step: int,
    gamma: float,
    clip: float,
    stack: int,
    repeat: bool,
    flags: Array,
    reward: FloatArray,
    action: Array,
    action_column: int,
    rows_written: IntArray,
    frames: Array,
    out_action: Array,
    out_reward: FloatArray,
    out_discount: FloatArray,
    out_terminated: BoolArray,
    out_after: IntArray,
    out_age: IntArray,
    out_places: IntArray,
    out_frames: Array,
) -> None:
    """All that a batch holds of the windows from `starts` [N], in one call.

    action: [C, K] whole numbers, from `action_column` on the action. out_places: storage rows of the stacks at the
    start and behind the window, [N, stack + 1] overlapping for n_step 1, else [2 N, stack], all starts first.
    frames, out_frames: as whole numbers; out_frames is empty where the caller fetches the frames at out_places.
    """
    returns(starts, envs, n_step, gamma, clip, flags, reward, out_reward, out_discount, out_terminated, out_after)
    for i in range(len(starts)):  # returns has fetched the rows of these
        for j in range(out_action.shape[1]):
            out_action[i, j] = action[starts[i], action_column + j]
    ages(starts, envs, rows_written, len(flags), out_age)
    count = len(starts)
    stacks(starts, envs, stack, repeat, flags, out_places)
    if n_step == 1:
        for i in range(count):
            out_places[i, stack] = out_after[i]
    else:
        stacks(out_after, envs, stack, repeat, flags, out_places[count:])
    if len(out_frames):
        copy_rows(frames, out_places.reshape(-1), out_frames)
