"""Replay as a plain list of episodes: slow, obvious, and written without looking at rings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Row:
    number: int  # of its environment, final frames counted
    frame: np.ndarray
    action: int = 0
    reward: float = 0.0
    terminated: bool = False
    is_final: bool = False


@dataclass
class EpisodeListOracle:
    """Per environment a list of episodes, each a list of rows that ends with a final-frame row once it is over."""

    capacity: int  # rows per environment
    num_envs: int
    stack: int
    padding: str
    episodes: list[list[list[Row]]] = field(default_factory=list)
    written: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.episodes = [[[]] for _ in range(self.num_envs)]
        self.written = [0] * self.num_envs

    def add(self, env, frame, action, reward, terminated, ended, final):
        self._append(env, Row(self.written[env], frame, action, reward, terminated))
        if ended:
            self.end(env, final)

    def end(self, env, final):
        self._append(env, Row(self.written[env], final, is_final=True))
        self.episodes[env].append([])

    def _append(self, env, row):
        self.episodes[env][-1].append(row)
        self.written[env] += 1

    def usable(self, n_step, gamma, clip=None):
        """{(env, number): (stack, action, return, discount, terminated, next stack)} of every row that may be drawn."""
        found = {}
        for env in range(self.num_envs):
            oldest = max(0, self.written[env] - self.capacity)
            for episode in self.episodes[env]:
                for i, row in enumerate(episode):
                    if row.is_final or row.number < oldest:
                        continue
                    value = self._transition(episode, i, oldest, n_step, gamma, clip)
                    if value is not None:
                        found[env, row.number] = value
        return found

    def sequences(self, window):
        """{(env, number): [(number, inside)] over burn_in + length rows} of every start that may be drawn."""
        found = {}
        for env in range(self.num_envs):
            oldest = max(0, self.written[env] - self.capacity)
            for episode in self.episodes[env]:
                rows = [row for row in episode if not row.is_final]
                over = bool(episode) and episode[-1].is_final
                for i in range(0, len(rows), window.stride):
                    inside = rows[i : i + window.length]
                    if rows[i].number < oldest or (len(inside) < window.length and not over):
                        continue
                    j = rows.index(inside[-1])
                    if self._transition(episode, j, oldest, window.n_step, window.gamma, None) is None:
                        continue
                    reach = i - window.burn_in - self.stack + 1  # the oldest row that burn-in and stack look at
                    if episode[max(0, reach)].number < oldest:
                        continue
                    columns = [(rows[max(0, i - k)].number, i - k >= 0) for k in range(window.burn_in, 0, -1)]
                    columns += [(row.number, True) for row in inside]
                    columns += [(inside[-1].number, False)] * (window.length - len(inside))
                    found[env, rows[i].number] = columns
        return found

    def _transition(self, episode, i, oldest, n_step, gamma, clip):
        total, discount = 0.0, 1.0
        j = i
        while j < len(episode) and not episode[j].is_final and j - i < n_step:
            reward = episode[j].reward if clip is None else max(-clip, min(clip, episode[j].reward))
            total += discount * reward
            discount *= gamma
            j += 1
            if episode[j - 1].terminated:
                break
        if j >= len(episode):
            return None  # the frame after the window has not been written
        if not episode[j - 1].terminated and j - i < n_step and not episode[j].is_final:
            return None
        now, then = self._stack_at(episode, i, oldest), self._stack_at(episode, j, oldest)
        if now is None:
            return None
        terminated = episode[j - 1].terminated
        return now, episode[i].action, total, 0.0 if terminated else discount, terminated, then

    def _stack_at(self, episode, i, oldest):
        frames = []
        for k in range(i - self.stack + 1, i + 1):
            if k < 0:
                frames.append(np.zeros_like(episode[0].frame) if self.padding == "zero" else episode[0].frame)
            elif episode[k].number < oldest:
                return None
            else:
                frames.append(episode[k].frame)
        if i - self.stack + 1 < 0 and episode[0].number < oldest:
            return None  # padding is known to be padding only while the episode's first row is there
        return np.stack(frames)
