"""Chunks equal the plain matrix that they were made of, or say which of them is corrupt."""

import mmap
import threading
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ReplayError
from rlkit.core.seeding import SeedTree
from rlkit.envs.registry import make
from rlkit.replay.chunks import CHUNK_FRAMES, ChunkReader, compresses, encode


def moving_square(count, width=400, seed=0):
    """A picture that changes a little from frame to frame, with some noise."""
    rng = np.random.default_rng(seed)
    frames = np.tile(rng.integers(0, 256, width, np.uint8), (count, 1))
    for i, frame in enumerate(frames):
        frame[i % width :][:9] = 255
        frame[rng.integers(width)] = rng.integers(256)
    return frames


def reader(frames, **settings):
    return ChunkReader(*encode(frames), *frames.shape, **settings)


@st.composite
def matrices(draw):
    count, width = draw(st.integers(0, 70)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    values = draw(st.sampled_from([1, 3, 256]))  # all the same, compressible, noise
    return rng.integers(0, values, (count, width), np.uint8)


@settings(max_examples=200, deadline=None)
@given(matrices(), st.data())
def test_gather_equals_numpy(frames, data):
    chunk = CHUNK_FRAMES * frames.shape[1]
    chunks = reader(frames, cache_bytes=data.draw(st.sampled_from([0, chunk - 1, chunk, 2 * chunk, 1 << 20])))
    assert len(chunks) == len(frames)
    for _ in range(4):
        frame = st.integers(0, max(0, len(frames) - 1))
        indices = np.array(data.draw(st.lists(frame, max_size=40 if len(frames) else 0)), np.int64)
        found = chunks.gather(indices)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, frames[indices])


def test_a_blob_is_a_plain_zstd_stream_and_the_index_describes_it():
    frames = moving_square(CHUNK_FRAMES + 3)
    blob, index = encode(frames)
    assert index.dtype == np.uint32
    sizes = index[:, 0]
    parts = [blob[: sizes[0]], blob[sizes[0] :]]
    decoded = [np.frombuffer(zstandard.decompress(part), np.uint8).reshape(-1, 400) for part in parts]
    np.testing.assert_array_equal(np.concatenate(decoded), frames)
    assert [len(part) for part in decoded] == [CHUNK_FRAMES, 3]
    assert index[:, 1].tolist() == [zlib.crc32(part) for part in parts]


@pytest.mark.parametrize("game", ["Pong", "Breakout"])
def test_frames_of_a_game_shrink_forty_times(game):
    env = make(f"ALE/{game}-v5", seeds=SeedTree(0), name="frames", num_envs=1)
    rng = np.random.default_rng(0)
    frames, step = [], env.reset()
    for _ in range(320):
        frames.append(step.observation.reshape(-1).copy())
        step = env.step(rng.integers(0, env.spec.action_space.n, 1))
    env.close()
    stored = np.stack(frames)
    blob, index = encode(stored)
    assert stored.nbytes / (len(blob) + index.nbytes) > 40
    indices = np.random.default_rng(1).integers(3, len(stored), 32)[:, None] + np.arange(-3, 1)
    gathered = ChunkReader(blob, index, *stored.shape).gather(indices.reshape(-1))
    np.testing.assert_array_equal(gathered, stored[indices.reshape(-1)])


def test_each_chunk_is_decoded_once_while_it_is_remembered(monkeypatch):
    frames = moving_square(4 * CHUNK_FRAMES)
    chunks = reader(frames, cache_bytes=2 * CHUNK_FRAMES * frames.shape[1])
    decoded, decode = [], ChunkReader._decode
    monkeypatch.setattr(ChunkReader, "_decode", lambda self, number: decoded.append(number) or decode(self, number))
    chunks.gather(np.array([40, 0, 5, 40, 15]))  # two chunks, three frames of the first
    assert decoded == [0, 2]
    chunks.gather(np.array([1]))
    assert decoded == [0, 2]
    chunks.gather(np.array([20]))  # pushes out 2, which was used less recently than 0
    chunks.gather(np.array([0]))
    assert decoded == [0, 2, 1]
    chunks.gather(np.array([47]))
    assert decoded == [0, 2, 1, 2]


def test_a_memory_mapped_file_and_many_threads(tmp_path):
    frames = moving_square(40 * CHUNK_FRAMES + 5)
    blob, index = encode(frames)
    path = tmp_path / "frames.zst"
    path.write_bytes(blob)
    differences = []
    with path.open("rb") as file:
        chunks = ChunkReader(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), index, *frames.shape, cache_bytes=50_000)

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            indices = rng.integers(0, len(frames), 50)
            if not np.array_equal(chunks.gather(indices), frames[indices]):
                differences.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differences == []
    assert chunks._cached_bytes == sum(chunk.nbytes for chunk in chunks._cache.values()) <= 50_000


def test_a_flipped_bit_is_found_and_its_chunk_named():
    frames = moving_square(3 * CHUNK_FRAMES, width=50)
    blob, index = encode(frames)
    start, stop = index[0, 0], index[0, 0] + index[1, 0]
    for place in range(start, stop):
        broken = bytearray(blob)
        broken[place] ^= 1 << (place % 8)
        chunks = ChunkReader(bytes(broken), index, *frames.shape)
        with pytest.raises(ReplayError, match=r"chunk 1 \(frames from 16\) is corrupt") as caught:
            chunks.gather(np.arange(len(frames)))
        assert "its CRC is" in caught.value.why
        whole = np.r_[0:16, 32:48]
        np.testing.assert_array_equal(chunks.gather(whole), frames[whole])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no zstd frame", "content size"),
        (zstandard.compress(bytes(50)), "it does not hold 16 frames of 50 bytes"),
        (zstandard.compress(bytes(800)) + b"!", "unused data"),
        (zstandard.compress(bytes(800))[:-1], "decompress"),
    ],
)
def test_a_wrong_chunk_with_a_right_checksum(content, why):
    index = np.array([[len(content), zlib.crc32(content)]], np.uint32)
    with pytest.raises(ReplayError, match="chunk 0") as caught:
        ChunkReader(content, index, 16, 50).gather(np.array([3]))
    assert why in caught.value.why


def test_a_cut_blob_or_another_index_is_refused():
    frames = moving_square(2 * CHUNK_FRAMES)
    blob, index = encode(frames)
    for bad in [(blob[:-1], index, 32), (blob, index[:1], 32), (blob, index, 33), (blob, index, 16)]:
        with pytest.raises(ReplayError, match="chunks do not fit their index"):
            ChunkReader(*bad, frames.shape[1])


def test_indices_out_of_range_are_refused():
    chunks = reader(moving_square(20))
    for bad in ([3, 20], [-1]):
        with pytest.raises(ReplayError, match="were asked for") as caught:
            chunks.gather(np.array(bad))
        assert "frames 0 to 19" in caught.value.why


def test_what_goes_into_chunks():
    assert compresses(np.zeros((2, 7056), np.uint8))
    assert compresses(np.zeros((2, 84, 84, 3), np.uint8))
    assert not compresses(np.zeros((2, 1024), np.uint8))
    assert not compresses(np.zeros((2, 7056), np.float32))
    for column in (np.zeros((2, 7056), np.float32), np.zeros((2, 84, 84), np.uint8)):
        with pytest.raises(ReplayError, match="do not go into chunks"):
            encode(column)
    strided = moving_square(40)[::2, ::3]
    np.testing.assert_array_equal(reader(strided).gather(np.arange(20)), strided)
