"""rlkit envs."""

from __future__ import annotations

from rlkit.cli.flags import parse
from rlkit.cli.tables import print_table

USAGE = """usage: rlkit envs [WORD]

Lists the environments whose id holds WORD. Any registered Gymnasium id works as gym/ID, too.

example: rlkit envs walker"""


def main(words: list[str]) -> int:
    """List; the exit status."""
    parsed = parse(words, options=(), switches=(), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    from rlkit.envs.registry import list_envs

    word = parsed.positional[0] if parsed.positional else ""
    rows = list_envs(word)
    if not rows:
        print(f"no environment holds {word!r}; rlkit envs lists all of them")
        return 0
    print_table(["environment", "actions", "protocol"], rows)
    return 0
