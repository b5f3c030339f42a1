"""rlkit agents."""

from __future__ import annotations

from rlkit.cli.flags import parse
from rlkit.cli.tables import print_table

USAGE = """usage: rlkit agents

Lists the agents: every YAML file in rlkit/configs, its algorithm and the papers behind it.

example: rlkit agents"""


def main(words: list[str]) -> int:
    """List; the exit status."""
    parsed = parse(words, options=(), switches=(), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    from rlkit.agents.registry import ENTRIES
    from rlkit.configs.shipped import available, read_named

    entries = {entry.name: entry for entry in ENTRIES}
    rows = []
    for name in available(""):
        entry = entries[read_named("", name)["algorithm"].value]
        rows.append([name, entry.name, entry.actions, entry.summary, "; ".join(entry.sources)])
    print_table(["agent", "algorithm", "actions", "what", "papers"], rows)
    return 0
