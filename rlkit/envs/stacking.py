"""The one frame stacker for acting; replay builds the same stacks by index."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, State


class FrameStacker:
    """Keeps the last `stack` frames of E environments, oldest first: [E, stack, *frame]; stack 1 passes [E, *frame]."""

    def __init__(
        self,
        num_envs: int,
        frame_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        stack: int,
        padding: Literal["zero", "repeat"],
    ) -> None:
        self._stack, self._padding = stack, padding
        self._frames: Array = np.zeros((num_envs, stack, *frame_shape), dtype)

    @property
    def observation(self) -> Array:
        """What the agent sees now; overwritten by the next push."""
        return self._frames if self._stack > 1 else self._frames[:, 0]

    def reset(self, observation: Array) -> Array:
        """First frames [E, *frame] of all environments."""
        self._begin(np.ones(len(observation), bool), observation)
        return self.observation

    def push(self, step: TimeStep) -> Array:
        """Add the new frames; where an episode ended the next one begins with padding."""
        if self._stack > 1:
            self._frames[:, :-1] = self._frames[:, 1:]
        self._frames[:, -1] = step.observation
        if step.ended.any():
            self._begin(step.ended, step.observation)
        return self.observation

    def _begin(self, which: npt.NDArray[np.bool_], observation: Array) -> None:
        self._frames[which] = 0 if self._padding == "zero" else observation[which][:, None]
        self._frames[which, -1] = observation[which]

    def state_dict(self) -> State:
        """The frames."""
        return {"frames": self._frames.copy()}

    def load_state_dict(self, state: State) -> None:
        """Continue stored stacks."""
        np.copyto(self._frames, state["frames"])
