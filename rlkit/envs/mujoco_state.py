"""The exact state of a MuJoCo simulation."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkit.core.typing import Array, State


class MujocoState:
    """Stores and restores a simulation so that it continues identically.

    The integration state is not enough: some tasks move targets by writing into the model when an episode begins, so
    every array of the model that differs from a fresh one is stored, too.
    """

    def __init__(self, model: Any, data: Any) -> None:
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        self._size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
        arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
        self._fresh: dict[str, Array] = {
            name: value.copy()
            for name, value in arrays.items()
            if isinstance(value, np.ndarray) and value.flags.writeable
        }

    def save(self) -> State:
        """Integration state and the changed arrays of the model."""
        state = np.zeros(self._size)
        self._mujoco.mj_getState(self._model, self._data, state, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        arrays = {name: np.array(getattr(self._model, name)) for name in self._fresh}
        changed = {name: array for name, array in arrays.items() if array.tobytes() != self._fresh[name].tobytes()}
        return {"integration": state, "model": changed}

    def load(self, state: State) -> None:
        """Continue: the state, then everything that MuJoCo derives from it."""
        for name, fresh in self._fresh.items():
            getattr(self._model, name)[...] = state["model"].get(name, fresh)
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._mujoco.mj_setState(self._model, self._data, state["integration"], kind)
        self._mujoco.mj_forward(self._model, self._data)
        # The solver of mj_forward leaves another warm start than the one that was stored.
        self._mujoco.mj_setState(self._model, self._data, state["integration"], kind)
