"""The exact state of a MuJoCo simulation."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkit.core.typing import Array, State


class MujocoState:
    """Stores and restores a simulation so that it continues identically.

    The integration state is not enough. Some tasks move targets by writing into the model when an episode begins, so
    every array of the model that differs from a fresh one is stored. And Gymnasium's tasks read positions, inertias
    and contact forces that are one simulation step old: mj_forward would renew them, so they are stored as they are.
    """

    def __init__(self, model: Any, data: Any) -> None:
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        self._size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._fresh = {name: array.copy() for name, array in _arrays(model).items()}
        # Without a step there are no contacts and constraints: arrays of the arena, which come and go, are empty here.
        self._derived = [name for name, array in _arrays(mujoco.MjData(model)).items() if array.size]

    def save(self) -> State:
        """Integration state and the changed arrays of the model."""
        state = np.zeros(self._size)
        self._mujoco.mj_getState(self._model, self._data, state, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        arrays = {name: np.array(getattr(self._model, name)) for name in self._fresh}
        changed = {name: array for name, array in arrays.items() if array.tobytes() != self._fresh[name].tobytes()}
        derived = {name: np.array(getattr(self._data, name)) for name in self._derived}
        return {"integration": state, "model": changed, "derived": derived}

    def load(self, state: State) -> None:
        """Continue: the state, then contacts and constraints, which mj_forward finds again, then the stored arrays."""
        for name, fresh in self._fresh.items():
            getattr(self._model, name)[...] = state["model"].get(name, fresh)
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._mujoco.mj_setState(self._model, self._data, state["integration"], kind)
        self._mujoco.mj_forward(self._model, self._data)
        for name in self._derived:
            getattr(self._data, name)[...] = state["derived"][name]


def _arrays(struct: Any) -> dict[str, Array]:
    values = {name: getattr(struct, name) for name in dir(struct) if not name.startswith("_")}
    return {name: v for name, v in values.items() if isinstance(v, np.ndarray) and v.flags.writeable}
