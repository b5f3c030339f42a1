"""Replay ratios: gradient steps per env step (agent decision, before action repeat)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from rlkit.core.typing import State
from rlkit.plasticity.protocols import Measurement, Progress


@dataclass(frozen=True)
class ConstantReplayRatio:
    """The same ratio from start to end."""

    value: Fraction

    def ratio(self, progress: Progress, measurement: Measurement | None) -> Fraction:
        """`value`, whatever happens."""
        return self.value


class UpdateSchedule:
    """Turns a ratio into whole gradient steps without ever losing a fraction.

    Steps before `learning_starts` do not fill the account: no burst of updates after the warm-up.
    """

    def __init__(self, learning_starts: int) -> None:
        self._learning_starts = learning_starts
        self._owed = Fraction(0)

    def due(self, env_steps: int, added: int, ratio: Fraction) -> int:
        """Gradient steps to take after `added` env steps have brought the run to `env_steps`."""
        self._owed += ratio * max(0, min(added, env_steps - self._learning_starts))
        whole = int(self._owed)
        self._owed -= whole
        return whole

    def wait_until(self, env_steps: int) -> None:
        """No gradient step before `env_steps`: for a run that goes on with an empty replay."""
        self._learning_starts, self._owed = env_steps, Fraction(0)

    def state_dict(self) -> State:
        """The fraction still owed, and when learning starts."""
        return {"owed": str(self._owed), "learning_starts": self._learning_starts}

    def load_state_dict(self, state: State) -> None:
        """Continue a stored account."""
        self._owed, self._learning_starts = Fraction(state["owed"]), state["learning_starts"]
