"""These tests need the libraries that rlkit plugs into: scripts/test runs them in .venv-plugins, after the others."""

import importlib.util
import multiprocessing
import os

import pytest

os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")  # else TorchRL prints a line for each storage

PEERS = ("stable_baselines3", "torchrl", "tianshou", "cpprb", "minari")

if all(importlib.util.find_spec(name) is None for name in PEERS):  # the main environment; one missing is an error
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def uncompiled_tianshou():
    """Tianshou compiles these for 12 s in each process that needs them; as plain Python they say the same."""
    from tianshou.algorithm import algorithm_base
    from tianshou.data.buffer import manager

    with pytest.MonkeyPatch.context() as patch:
        for module, name in [(manager, "_prev_index"), (manager, "_next_index"), (algorithm_base, "_nstep_return")]:
            patch.setattr(module, name, getattr(module, name).py_func)
        yield


@pytest.fixture
def forked_workers():
    """Importing TorchRL sets the start method to spawn, with which each DataLoader worker imports everything anew."""
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(method, force=True)
