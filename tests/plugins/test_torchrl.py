"""The TorchRL sampler inside the library's own buffers and storages."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.replay.adapters.torchrl import ReplaySampler
from tests.plugins.reference import SAMPLERS, Reference


def rows(start, count):
    t = torch.arange(start, start + count)
    return TensorDict({"t": t, "next": {"reward": t.float()}}, [count])


def build(size=7, kind=ReplayBuffer, storage=LazyTensorStorage, **more):
    return kind(storage=storage(size), sampler=ReplaySampler(**{"seed": 3, **more}))


def indices(buffer, batch_size=3):
    return buffer.sample(batch_size, return_info=True)[1]["index"].tolist()


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), max_size=6))
@settings(max_examples=15, deadline=None)
def test_drawn_rows_are_the_samplers(sampler, counts):
    """Growing, going round, more at once than there is room for, one by one."""
    buffer, reference, t = build(sampler=sampler), Reference(7, 3, sampler), 0
    for count, batch_size in counts:
        slots = np.arange(t, t + count) % 7
        if count == 1:
            buffer.add(rows(t, 1)[0])
        else:
            buffer.extend(rows(t, count))
        t += count
        reference.write(slots[-7:])  # of more rows than there is room for the last ones stay
        batch_size = reference.fitting(batch_size)
        found, info = buffer.sample(batch_size, return_info=True)
        assert info["index"].tolist() == reference.draw(batch_size)[0].tolist()
        assert (found["t"] % 7 == info["index"]).all()


def test_every_row_once_per_epoch_and_no_short_batch():
    buffer = build(10)
    buffer.extend(rows(0, 10))
    drawn = [indices(buffer, 4) for _ in range(5)]
    assert [len(batch) for batch in drawn] == [4] * 5
    assert sorted(index for batch in drawn for index in batch) == sorted(2 * list(range(10)))


@pytest.mark.parametrize("shape", [(4, 2), (3, 2, 2)])
def test_more_dimensions_are_flat_slots(shape):
    """The library's own sampler draws each coordinate with replacement."""
    inner, size = shape[1:], int(np.prod(shape))
    sampler = ReplaySampler(seed=3)
    storage = LazyTensorStorage(size, ndim=len(shape))
    buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=2, dim_extend=0)
    reference = Reference(size, 3)
    for t in range(shape[0] + 1):  # beyond the end of the ring
        cells = torch.arange(int(np.prod(inner))).reshape(1, *inner) + 100 * t
        buffer.extend(TensorDict({"t": cells}, [1, *inner]))
        reference.write(t % shape[0] * int(np.prod(inner)) + np.arange(int(np.prod(inner))))
        batch = buffer.sample()
        flat = np.ravel_multi_index(tuple(batch["index"].T.numpy()), shape)
        drawn, expected = reference.draw(2)
        assert flat.tolist() == drawn.tolist()
        assert batch["uid"].tolist() == expected.uid.tolist()
        step = torch.div(batch["t"], 100, rounding_mode="floor")
        assert (step % shape[0] == batch["index"][:, 0]).all()


@pytest.mark.filterwarnings("ignore:Loading the storage on an uninitialized TensorDict")
@pytest.mark.parametrize("storage", [LazyTensorStorage, ListStorage, LazyMemmapStorage])
def test_state_dict_and_files_go_on_in_mid_epoch(storage, tmp_path):
    """A fresh process has an empty buffer and the folder."""
    buffer = build(storage=storage)
    buffer.extend(rows(0, 5) if storage is not ListStorage else [rows(t, 1)[0] for t in range(5)])
    indices(buffer)
    by_state, by_files = build(storage=storage), build(storage=storage)
    by_state.load_state_dict(buffer.state_dict())
    if storage is not ListStorage:
        buffer.dumps(tmp_path / "replay")
        by_files.loads(tmp_path / "replay")
    for _ in range(6):
        found = indices(buffer)
        assert indices(by_state) == found
        if storage is not ListStorage:
            assert indices(by_files) == found


def test_the_state_is_plain(tmp_path):
    buffer = build()
    buffer.extend(rows(0, 7))
    indices(buffer)
    state = buffer.sampler.state_dict()
    torch.save(state, tmp_path / "state.pt")
    other = ReplaySampler(seed=3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.slots.draw(5).tolist() == buffer.sampler.slots.draw(5).tolist()


def test_prefetched_batches_are_part_of_the_buffers_state():
    def prefetching():
        storage, sampler = LazyTensorStorage(7), ReplaySampler(seed=3)
        return ReplayBuffer(storage=storage, sampler=sampler, prefetch=1, batch_size=3)

    buffer, plain = prefetching(), build()
    for each in (buffer, plain):
        each.extend(rows(0, 7))
    assert [indices(buffer) for _ in range(4)] == [indices(plain) for _ in range(4)]
    other = prefetching()
    other.load_state_dict(buffer.state_dict())
    expected = [indices(plain) for _ in range(4)]
    assert [indices(other) for _ in range(4)] == expected == [indices(buffer) for _ in range(4)]


@pytest.mark.parametrize("draw_first", [True, False])
def test_rows_that_were_there_before_the_sampler(draw_first):
    storage = LazyTensorStorage(7)
    first = ReplayBuffer(storage=storage)
    first.extend(rows(0, 5))
    second = ReplayBuffer(storage=storage, sampler=ReplaySampler(seed=3))
    if draw_first:
        assert sorted(indices(second, 5)) == [0, 1, 2, 3, 4]
    first.extend(rows(5, 3))  # through the other buffer, round the end: slot 0 has a new row
    info = second.sample(7, return_info=True)[1]
    uids = dict(zip(info["index"].tolist(), info["uid"].tolist(), strict=True))
    before = 0 if draw_first else 1  # a row that was overwritten before the sampler came has no number
    assert uids == {slot: uid - before for slot, uid in {0: 7, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}.items()}


def test_empty_starts_anew():
    buffer = build()
    buffer.extend(rows(0, 7))
    first = indices(buffer)
    buffer.empty()
    with pytest.raises(ReplayError, match="no usable row"):
        buffer.sampler.sample(buffer.storage, 2)
    buffer.extend(rows(0, 7))
    assert indices(buffer) == first


def test_a_writer_that_refuses_rows():
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(3), sampler=ReplaySampler(seed=1), writer=TensorDictMaxValueWriter(), batch_size=3
    )
    buffer.extend(rows(0, 5))
    buffer.extend(rows(0, 2))  # none is better than what is there: index -1
    assert sorted(buffer.sample()["t"].tolist()) == [2, 3, 4]


def test_the_seed_may_come_from_the_buffers_generator():
    def drawn(seed):
        sampler = ReplaySampler()
        buffer = ReplayBuffer(
            storage=LazyTensorStorage(7), sampler=sampler, generator=torch.Generator().manual_seed(seed)
        )
        buffer.extend(rows(0, 7))
        return indices(buffer, 7)

    torch.manual_seed(0)
    first = drawn(5)
    torch.manual_seed(1)
    assert drawn(5) == first != drawn(6)
    buffer = build(seed=None)
    with pytest.raises(ConfigError, match="the sampler has no seed"):
        buffer.extend(rows(0, 1))


def test_bad_input():
    with pytest.raises(ReplayError, match="the storage is empty"):
        ReplaySampler(seed=1).sample(LazyTensorStorage(3), 2)
    unbounded = ReplayBuffer(storage=ListStorage(), sampler=ReplaySampler(seed=1), batch_size=2)
    with pytest.raises(ConfigError, match="no max_size"):
        unbounded.extend([1, 2, 3])
    small, large = build(4), build(8)
    small.extend(rows(0, 4))
    large.extend(rows(0, 8))
    with pytest.raises(ResumeError, match="another storage"):
        large.sampler.load_state_dict(small.sampler.state_dict())
    with pytest.raises(ResumeError, match="another seed"):
        build(4, seed=9).sampler.load_state_dict(small.sampler.state_dict())
    with pytest.raises(ReplayError, match="a sampler belongs to one storage"):
        small.sampler.sample(large.storage, 2)


def test_an_empty_sampler_can_be_stored():
    sampler, other = ReplaySampler(seed=1), ReplaySampler(seed=1)
    other.load_state_dict(sampler.state_dict())
    assert other.slots is None


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
def test_priorities(kind):
    buffer = build(4, kind, sampler="per")
    buffer.extend(rows(0, 4))
    batch, info = buffer.sample(2, return_info=True)
    assert info["priority_weight"].tolist() == [1.0, 1.0]
    if kind is TensorDictReplayBuffer:
        assert torch.equal(batch["priority_weight"], info["priority_weight"])
    buffer.update_priority(torch.arange(4), torch.tensor([0.0, 0.0, 1e6, 0.0]))
    assert indices(buffer, 200).count(2) > 190
    buffer.update_priority(2, 0.0)
    buffer.update_priority(torch.tensor([0, 1]), torch.tensor(1e6))
    assert set(indices(buffer, 50)) == {0, 1}
    with pytest.raises(ReplayError, match="a priority is nan"):
        buffer.update_priority(torch.tensor([0]), torch.tensor([float("nan")]))
    with pytest.raises(ReplayError, match="slot 4 is out of range"):
        buffer.update_priority(torch.tensor([4]), torch.tensor([1.0]))


def test_priorities_that_come_with_the_rows():
    buffer = build(4, TensorDictReplayBuffer, sampler="per")
    buffer.extend(rows(0, 4))
    indices(buffer, 20)
    data = rows(4, 4)
    data["td_error"] = torch.tensor([0.0, 1e6, 0.0, 0.0])
    buffer.extend(data)
    assert set(indices(buffer, 100)) == {1}
