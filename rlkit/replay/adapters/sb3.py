"""Stable-Baselines3 2.9: its three replay buffers, with the sampler of your choice. Changes one line of a script.

`replay_buffer_class=ReplayBuffer, replay_buffer_kwargs={"seed": 1}`; docs/plugins/sb3.md. What a row is, how n-step
windows end and what a time limit means stay the library's; only which rows are drawn is ours. The library's algorithms
never hand priorities back; for a sampler that needs them there is PrioritizedDQN.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from rlkit.core.typing import Array, IntArray
from rlkit.replay.adapters import package_missing
from rlkit.replay.adapters.slots import SlotSampler

try:
    from stable_baselines3 import DQN
    from stable_baselines3.common import buffers
except ModuleNotFoundError as error:
    raise package_missing("stable_baselines3", "stable-baselines3>=2.9,<3") from error

_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class ReplayBuffer(buffers.ReplayBuffer):
    """`stable_baselines3.common.buffers.ReplayBuffer` over flat slots (row * n_envs + environment).

    seed, sampler, sampler_config: see SlotSampler; the object is the attribute `slots`. `save_replay_buffer` keeps it,
    in mid-epoch too. The capacity that counts is buffer_size // n_envs * n_envs, as in the library.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        seed: int,
        sampler: str = "rr-c",
        sampler_config: object = None,
    ) -> None:
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device=device,
            n_envs=n_envs,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
        )
        self.slots = SlotSampler(self.buffer_size * n_envs, sampler, seed, sampler_config)

    def add(self, obs: Any, next_obs: Any, action: Array, reward: Array, done: Array, infos: list[Any]) -> None:
        """One step of all environments."""
        row = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        self.slots.written(self._row_slots(row))
        if self.optimize_memory_usage:  # this step's next observations stand where those of the oldest row stood
            self.slots.forget(self._row_slots(self.pos))

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """A batch [B] as the library makes it. Raises ReplayError if nothing has been added."""
        rows, envs = np.divmod(self.slots.draw(batch_size), self.n_envs)
        # The library draws rows, and then an environment for each of them in the code that gathers the batch. That code
        # runs on a view of this buffer whose columns answer with the environments that were drawn here.
        view = copy.copy(self)
        view.n_envs = 1
        for name in _COLUMNS:
            column = getattr(self, name, None)
            if isinstance(column, dict):
                setattr(view, name, {key: _DrawnEnvs(array, envs) for key, array in column.items()})
            elif column is not None:
                setattr(view, name, _DrawnEnvs(column, envs))
        return super(ReplayBuffer, view)._get_samples(rows, env)

    def reset(self) -> None:
        """Empty the buffer; the sampler starts anew."""
        super().reset()
        self.slots.clear()

    def _row_slots(self, row: int) -> IntArray:
        slots: IntArray = row * self.n_envs + np.arange(self.n_envs)
        return slots


class DictReplayBuffer(ReplayBuffer, buffers.DictReplayBuffer):
    """`stable_baselines3.common.buffers.DictReplayBuffer`; arguments of ReplayBuffer."""


class NStepReplayBuffer(ReplayBuffer, buffers.NStepReplayBuffer):
    """`stable_baselines3.common.buffers.NStepReplayBuffer`; n_steps and gamma are the library's."""

    def __init__(
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 3,
        gamma: float = 0.99,
        *,
        seed: int,
        sampler: str = "rr-c",
        sampler_config: object = None,
    ) -> None:
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            seed=seed,
            sampler=sampler,
            sampler_config=sampler_config,
        )
        self.n_steps, self.gamma = n_steps, gamma


class PrioritizedDQN(DQN):
    """`stable_baselines3.DQN` that weighs its loss and gives |TD error| back to the sampler after each update.

    For the buffers of this module and a sampler with priorities: `replay_buffer_kwargs={"seed": 1, "sampler": "per"}`.
    With any other sampler it is the library's DQN, bit for bit.
    """

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """`gradient_steps` updates; weights (Schaul et al. 2016, section 3.4) multiply the Huber loss of each row."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        slots, losses = self.replay_buffer.slots, []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            discount = self.gamma if batch.discounts is None else batch.discounts
            with torch.no_grad():
                next_q = self.q_net_target(batch.next_observations).max(dim=1, keepdim=True).values
                target = batch.rewards + (1 - batch.dones) * discount * next_q  # [B, 1]
            q = self.q_net(batch.observations).gather(1, batch.actions.long())
            loss = F.smooth_l1_loss(q, target, reduction="none")
            if slots.info.weight is not None:
                loss = loss * torch.as_tensor(slots.info.weight, device=loss.device).unsqueeze(1)
            mean = loss.mean()
            losses.append(mean.detach())
            self.policy.optimizer.zero_grad()
            mean.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            slots.update(slots.drawn, (target - q).detach().abs().squeeze(1).cpu().numpy())
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", torch.stack(losses).mean().item())


class _DrawnEnvs:
    """A column [rows, environments, ...] that answers every `[rows, environments]` with the environments `envs` [B]."""

    def __init__(self, column: Array, envs: IntArray) -> None:
        self._column, self._envs = column, envs

    def __getitem__(self, index: Any) -> Array:
        if isinstance(index, tuple):
            rows, rest = index[0], index[2:]  # rows [B] or, of n-step windows, [B, n]
            found: Array = self._column[(rows, self._envs.reshape(-1, *[1] * (rows.ndim - 1)), *rest)]
        else:
            found = self._column[int(index)]  # a whole row; anything else is a TypeError, not a wrong batch
        return found

    def __setitem__(self, row: int, value: Array) -> None:
        self._column[row] = value
