"""Which OpenGL backend MuJoCo can draw with here. MUJOCO_GL is read once, at the first import of dm_control."""

from __future__ import annotations

import os
import subprocess
import sys

from rlkit.core.errors import EnvError

BACKENDS = ("egl", "osmesa")
PACKAGES = {"egl": "libegl1", "osmesa": "libosmesa6"}
_PROBE = """
import time
from dm_control import suite
env = suite.load("cartpole", "balance")
env.reset()
env.physics.render(84, 84, camera_id=0)
start = time.perf_counter()
for _ in range(5):
    env.physics.render(84, 84, camera_id=0)
print((time.perf_counter() - start) / 5 * 1e3)
"""


def probe(backend: str) -> tuple[float | None, str]:
    """Milliseconds of one 84x84 picture with `backend`, or None and why it failed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROBE],
        env={**os.environ, "MUJOCO_GL": backend},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 0:
        return float(done.stdout.split()[-1]), ""
    lines = done.stderr.strip().splitlines()
    return None, lines[-1] if lines else f"exit code {done.returncode}"


def set_backend(*, render: bool) -> None:
    """Set MUJOCO_GL before dm_control is imported, unless a person has set it.

    Raises EnvError if pictures are wanted and no backend works, or if dm_control has been imported without one.
    """
    if not render:
        os.environ.setdefault("MUJOCO_GL", "disabled")
        return
    if "dm_control" in sys.modules:
        if os.environ.get("MUJOCO_GL") in ("disabled", "off"):
            raise EnvError(
                "pictures were asked for after dm_control had been imported without rendering",
                why="MUJOCO_GL is read once, at the first import of dm_control, and was 'disabled'",
                fix="export MUJOCO_GL=egl before Python starts",
                see="docs/environments.md",
            )
        return
    if os.environ.get("MUJOCO_GL", "disabled") not in ("disabled", "off"):
        return
    failures = []
    for backend in BACKENDS:
        milliseconds, why = probe(backend)
        if milliseconds is not None:
            os.environ["MUJOCO_GL"] = backend
            return
        failures.append(f"{backend}: {why}")
    packages = ", ".join(f"{package} for MUJOCO_GL={backend}" for backend, package in PACKAGES.items())
    raise EnvError(
        "MuJoCo cannot draw on this machine",
        why="; ".join(failures),
        fix=f"install {packages} (Debian's names) and export it; training from states needs none: "
        "--env.observation state",
        see="docs/environments.md",
    )
