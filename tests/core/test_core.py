"""Seeds, shapes, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ResumeError, nearest
from rlkit.core.kernels import below, unit, word
from rlkit.core.seeding import CounterStream, SeedTree, generator_state, load_generator_state, splitmix64
from rlkit.core.shapes import check_shapes


def test_splitmix64_golden():
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1) == 0x910A2DEC89025CC1


@given(seed=st.integers(0, 2**63), high=st.integers(1, 2**32 - 1), skip=st.integers(0, 1000))
def test_counter_stream_equals_big_integers(seed, high, skip):
    stream = CounterStream(seed)
    stream.words(skip)
    drawn = stream.integers(high, 5)
    key = splitmix64(seed)
    assert drawn.tolist() == [splitmix64(key ^ q) * high >> 64 for q in range(skip, skip + 5)]


def test_kernels_draw_what_the_stream_draws():
    stream = CounterStream(7)
    words, numbers = stream.words(200), [np.uint64(q) for q in range(200)]
    assert [word(stream.key, q) for q in numbers] == words.tolist()
    stream.counter = 0
    assert [below(h, 12345) for h in words] == stream.integers(12345, 200).tolist()
    stream.counter = 0
    assert [unit(h) for h in words] == stream.units(200).tolist()


def test_counter_stream_resumes_and_refuses_another_seed():
    stream, other = CounterStream(3), CounterStream(3)
    stream.words(7)
    other.load_state_dict(stream.state_dict())
    assert stream.words(4).tolist() == other.words(4).tolist()
    with pytest.raises(ResumeError, match="stored 3, this run 4"):
        CounterStream(4).load_state_dict(stream.state_dict())


def test_children_depend_on_name_and_index_only():
    first, second = SeedTree(5), SeedTree(5)
    second.generator("somebody else").random()
    assert first.generator("env", 1).random() == second.generator("env", 1).random()
    values = {tree.integer(name, i) for tree in (SeedTree(5), SeedTree(6)) for name in ("env", "agent") for i in (0, 1)}
    assert len(values) == 8


def test_generator_state_round_trip():
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    rng.integers(5, size=3)
    load_generator_state(other, generator_state(rng))
    assert rng.random() == other.random()


def test_check_shapes_names_the_tensor():
    check_shapes(torch.zeros(3), "B", torch.zeros(3, 2), "B A", torch.zeros(2, 4), "A 4")
    with pytest.raises(ValueError, match=r"tensor 1 has shape \[3, 1\], wanted \[B\]"):
        check_shapes(torch.zeros(3), "B", torch.zeros(3, 1), "B")
    with pytest.raises(ValueError, match="tensor 1"):
        check_shapes(torch.zeros(3), "B", torch.zeros(4), "B")


def test_error_form():
    error = ConfigError(
        "unknown key 'gama'", why="no such setting." + nearest("gama", ["gamma", "n_step"]), fix="--gamma"
    )
    assert str(error).splitlines() == [
        "error[config]: unknown key 'gama'",
        "no such setting. Did you mean 'gamma'?",
        "fix: --gamma",
    ]
    assert error.exit_code == 2
