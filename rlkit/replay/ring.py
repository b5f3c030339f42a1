"""Compiled loops over rings of rows: what writing a step does to them, and which rows become usable starts.

Columns are flat: slot = (row number % R) * E + environment, R rows a ring, E rings. A row is known for ever by its
number in its environment; the ring holds the last R of them.
"""

from __future__ import annotations

from typing import Any

from rlkit.core.kernels import kernel
from rlkit.core.typing import Array, BoolArray, FloatArray, IntArray

# Bits of a row's flags.
TERMINATED, TRUNCATED, FIRST, FINAL = 1, 2, 4, 8  # FIRST: begins an episode; FINAL: holds only its true last frame


@kernel
def _take_back(
    number: int, env: int, rows: int, envs: int, history: int, begun: IntArray, flags: Array, lost: IntArray, count: int
) -> int:
    """Row `number` is about to be written: append to `lost` the slot that it overwrites, and those that it cuts off.

    The stack (and burn-in) of a row reaches `history` rows back unless its episode begins in between, so those nearer
    to the oldest row were cut off before it, unless it begins an episode itself. begun: [E] number of the first row of
    the episode that the ring's oldest row belongs to, once that first row has been overwritten.
    """
    if number < rows:
        return count
    row = number % rows
    lost[count] = row * envs + env
    count += 1
    begins = flags[row * envs + env] & FIRST
    if begins:
        begun[env] = number - rows
    for k in range(1, history + 1):
        newer = (row + k) % rows * envs + env
        if flags[newer] & FIRST:
            break
        if begins or k == history:
            lost[count] = newer
            count += 1
    return count


@kernel
def first_refused(reward: FloatArray, truncated: BoolArray, ended: BoolArray) -> int:
    """The first environment whose reward is not finite, or that is truncated without having ended; or -1."""
    for env in range(len(reward)):
        if not abs(reward[env]) < 3.5e38 or (truncated[env] and not ended[env]):
            return env
    return -1


@kernel
def record_step(
    rows: int,
    envs: int,
    history: int,
    rows_written: IntArray,
    begun: IntArray,
    starts: BoolArray,
    flags: Array,
    reward: FloatArray,
    action: Array,
    lives: Array,
    step_action: Array,
    step_reward: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    ended: BoolArray,
    step_lives: Array,
    places: IntArray,
    lost: IntArray,
) -> tuple[int, int, int]:
    """Write the scalars of one lockstep, a final-frame row where an episode ended, and advance the pointers.

    action: [C, A], step_action: [E, A]. lives: [C], or empty if there are none. `places` [2 E] gets the slots of the
    observations, [E], then those of the final frames, in order of environments. Returns how many final frames there
    are, how many slots in `lost` were overwritten or cut off, and what `first_refused` says: if that is not -1, nothing
    has been written.
    """
    bad = first_refused(step_reward, truncated, ended)
    if bad >= 0:
        return 0, 0, bad
    finals, count = 0, 0
    for env in range(envs):
        number = rows_written[env]
        count = _take_back(number, env, rows, envs, history, begun, flags, lost, count)
        slot = number % rows * envs + env
        places[env] = slot
        flags[slot] = terminated[env] * TERMINATED + truncated[env] * TRUNCATED + starts[env] * FIRST
        reward[slot] = step_reward[env]
        for a in range(action.shape[1]):
            action[slot, a] = step_action[env, a]
        if lives.size:
            lives[slot] = step_lives[env]
        starts[env] = ended[env]
        rows_written[env] = number + 1
        if ended[env]:
            count, places[envs + finals] = record_final(
                env, rows, envs, history, rows_written, begun, flags, reward, action, lost, count
            )
            finals += 1
    return finals, count, -1


@kernel
def record_final(
    env: int,
    rows: int,
    envs: int,
    history: int,
    rows_written: IntArray,
    begun: IntArray,
    flags: Array,
    reward: FloatArray,
    action: Array,
    lost: IntArray,
    count: int,
) -> tuple[int, int]:
    """Write a row that holds only the true last frame of an episode. The new length of `lost`, and the row's slot."""
    number = rows_written[env]
    count = _take_back(number, env, rows, envs, history, begun, flags, lost, count)
    slot = number % rows * envs + env
    flags[slot], reward[slot] = FINAL, 0.0
    for a in range(action.shape[1]):
        action[slot, a] = 0
    rows_written[env] = number + 1
    return count, slot


@kernel
def is_complete(
    number: int, env: int, written: int, rows: int, envs: int, n_step: int, length: int, flags: Array
) -> bool:
    """Whether all that a start at row `number` needs has been written: `length` rows with their n-step windows.

    A sequence stops before a final-frame row; a window also stops after a terminated one.
    """
    last = number
    for number_ in range(number + 1, number + length):
        if number_ >= written:
            return False
        if flags[number_ % rows * envs + env] & FINAL:
            return True
        last = number_
    for k in range(1, n_step):
        if flags[(last + k - 1) % rows * envs + env] & TERMINATED:
            return last + k < written
        if last + k >= written:
            return False
        if flags[(last + k) % rows * envs + env] & FINAL:
            return True
    return last + n_step < written


@kernel
def _has_history(number: int, env: int, oldest: int, rows: int, envs: int, history: int, flags: Array) -> bool:
    """Whether the `history` rows before row `number` are there, or its episode begins among them."""
    for k in range(history):
        if flags[(number - k) % rows * envs + env] & FIRST:
            return True
        if number - k - 1 < oldest:
            return False
    return True


@kernel
def announce(
    rows: int,
    envs: int,
    n_step: int,
    length: int,
    stride: int,
    history: int,
    rows_written: IntArray,
    begun: IntArray,
    considered: IntArray,
    position: IntArray,
    flags: Array,
    slots: IntArray,
    uids: IntArray,
) -> int:
    """Fill `slots` and `uids` with rows that have become usable starts; their number. If all is filled, call again.

    considered: [E] rows before this number have been looked at. position: [E] rows between the beginning of the episode
    and that row; a start is every `stride`-th row of an episode.
    """
    count = 0
    for env in range(envs):
        written = rows_written[env]
        oldest = max(0, written - rows)
        number, steps = considered[env], position[env]
        if number < oldest:
            number, steps = oldest, oldest - begun[env]
        while number < written and count < len(slots):
            slot = number % rows * envs + env
            if not flags[slot] & FINAL:
                if flags[slot] & FIRST:
                    steps = 0
                if not is_complete(number, env, written, rows, envs, n_step, length, flags):
                    break
                if steps % stride == 0 and _has_history(number, env, oldest, rows, envs, history, flags):
                    slots[count], uids[count] = slot, number * envs + env
                    count += 1
                steps += 1
            number += 1
        considered[env], position[env] = number, steps
    return count


@kernel
def withdraw(
    rows: int,
    envs: int,
    n_step: int,
    length: int,
    rows_written: IntArray,
    considered: IntArray,
    position: IntArray,
    flags: Array,
    slots: IntArray,
) -> int:
    """Windows have become longer: step back over the starts that are no longer complete; their number, in `slots`."""
    count = 0
    for env in range(envs):
        written = rows_written[env]
        oldest = max(0, written - rows)
        number = considered[env]
        while number > oldest:
            slot = (number - 1) % rows * envs + env
            if flags[slot] & FINAL or is_complete(number - 1, env, written, rows, envs, n_step, length, flags):
                break
            slots[count] = slot
            count += 1
            number -= 1
            position[env] -= 1
        considered[env] = number
    return count


def as_columns(flags: Array) -> dict[str, Any]:
    """The flags as bool columns."""
    bits = {"terminated": TERMINATED, "truncated": TRUNCATED, "first": FIRST, "final": FINAL}
    return {name: (flags & bit) != 0 for name, bit in bits.items()}


def from_columns(columns: dict[str, Array]) -> Array:
    """What `as_columns` took apart."""
    bits = {"terminated": TERMINATED, "truncated": TRUNCATED, "first": FIRST, "final": FINAL}
    flags: Array = sum(columns[name].astype("uint8") * bit for name, bit in bits.items())  # type: ignore[assignment]
    return flags.astype("uint8")
