"""Memory that this process may still take: the machine's, or what its control groups (containers) leave of a limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

# Files of the limit and of the usage, and the line of memory.stat with cached pages that the kernel drops when memory
# is needed, which psutil counts as available, too (Linux, admin-guide: cgroup-v2.rst and cgroup-v1/memory.rst).
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@dataclass(frozen=True)
class FreeMemory:
    """Bytes, and whether a control group's limit is what binds."""

    amount: int
    limited: bool

    def __str__(self) -> str:
        return f"{self.amount / 1e9:.1f} GB are free" + (" (limit of the control group)" if self.limited else "")


def free_memory() -> FreeMemory:
    """The smaller of what the machine has and what the control groups leave."""
    machine = psutil.virtual_memory().available
    left = left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return FreeMemory(machine, False) if left is None or left >= machine else FreeMemory(max(0, left), True)


def left_in_groups(groups: Path, mount: Path) -> int | None:
    """Bytes that the narrowest of this process's groups and those above them leaves; None = there is no limit.

    groups: the file that lists them (version 1: `4:memory:/path`, version 2: `0::/path`). mount: where they are shown;
    a container may show its own group as the root, and the path in the list does not exist there.
    """
    left = []
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        files, root = (_V1, mount / "memory") if controllers else (_V2, mount)
        group = root / path.lstrip("/")
        above = [folder for folder in group.parents if folder.is_relative_to(root)]
        left += [found for folder in (group, *above) if (found := _left(folder, files)) is not None]
    return min(left, default=None)


def _left(group: Path, files: tuple[str, str, str]) -> int | None:
    limit_file, usage_file, reclaimable = files
    try:
        limit, usage = int((group / limit_file).read_text()), int((group / usage_file).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or its limit is `max`
        return None
    return limit - usage + int(stat.get(reclaimable, 0))
