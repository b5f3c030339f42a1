"""Stacks and n-step windows by index: pure arithmetic on rows of one ring per environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkit.core.typing import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Returns:
    """n-step returns of B windows."""

    reward: FloatArray  # [B] R = sum over j < K of gamma^j r_j
    discount: FloatArray  # [B] gamma^K (1 - terminated)
    terminated: BoolArray  # [B] of the window's last row
    length: IntArray  # [B] K, rows really used


def stack_rows(
    row: IntArray,
    env: IntArray,
    first: BoolArray,
    stack: int,
    padding: Literal["zero", "repeat"],
    zero: int,
    extra: int,
) -> IntArray:
    """Storage rows of the frames ending at `row` + `extra`: [B, stack + extra], oldest first.

    row, env: [B] place in the ring of the environment. first: [R, E] row starts an episode. Rows before the episode's
    first become `zero` (the index of an all-zero frame) or the first frame itself; `extra` rows follow the start row.
    """
    length, num_envs = first.shape
    places = np.empty((len(row), stack + extra), np.int64)
    for k in range(stack - 1, stack + extra):
        places[:, k] = (row + (k - stack + 1)) % length * num_envs + env
    # Walk back from the start row; once an episode's first row is reached everything older is padding.
    began = np.zeros(len(row), bool)
    newer = row
    for k in range(stack - 2, -1, -1):
        began |= first[newer, env]
        older = np.where(began, newer, (newer - 1) % length)
        places[:, k] = older * num_envs + env
        if padding == "zero":
            places[began, k] = zero
        newer = older
    return places


def n_step_returns(
    row: IntArray,
    env: IntArray,
    reward: FloatArray,
    terminated: BoolArray,
    final: BoolArray,
    n_step: int,
    gamma: float,
    clip: float | None,
) -> Returns:
    """Windows of up to `n_step` rows from (row, env): they stop after a terminated row and before a final-frame row.

    reward, terminated, final: [R, E] rings; rewards are clipped to [-clip, clip] as they are read.
    Sutton & Barto 2018, eq. 7.1, with the discount of the rows really used.
    """

    def read(place: IntArray) -> FloatArray:
        raw = reward[place, env]
        return raw if clip is None else np.clip(raw, -clip, clip)

    length = len(reward)
    total = read(row)
    ends = terminated[row, env].copy()
    if n_step == 1:
        discount = np.where(ends, np.float32(0.0), np.float32(gamma))
        return Returns(total, discount, ends, np.ones(len(row), np.int64))
    used = np.ones(len(row), np.int64)
    power = np.full(len(row), gamma, np.float32)
    going = ~ends
    for k in range(1, n_step):
        place = (row + k) % length
        going &= ~final[place, env]
        total += np.where(going, power * read(place), np.float32(0.0))
        used += going
        power = np.where(going, power * np.float32(gamma), power)
        ends |= going & terminated[place, env]
        going &= ~terminated[place, env]
    return Returns(total, np.where(ends, np.float32(0.0), power), ends, used)
