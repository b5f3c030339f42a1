"""rlkit doctor."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from rlkit.cli.flags import parse
from rlkit.cli.tables import print_table
from rlkit.core.errors import EnvError, RlkitError

USAGE = """usage: rlkit doctor

Checks what rlkit needs on this machine and says how to mend what is missing; exit status 3 if something is.

example: rlkit doctor"""

Row = tuple[str, bool, str, str]  # what, whether it is well, what was found, how to mend it


def main(words: list[str]) -> int:
    """Check and print; 0 or 3."""
    if parse(words, options=(), switches=(), settings=False, usage=USAGE).help_wanted():
        print(USAGE)
        return 0
    rows = [row for check in CHECKS for row in check()]
    print_table(["what", "", "found"], [[what, "ok" if well else "MEND", found] for what, well, found, _ in rows])
    broken = [row for row in rows if not row[1]]
    for what, _, _, fix in broken:
        print(f"fix {what}: {fix}")
    return EnvError.exit_code if broken else 0


def packages() -> list[Row]:
    """Versions of what rlkit stands on."""
    rows: list[Row] = [("python", True, platform.python_version(), "")]
    for name in ("torch", "tensordict", "gymnasium", "ale-py", "dm-control", "mujoco", "numpy", "numba", "tensorboard"):
        try:
            rows.append((name, True, metadata.version(name), ""))
        except metadata.PackageNotFoundError:
            rows.append((name, False, "missing", f"pip install {name}"))
    return rows


def hardware() -> list[Row]:
    """Cores, threads, device, memory, disk."""
    import torch

    from rlkit.training.memory import free_memory

    memory, disk = free_memory(), shutil.disk_usage(Path.cwd())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    load = os.getloadavg()[0]
    busy = f", load {load:.1f}: two torch threads beside a busy process are slower than one, try --threads 1"
    cores = os.cpu_count() or 1
    return [
        ("cores", True, f"{cores}, torch uses {torch.get_num_threads()}{busy if load > cores / 2 else ''}", ""),
        ("device", True, device, ""),
        ("memory", memory.amount > 2e9, str(memory), "close other programs, or raise the container's limit"),
        ("disk", disk.free > 1e9, f"{disk.free / 1e9:.1f} GB free here", "free disk space or use --runs elsewhere"),
    ]


def atari() -> list[Row]:
    """The ROMs that ale-py brings, one of them started."""
    from rlkit.core.seeding import SeedTree
    from rlkit.envs.atari import games
    from rlkit.envs.registry import make

    try:
        count = len(games())
        make("ALE/Pong-v5", seeds=SeedTree(0)).reset()
    except RlkitError as error:
        return [("Atari", False, error.why, error.fix)]
    return [("Atari", True, f"{count} games, Pong started", "")]


def control() -> list[Row]:
    """dm-control and mujoco together: one task loaded."""
    from rlkit.envs.dmc import task_ids

    try:
        return [("DeepMind Control", True, f"{len(task_ids())} tasks, cartpole-balance loaded", "")]
    except RlkitError as error:
        return [("DeepMind Control", False, error.why, error.fix)]


def rendering() -> list[Row]:
    """Whether MuJoCo can draw (needed for films of control tasks only)."""
    from rlkit.envs.rendering import BACKENDS, PACKAGES, probe

    found = {backend: probe(backend) for backend in BACKENDS}
    works = {backend: ms for backend, (ms, _) in found.items() if ms is not None}
    if works:
        text = ", ".join(f"{backend} {ms:.0f} ms a frame" for backend, ms in works.items())
        return [("rendering", True, text, "")]
    why = "; ".join(f"{backend}: {reason}" for backend, (_, reason) in found.items())
    fix = f"install {PACKAGES['egl']} (Debian's name); training from states does not need it"
    return [("rendering", False, why, fix)]


CHECKS: tuple[Callable[[], list[Row]], ...] = (packages, hardware, atari, control, rendering)
