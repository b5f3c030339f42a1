"""The batch sampler under a DataLoader: exact epochs across passes, growing datasets, workers, restarts."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.replay.adapters.torch_data import BatchSampler
from tests.plugins.reference import SAMPLERS, Reference


class Numbers(Dataset):
    """Row i is the number i."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(index)


def batches(loader):
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drawn_rows_are_the_samplers(sampler):
    loader = DataLoader(Numbers(10), batch_sampler=BatchSampler(Numbers(10), 4, seed=3, sampler=sampler))
    reference = Reference(10, 3, sampler)
    reference.write(np.arange(10))
    for _ in range(3):
        assert batches(loader) == [reference.draw(4)[0].tolist() for _ in range(2)]


def test_epochs_are_exact_across_passes():
    sampler = BatchSampler(Numbers(10), 4, seed=1)
    loader = DataLoader(Numbers(10), batch_sampler=sampler)
    assert len(loader) == 2
    drawn = [batch for _ in range(5) for batch in batches(loader)]
    assert [len(batch) for batch in drawn] == [4] * 10
    flat = [index for batch in drawn for index in batch]
    for epoch in range(4):
        assert sorted(flat[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_a_batch_larger_than_the_dataset():
    sampler = BatchSampler(Numbers(3), 5, seed=1)
    with pytest.warns(UserWarning, match="a batch of 5 from 3 usable rows"):
        assert [len(batch) for batch in batches(DataLoader(Numbers(3), batch_sampler=sampler))] == [5]


def test_a_growing_dataset():
    dataset = Numbers(4)
    sampler = BatchSampler(dataset, 2, capacity=8, seed=3)
    loader, reference = DataLoader(dataset, batch_sampler=sampler), Reference(8, 3)
    reference.write(np.arange(4))
    seen = []
    for batch in loader:
        assert batch.tolist() == reference.draw(2)[0].tolist()
        seen.append(batch)
        if len(seen) == 1:
            dataset.length = 8
            reference.write(np.arange(4, 8))
    assert len(seen) == 4  # the pass grows with it
    dataset.length = 9
    with pytest.raises(ReplayError, match="the dataset has 9 rows") as caught:
        next(iter(loader))
    assert "BatchSampler(capacity=9)" in str(caught.value)


@pytest.mark.usefixtures("forked_workers")
def test_workers_change_nothing():
    alone, served = (
        DataLoader(Numbers(12), batch_sampler=BatchSampler(Numbers(12), 4, seed=1), num_workers=workers)
        for workers in (0, 2)
    )
    for _ in range(2):
        assert batches(alone) == batches(served)


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_goes_on_where_the_loop_was(workers):
    """Workers are ahead of it."""

    def make():
        sampler = BatchSampler(Numbers(21), 2, seed=1)
        return sampler, DataLoader(Numbers(21), batch_sampler=sampler, num_workers=workers)

    loader = make()[1]
    whole = [batch for _ in range(3) for batch in batches(loader)]
    sampler, loader = make()
    found = batches(loader)
    for taken, batch in enumerate(loader, start=1):
        found.append(batch.tolist())
        if taken == 3:
            assert workers == 0 or sampler.state_dict()["yielded"] > 3
            state = sampler.state_dict(taken)
            break
    sampler, loader = make()
    sampler.load_state_dict(state)
    for taken, batch in enumerate(loader, start=4):
        found.append(batch.tolist())
        if taken == 6:
            state = sampler.state_dict(taken)
            break
    sampler, loader = make()
    sampler.load_state_dict(state)
    found += batches(loader)
    assert len(found) == 20
    assert found + batches(loader) == whole


def test_states_that_cannot_be_given():
    dataset = Numbers(8)
    sampler = BatchSampler(dataset, 2, capacity=20, seed=1)
    batches_ = iter(sampler)
    next(batches_)
    next(batches_)
    with pytest.raises(ReplayError, match="the state after 3 batches") as caught:
        sampler.state_dict(3)
    assert "batches 0 to 2 have been drawn" in str(caught.value)
    dataset.length = 9
    next(batches_)
    with pytest.raises(ReplayError, match="the state after 1 batches") as caught:
        sampler.state_dict(1)
    assert "num_workers=0" in str(caught.value)
    with pytest.raises(ResumeError, match="another one"):
        BatchSampler(Numbers(8), 2, seed=1).load_state_dict(sampler.state_dict())
    with pytest.raises(ConfigError, match="a batch_size of 0"):
        BatchSampler(Numbers(8), 0, seed=1)
