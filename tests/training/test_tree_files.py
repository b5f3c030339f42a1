"""Nested state on disk."""

import json
import math

import numpy as np
import pytest
import torch

from rlkit.training.tree_files import load_tree, save_tree, write_text


def test_round_trip_keeps_types_values_and_layout(tmp_path):
    tree = {
        "tensor": torch.arange(6.0).reshape(2, 3),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 4),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "convolution": torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).to(
            memory_format=torch.channels_last
        ),
        "array": np.arange(4, dtype=np.uint64).reshape(2, 2),
        "flags": np.array([True, False]),
        "array scalar": np.array(2.5),
        "bytes": b"\x00\xff",
        "huge": 2**120,
        "float": 0.1,
        "infinite": [math.inf, -math.inf],
        "none": None,
        "tuple": (1, "two", [3]),
        "by number": {0: {"step": torch.tensor(1.0)}, 1: {}},
        "dollar": {"$tensor": "not one"},
    }
    save_tree(tmp_path, "state", tree)
    back = load_tree(tmp_path, "state")
    assert list(back) == list(tree)
    for key in ("tensor", "scalar", "empty", "generator", "convolution"):
        assert back[key].dtype == tree[key].dtype
        assert torch.equal(back[key], tree[key])
        assert back[key].stride() == tree[key].stride()
    for key in ("array", "flags", "array scalar"):
        assert back[key].dtype == tree[key].dtype
        assert back[key].shape == tree[key].shape
        assert (back[key] == tree[key]).all()
    for key in ("bytes", "huge", "float", "infinite", "none", "tuple", "dollar"):
        assert back[key] == tree[key]
    assert back["by number"][0]["step"].item() == 1.0
    assert back["by number"][1] == {}


def test_nothing_executable_and_nothing_unknown(tmp_path):
    save_tree(tmp_path, "state", {"a": torch.ones(2)})
    json.loads((tmp_path / "state.json").read_text())
    with pytest.raises(TypeError, match="may not hold a set"):
        save_tree(tmp_path, "state", {"a": {1, 2}})


def test_write_text_replaces_whole_files(tmp_path):
    write_text(tmp_path / "run.json", "old and long")
    write_text(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
