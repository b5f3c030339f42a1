"""rlkit config."""

from __future__ import annotations

from pathlib import Path

from rlkit.cli.flags import parse
from rlkit.cli.train import resolve_words
from rlkit.core.errors import ConfigError

USAGE = """usage: rlkit config show AGENT --env ID [--preset NAME] [--config FILE] [--KEY VALUE ...]
       rlkit config diff A B

show: every setting of a run as YAML, with the place where each value comes from.
diff: the settings that differ between two run folders or YAML files.

example: rlkit config show dqn --env ALE/Pong-v5 --env.num_envs 8"""


def main(words: list[str]) -> int:
    """Show or compare; the exit status."""
    parsed = parse(words, options=("preset", "config"), switches=(), settings=True, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    match parsed.positional:
        case ["show", agent]:
            config, origins = resolve_words(agent, parsed)
            print(annotated(config, origins))
        case ["diff", left, right]:
            print_difference(Path(left), Path(right))
        case _:
            raise ConfigError(
                f"rlkit config {' '.join(parsed.positional)} is not a command",
                why="there are `show AGENT` and `diff A B`",
                fix=USAGE.splitlines()[0],
            )
    return 0


def annotated(config: object, origins: dict[str, str]) -> str:
    """YAML in which each line says where its value comes from."""
    from rlkit.configs.parse import dump, read_layer

    text = dump(config)
    keys = {setting.origin: key for key, setting in read_layer(text, "").items()}
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        key = keys.get(f":{number}")
        lines.append(line if key is None else f"{line:<40} # {origins.get(key, 'default')}")
    return "\n".join(lines)


def print_difference(left: Path, right: Path) -> None:
    """The settings that differ."""
    from rlkit.cli.tables import print_table
    from rlkit.configs.parse import read_file

    layers = [read_file(path / "config.yaml" if path.is_dir() else path) for path in (left, right)]
    keys = sorted(layers[0].keys() | layers[1].keys())
    values = [(key, *(repr(layer[key].value) if key in layer else "-" for layer in layers)) for key in keys]
    rows = [row for row in values if row[1] != row[2]]
    if rows:
        print_table(["key", str(left), str(right)], rows)
    else:
        print("no setting differs")
