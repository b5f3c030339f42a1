"""Without its library an adapter says what to install; those that need none import none."""

import ast
import sys
from pathlib import Path

import pytest

from rlkit.core.errors import EnvError
from rlkit.replay import adapters

NEEDED = {
    "sb3": ("stable_baselines3", "stable-baselines3"),
    "torchrl": ("torchrl", "torchrl"),
    "tianshou": ("tianshou", "tianshou"),
    "cpprb": ("cpprb", "cpprb"),
    "minari": ("minari", "minari[hdf5]"),
}


@pytest.mark.parametrize("adapter", NEEDED)
def test_the_error_names_package_and_pip_line(adapter, monkeypatch):
    package, requirement = NEEDED[adapter]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"rlkit.replay.adapters.{adapter}", raising=False)
    with pytest.raises(EnvError, match=f"the package {package} is not installed") as caught:
        __import__(f"rlkit.replay.adapters.{adapter}")
    assert f"pip install '{requirement}" in str(caught.value)


@pytest.mark.parametrize("adapter", ["cleanrl", "torch_data", "slots"])
def test_the_others_need_what_rlkit_needs(adapter):
    tree = ast.parse((Path(adapters.__file__).parent / f"{adapter}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names <= {"rlkit", "numpy", "torch", "gymnasium"}
