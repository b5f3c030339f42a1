"""Metrics of a run: means over a logging period, to metrics.jsonl first, to TensorBoard as a view."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any, Protocol

import torch
from torch import Tensor

from rlkit.core.timestep import EpisodeEnd
from rlkit.core.typing import Array, State
from rlkit.training.run_folder import RunFolder


class ScalarWriter(Protocol):
    """The part of TensorBoard's SummaryWriter that is used."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One point of one curve."""

    def add_image(self, tag: str, picture: Array, step: int, *, dataformats: str) -> None:
        """One picture."""

    def close(self) -> None:
        """Flush and close."""


class MetricLog:
    """Collects what updates and episodes report, without waiting for the device, until it is written."""

    def __init__(self) -> None:
        self._updates: list[dict[str, Tensor]] = []
        self._episodes: list[EpisodeEnd] = []
        self.recent_returns: deque[float] = deque(maxlen=100)
        self._wall_s, self._started = 0.0, time.monotonic()

    def add_update(self, metrics: dict[str, Tensor]) -> None:
        """Scalars of one gradient step; they stay on the device."""
        self._updates.append(metrics)

    @property
    def unread_updates(self) -> list[dict[str, Tensor]]:
        """What updates reported since the last flush."""
        return self._updates

    def add_episodes(self, episodes: list[EpisodeEnd]) -> None:
        """Episodes that have just finished."""
        self._episodes += episodes
        self.recent_returns.extend(end.episode_return for end in episodes)

    def wall_s(self) -> float:
        """Seconds of training so far, resumed parts included."""
        return self._wall_s + time.monotonic() - self._started

    def flush(self) -> dict[str, float]:
        """Means since the last flush: losses, finished episodes. Keys without a value are left out."""
        line: dict[str, float] = {}
        for key, values in _by_key(self._updates).items():
            line[key] = float(torch.stack([value.float() for value in values]).mean())
        if self._episodes:
            line["episode_return"] = sum(end.episode_return for end in self._episodes) / len(self._episodes)
            line["episode_length"] = sum(end.length for end in self._episodes) / len(self._episodes)
            line["episodes"] = len(self._episodes)
        self._updates, self._episodes = [], []
        return line

    def state_dict(self) -> State:
        """What has been collected but not written yet."""
        stacked = {key: torch.stack(values) for key, values in _by_key(self._updates).items()}
        episodes = [[end.env, end.episode_return, end.length, end.frames] for end in self._episodes]
        return {
            "updates": stacked,
            "episodes": episodes,
            "recent_returns": list(self.recent_returns),
            "wall_s": self.wall_s(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue a stored log."""
        stacked: dict[str, Tensor] = state["updates"]
        # One entry per key and value: `flush` looks at keys apart, so rows need not be put together again.
        self._updates = [{key: value} for key, values in stacked.items() for value in values.unbind()]
        self._episodes = [EpisodeEnd(*values) for values in state["episodes"]]
        self.recent_returns = deque(state["recent_returns"], maxlen=100)
        self._wall_s, self._started = state["wall_s"], time.monotonic()


class RunLog:
    """Writes lines to the run folder and, if asked, to TensorBoard."""

    def __init__(self, folder: RunFolder, *, tensorboard: bool, purge_step: int | None = None) -> None:
        self._folder = folder
        self._writer: ScalarWriter | None = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._hook, threading.excepthook = threading.excepthook, self._thread_failed
            self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=purge_step)

    def write(self, name: str, line: dict[str, Any], *, prefix: str) -> None:
        """Append `line` (it holds `step`) to `name`.jsonl and its numbers to TensorBoard as `prefix`/key."""
        self._folder.append(name, line)
        if self._writer is not None:
            for key, value in line.items():
                if isinstance(value, int | float) and key != "step" and math.isfinite(value):
                    self._writer.add_scalar(f"{prefix}/{key}", value, line["step"])

    def picture(self, tag: str, picture: Array, step: int) -> None:
        """uint8 [H, W] to TensorBoard, if it is on."""
        if self._writer is not None:
            self._writer.add_image(tag, picture, step, dataformats="HW")

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            try:
                self._writer.close()
            finally:
                threading.excepthook = self._hook

    def _thread_failed(self, arguments: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread cannot write: the next call of its writer raises that, so nothing is printed here."""
        if not isinstance(arguments.exc_value, OSError):
            self._hook(arguments)


def _by_key(updates: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    collected: dict[str, list[Tensor]] = {}
    for metrics in updates:
        for key, value in metrics.items():
            collected.setdefault(key, []).append(value)
    return collected
