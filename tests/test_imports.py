"""Import directions: what people plug in depends on nothing above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "rlkit"
MAY_IMPORT = {
    "core": set(),
    "envs": {"core"},
    "replay": {"core"},
    "plasticity": {"core"},
    "nn": {"core"},
    "causal": {"core"},
    "configs": {"core"},
    "agents": {"core", "nn", "replay", "plasticity", "causal"},
    "report": {"core", "plasticity"},
    "training": {"core", "nn", "envs", "replay", "plasticity", "configs", "agents"},
    "cli": {"core", "nn", "envs", "replay", "plasticity", "configs", "agents", "training", "report"},
}
# Of replay and plasticity an agent knows data and protocols only.
AGENTS_MAY_IMPORT = {"rlkit.replay.batch", "rlkit.plasticity.protocols"}
# Reports read files: of plasticity they know the record and the numbers in it, neither of which needs torch.
REPORT_MAY_IMPORT = {"rlkit.plasticity.record", "rlkit.plasticity.measurement"}


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith("rlkit.")}


def test_every_part_is_listed():
    parts = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert parts == set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_import_directions(part):
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        for module in imported_modules(path):
            target = module.split(".")[1]
            if target in MAY_IMPORT:
                assert target in MAY_IMPORT[part] | {part}, f"{path.relative_to(ROOT)} imports {module}"
            if part == "report" and target == "plasticity" and module.count(".") == 2:
                assert module in REPORT_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {module}"
            if part == "agents" and target in {"replay", "plasticity"} and module.count(".") == 2:
                assert module in AGENTS_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {module}"
