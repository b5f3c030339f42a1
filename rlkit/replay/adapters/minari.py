"""Minari 0.5: episodes of a ReplayBuffer as a Minari dataset and back, bit for bit. docs/plugins/minari.md

Minari encodes image-like observations as JPEG unless told otherwise, which changes most pixels; written here, they
never are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.core.errors import ReplayError
from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array
from rlkit.replay.adapters import package_missing
from rlkit.replay.buffer import ReplayBuffer

try:
    import h5py  # noqa: F401  # without it Minari fails at the first episode
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import is_image_space
except ModuleNotFoundError as error:
    raise package_missing(str(error.name), "minari[hdf5]>=0.5.4,<0.6") from error

_BLOCK_ROWS = 4_096  # rows looked at together for the beginnings of episodes; 29 MB of Atari frames


def export_episodes(
    buffer: ReplayBuffer,
    dataset_id: str,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    env_id: str | None = None,
    algorithm_name: str | None = None,
    author: str | None = None,
    author_email: str | None = None,
    code_permalink: str | None = None,
    description: str | None = None,
) -> Any:
    """The episodes of `buffer`, oldest first, environment by environment, as the new local dataset `dataset_id`.

    The spaces are those of one environment and one frame. Rewards stay raw and of their type; `lives`, where there are
    any, become the info of that name [L + 1]. An episode that is still open is exported up to its newest known frame,
    with a truncation there; one that the ring has overwritten the beginning of is left out.

    Returns the MinariDataset. Raises ReplayError if there is no episode or a space does not fit.
    """
    found = [(env, first, after) for env in range(buffer.num_envs) for first, after in _episodes(buffer, env)]
    if not found:
        raise ReplayError(
            "no episode to export",
            why="an episode needs its beginning and one step whose next frame is known",
            fix="collect more steps",
            see="docs/plugins/minari.md",
        )
    columns = buffer.export_rows(found[0][0], found[0][1], found[0][1] + 1)
    shape = _check_space("observation", columns["frames"], observation_space)
    _check_space("action", columns["action"], action_space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about each argument that is None
        return minari.create_dataset_from_buffers(
            dataset_id,
            (_read(buffer, *episode, shape) for episode in found),
            env=env_id,
            observation_space=observation_space,
            action_space=action_space,
            algorithm_name=algorithm_name,
            author=author,
            author_email=author_email,
            code_permalink=code_permalink,
            description=description,
            jpeg_encoding=False,
        )


def import_episodes(dataset: Any, buffer: ReplayBuffer) -> dict[str, Any]:
    """Append the episodes of a MinariDataset to `buffer`, which has one environment and room for all of them.

    What begins an episode is found anew from the episodes themselves. Infos other than `lives` have no place in replay
    and are left behind. Images that were stored as JPEG are not the environment's; a warning says so.

    Returns where the data come from, for the record of an experiment: the dataset's id, algorithm, code, authors,
    environment, Minari version, and numbers of episodes and steps.
    Raises ReplayError, and stores nothing, if the buffer does not fit, an info holds objects, or `add` would refuse a
    step of any episode; for that the dataset is read twice.
    """
    metadata = dataset.storage.metadata
    rows = int(dataset.total_steps) + int(dataset.total_episodes)
    if buffer.num_envs != 1 or rows > buffer.capacity:
        raise ReplayError(
            f"a dataset of {rows:,} rows for a buffer of {buffer.num_envs} environments and {buffer.capacity:,} rows",
            why="episodes are appended one after the other, each with its true last frame, and none may be lost",
            fix=f"ReplayBuffer(num_envs=1, capacity={rows})",
            see="docs/plugins/minari.md",
        )
    written = int(buffer.rows_written[0])
    if written and not buffer.export_rows(0, written - 1, written)["final"][0]:
        raise ReplayError(
            "the buffer's last episode is still open",
            why="the first episode of the dataset would become its continuation",
            fix="end it with buffer.cut(last_frames), or import into a new buffer",
            see="docs/plugins/minari.md",
        )
    for episode in dataset.iterate_episodes():
        _check_episode(episode)
        for step in _steps(episode):
            buffer.check(*step)
    if metadata.get("jpeg_encoding", True) and is_image_space(dataset.observation_space):
        warnings.warn(f"{metadata['dataset_id']}: its images were stored as JPEG, which is not lossless", stacklevel=2)
    for episode in dataset.iterate_episodes():
        for step in _steps(episode):
            buffer.add(*step)
    names = ("dataset_id", "algorithm_name", "code_permalink", "author", "author_email", "env_spec", "minari_version")
    found = {name: metadata[name] for name in names if name in metadata}
    found = {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}
    return {**found, "episodes": int(dataset.total_episodes), "steps": int(dataset.total_steps)}


def _episodes(buffer: ReplayBuffer, env: int) -> Iterator[tuple[int, int]]:
    """Numbers [first, after) of the rows of each episode of one ring whose beginning is there, oldest first."""
    written, first = int(buffer.rows_written[env]), -1
    for start in range(buffer.oldest_row(env), written, _BLOCK_ROWS):
        begins = buffer.export_rows(env, start, min(start + _BLOCK_ROWS, written))["first"]
        for row in np.flatnonzero(begins) + start:
            if first >= 0:
                yield first, int(row)
            first = int(row)
    if 0 <= first < written - 1:  # of a single row the next frame is not known
        yield first, written


def _read(buffer: ReplayBuffer, env: int, first: int, after: int, shape: tuple[int, ...]) -> EpisodeBuffer:
    """L + 1 rows as L steps: the observation of the last row, a final frame or the newest one, ends the episode."""
    columns = buffer.export_rows(env, first, after)
    terminated, truncated = columns["terminated"][:-1], columns["truncated"][:-1].copy()
    truncated[-1] |= not (terminated[-1] and columns["final"][-1])
    return EpisodeBuffer(
        observations=columns["frames"].reshape(-1, *shape),
        actions=columns["action"][:-1],
        rewards=columns["reward"][:-1],
        terminations=terminated,
        truncations=truncated,
        infos={"lives": columns["lives"]} if "lives" in columns else None,
    )


def _check_space(name: str, row: Array, space: spaces.Space[Any]) -> tuple[int, ...]:
    """The shape of `space`. Raises ReplayError if the row [1, ...] does not fit it."""
    shape = () if space.shape is None else space.shape  # None: of nested spaces
    if row.size != np.prod(shape) or row.dtype != space.dtype:
        raise ReplayError(
            f"{name}_space is {space}",
            why=f"a row of this buffer holds {row.size} numbers of {row.dtype}; nothing has been written",
            fix="give the spaces of one environment, single frames without a stack",
            see="docs/plugins/minari.md",
        )
    return shape


def _check_episode(episode: Any) -> None:
    """Raise ReplayError for what replay cannot hold."""
    columns = {"observations": episode.observations, "actions": episode.actions}
    found = [f"nested {name}" for name, column in columns.items() if not isinstance(column, np.ndarray)]
    found += [f"objects as info {name!r}" for name in _objects(episode.infos or {})]
    found += [] if np.isfinite(episode.rewards).all() else ["a reward that is not finite"]
    if found:
        raise ReplayError(
            f"episode {episode.id} has {found[0]}",
            why="a row of replay is one array each of observation, action and reward; nothing has been stored",
            fix="leave such episodes out: dataset.filter_episodes(...)",
            see="docs/plugins/minari.md",
        )


def _objects(infos: dict[str, Any]) -> list[str]:
    """Names of the infos that are no arrays of numbers."""
    found = []
    for name, value in infos.items():
        if isinstance(value, dict):
            found += [f"{name}/{inner}" for inner in _objects(value)]
        elif np.asarray(value).dtype.kind not in "biuf":
            found.append(name)
    return found


def _steps(episode: Any) -> Iterator[tuple[Array, Array, TimeStep]]:
    """One episode as its environment would have given it: observation, action and outcome of each step."""
    length = len(episode.rewards)
    lives = episode.infos.get("lives") if episode.infos else None
    rewards = np.asarray(episode.rewards)
    for t in range(length):
        following = np.asarray(episode.observations[t + 1])[None]
        step = TimeStep(
            observation=following,
            final_observation=following,
            reward=rewards[t : t + 1],
            terminated=np.asarray(episode.terminations[t : t + 1], bool),
            truncated=np.asarray(episode.truncations[t : t + 1], bool),
            ended=np.array([t == length - 1]),
            lives=None if lives is None else np.asarray(lives)[t : t + 1],
        )
        yield np.asarray(episode.observations[t])[None], np.asarray(episode.actions[t])[None], step
