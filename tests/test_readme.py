"""The commands of the README run as they stand there, shortened by the smoke preset."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
TRAIN = [command for command in COMMANDS if command.startswith("rlkit train")]


def rlkit(command, cwd):
    words = shlex.split(command)[1:]
    if words[0] == "train":
        words = [w for i, w in enumerate(words) if w != "--env_steps" and words[i - 1] != "--env_steps"]
        words += ["--preset", "smoke", "--threads=1"]
    return subprocess.run(
        [sys.executable, "-m", "rlkit.cli.main", *words],
        capture_output=True, text=True, cwd=cwd, timeout=300, env={**os.environ, "MUJOCO_GL": "egl"}, check=False,
    )  # fmt: skip


def test_the_two_commands_are_there_and_executable():
    assert {"scripts/train", "scripts/test"} <= set(COMMANDS)
    for name in ("scripts/train", "scripts/test", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_top_level_names_are_there():
    for name in ("pyproject.toml", "rlkit", "agents", "envs", "replay", "configs", "tests", "scripts"):
        assert (ROOT / name).exists()
    for name in ("agents", "envs", "replay", "configs"):
        assert (ROOT / name).resolve() == ROOT / "rlkit" / name


@pytest.mark.parametrize("command", TRAIN)
def test_train_commands(command, tmp_path):
    done = rlkit(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("next: rlkit eval" in done.stdout) != ("--dry-run" in command)


def test_the_commands_after_a_training(tmp_path):
    for seed in (0, 1):  # two, for `rlkit compare`
        assert rlkit(f"rlkit train dqn --env gym/CartPole-v1 --seed {seed}", tmp_path).returncode == 0
    rest = [command for command in COMMANDS if command.startswith("rlkit") and command not in TRAIN]
    assert {command.split()[1] for command in rest} >= {"ls", "resume", "eval", "doctor"}
    for command in rest:
        done = rlkit(command, tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_every_linked_file_exists():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_pages_that_errors_name_exist():
    named = {m for p in (ROOT / "rlkit").rglob("*.py") for m in re.findall(r'see="(docs/[\w.]+)"', p.read_text())}
    assert named
    for page in named:
        assert (ROOT / page).exists(), page
