"""Segments of replay rows: pieces of bounded size, full disks, torn files."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from rlkit.core.errors import ResourceError, ResumeError
from rlkit.core.timestep import TimeStep
from rlkit.replay import ReplayBuffer, UniformSampler, replay_memory_bytes
from rlkit.training import checkpoint
from rlkit.training.checkpoint import CheckpointStore

SHAPE = (36, 36)  # 1,296 bytes: wide enough for chunks


def make(capacity=120, num_envs=2, shape=SHAPE, dtype=np.uint8):
    return ReplayBuffer(
        capacity=capacity,
        num_envs=num_envs,
        observation_shape=shape,
        observation_dtype=dtype,
        action_shape=(),
        action_dtype=np.int64,
        sampler=UniformSampler(capacity, 0),
        has_lives=True,
    )


def fill(replay, steps, seed, noise=False):
    """Random experience; pictures have one bright row, or are noise."""
    rng = np.random.default_rng(seed)
    envs, shape, dtype = replay.num_envs, replay._shape, replay._dtype

    def pictures():
        if noise:
            return rng.integers(0, 256, (envs, *shape)).astype(dtype)
        shown = np.zeros((envs, *shape), dtype)
        shown[np.arange(envs), rng.integers(0, shape[0], envs)] = 200
        return shown

    for _ in range(steps):
        ended = rng.random(envs) < 0.1
        terminated = ended & (rng.random(envs) < 0.5)
        lives = rng.integers(0, 5, envs).astype(np.uint8)
        reward = rng.normal(size=envs).astype(np.float32)
        step = TimeStep(pictures(), pictures(), reward, terminated, ended & ~terminated, ended, lives)
        replay.add(pictures(), rng.integers(0, 4, envs), step)


def rows_of(replay):
    """All living rows: {environment: (number of the oldest, columns)}."""
    numbers = [(replay.oldest_row(env), int(replay.rows_written[env])) for env in range(replay.num_envs)]
    return {env: (start, replay.export_rows(env, start, stop)) for env, (start, stop) in enumerate(numbers)}


def assert_same_rows(left, right):
    assert left.rows_written.tolist() == right.rows_written.tolist()
    for (start, columns), (other_start, others) in zip(rows_of(left).values(), rows_of(right).values(), strict=True):
        assert start == other_start
        assert columns.keys() == others.keys()
        for name, column in columns.items():
            assert column.dtype == others[name].dtype
            np.testing.assert_array_equal(column, others[name], err_msg=name)


def load_into(store, replay, step=None):
    _, state, segments, _ = store.load(step)
    store.load_replay(segments, replay, state["replay"])
    return segments


def save(store, step, replay):
    store.save(step, {"replay": replay.state_dict()}, replay)


def segment_files(directory):
    return sorted((directory / "segments").iterdir())


@pytest.mark.parametrize("part_bytes", [1, 50_000, checkpoint._PART_BYTES])
@pytest.mark.parametrize(
    ("shape", "dtype"), [(SHAPE, np.uint8), ((36, 12, 3), np.uint8), ((5,), np.uint8), (SHAPE, np.float32)]
)
def test_rows_come_back_from_any_number_of_segments(shape, dtype, part_bytes, tmp_path, monkeypatch):
    replay, store = make(shape=shape, dtype=dtype), CheckpointStore(tmp_path, keep=2)
    for step, more in enumerate([3, 40, 1, 30, 17, 200, 20]):  # the ring of 60 rows wraps, also within one interval
        fill(replay, more, seed=step)
        monkeypatch.setattr(checkpoint, "_PART_BYTES", part_bytes)
        save(store, step, replay)
        monkeypatch.setattr(checkpoint, "_PART_BYTES", 40_000)  # pieces for reading need not be those of writing
        again = make(shape=shape, dtype=dtype)
        load_into(CheckpointStore(tmp_path, keep=2), again)
        assert_same_rows(replay, again)


def test_only_wide_uint8_columns_are_compressed(tmp_path):
    replay, store = make(), CheckpointStore(tmp_path, keep=1)
    fill(replay, 50, seed=0)
    save(store, 1, replay)
    (segment,) = store.load()[2]
    for part in segment["parts"]:
        assert {name for name, _, _, *chunks in part["columns"] if chunks} == {"frames"}
    (path,) = segment_files(tmp_path)
    rows = sum(part["rows"] for part in segment["parts"])
    assert path.stat().st_size == segment["bytes"] < rows * (1296 + 17) / 10


def test_noise_takes_no_more_than_the_plan_says(tmp_path):
    replay, store = make(), CheckpointStore(tmp_path, keep=1)
    fill(replay, 200, seed=0, noise=True)
    save(store, 1, replay)
    (path,) = segment_files(tmp_path)
    assert path.stat().st_size <= replay_memory_bytes(120, SHAPE, np.uint8, (), np.int64, has_lives=True)


@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_refused(other, tmp_path):
    replay, store = make(), CheckpointStore(tmp_path, keep=2)
    fill(replay, 10, seed=0)
    save(store, 1, replay)
    path = tmp_path / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": other}))
    with pytest.raises(ResumeError, match=f"it has format {other}, this one reads format 2"):
        store.load()


def test_rows_are_written_and_read_in_pieces_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PART_BYTES", 64 * 1400)
    replay, again, store = make(capacity=1000), make(capacity=1000), CheckpointStore(tmp_path, keep=2)
    fill(replay, 400, seed=0)
    written, read = [], []
    export, load = replay.export_rows, again.load_rows
    monkeypatch.setattr(replay, "export_rows", lambda e, a, b: written.append(b - a) or export(e, a, b))
    monkeypatch.setattr(again, "load_rows", lambda e, a, c: read.append(len(c["reward"])) or load(e, a, c))
    save(store, 1, replay)
    load_into(store, again)
    total = int(replay.rows_written.sum())
    assert sum(read) == total
    assert sum(written) == total + replay.num_envs  # and one to know their size
    assert max(written) == max(read) == 64  # 1,316 bytes a row, in whole chunks of 16


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_torn_segment_is_found_and_the_last_good_checkpoint_used(damage, tmp_path):
    replay, store = make(), CheckpointStore(tmp_path, keep=3)
    fill(replay, 20, seed=0)
    save(store, 1, replay)
    good = make()
    load_into(CheckpointStore(tmp_path, keep=3), good)
    fill(replay, 20, seed=1)
    save(store, 2, replay)
    path = segment_files(tmp_path)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-1])
    step, state, segments, torn = store.load()
    assert (step, torn[0].path.name) == (1, "2")
    assert {"flipped": "has CRC", "cut": "bytes instead of", "missing": "is missing"}[damage] in torn[0].why
    again = make()
    store.load_replay(segments, again, state["replay"])
    assert_same_rows(good, again)


def test_a_full_disk_leaves_no_half_segment(tmp_path, monkeypatch):
    """The disk fills up after the second part of the second segment."""
    monkeypatch.setattr(checkpoint, "_PART_BYTES", 16 * 1400)
    replay, store = make(), CheckpointStore(tmp_path, keep=2)
    fill(replay, 10, seed=0)
    save(store, 1, replay)
    before = [path.name for path in segment_files(tmp_path)]
    fill(replay, 30, seed=1)
    real, parts = os.posix_fallocate, []

    def full(descriptor, offset, length):
        parts.append(length)
        if len(parts) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="the disk is full\ncheckpoint 2 was not written"):
        save(store, 2, replay)
    assert len(parts) == 3
    assert [path.name for path in segment_files(tmp_path)] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "segments"]

    monkeypatch.undo()
    save(store, 2, replay)  # space has been made
    again = make()
    load_into(CheckpointStore(tmp_path, keep=2), again)
    assert_same_rows(replay, again)


FULL_DISK = """
import sys
from pathlib import Path
from rlkit.core.errors import ResourceError
from rlkit.training.checkpoint import CheckpointStore
from tests.training.test_checkpoint_segments import fill, load_into, make, save, segment_files

directory = Path(sys.argv[1])
replay, store = make(capacity=6000), CheckpointStore(directory, keep=2)
fill(replay, 100, seed=0, noise=True)
save(store, 1, replay)
fill(replay, 2500, seed=1, noise=True)
try:
    save(store, 2, replay)
except ResourceError as error:
    print(error.what, error.why, sep="; ")
print(CheckpointStore(directory, keep=2).steps(), len(segment_files(directory)))
load_into(store, make(capacity=6000))
"""


@pytest.mark.slow
def test_a_really_full_disk(tmp_path):
    """A file system of 4 MB of this test's own."""
    mount = f"mount -t tmpfs -o size=4m none {tmp_path}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own (unshare -Urm)")
    command = f'{mount} && exec "$@"'
    words = ["unshare", "-Urm", "sh", "-c", command, "sh", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        "the disk is full; checkpoint 2 was not written; older ones are unharmed",
        "[1] 1",
    ]
