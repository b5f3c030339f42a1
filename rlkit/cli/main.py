"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from rlkit.core.errors import ConfigError, RlkitError, nearest, system_error

COMMANDS = {
    "train": "train AGENT on an environment: rlkit train sac --env dmc/walker-walk",
    "resume": "go on with a run that was stopped: rlkit resume last",
    "eval": "play whole episodes with a run's newest checkpoint: rlkit eval last --episodes 10 --video",
    "ls": "list runs: rlkit ls",
    "dormancy": "which units are dormant, layer by layer: rlkit dormancy last",
    "report": "one HTML file about dormant units that opens offline: rlkit report last",
    "compare": "groups of runs against each other: rlkit compare runs --by agent",
    "envs": "list environments: rlkit envs walker",
    "agents": "list agents: rlkit agents",
    "activations": "list or draw activations: rlkit activations plot rational silu",
    "config": "show or compare settings: rlkit config show sac --env dmc/walker-walk",
    "replay": "how often a sampler draws each row: rlkit replay stats --sampler rr-c",
    "doctor": "check this machine: rlkit doctor",
}


def usage() -> str:
    """The overview that `rlkit --help` prints."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}} {text}" for name, text in COMMANDS.items())
    return f"usage: rlkit COMMAND ...\n\n{rows}\n\nrlkit COMMAND --help tells more; --debug shows tracebacks."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit status."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(words: list[str]) -> int:
    """The exit status of a command: 0, that of the error, or 130 if it was interrupted."""
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("--help", "-h", "help"):
        print(usage())
        return 0
    try:
        if words[0] not in COMMANDS:
            raise ConfigError(
                f"unknown command {words[0]!r}",
                why=f"there are {', '.join(COMMANDS)}.{nearest(words[0], COMMANDS)}",
                fix="rlkit --help",
            )
        command = importlib.import_module(f"rlkit.cli.{words[0]}")
        status: int = command.main(words[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `rlkit envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RlkitError, OSError) as error:
        if debug:
            raise
        if isinstance(error, OSError):
            error = system_error(error, why="the command stopped there; --debug shows where", fix="type it again")
        print(error, file=sys.stderr)
        return error.exit_code
    return status


if __name__ == "__main__":
    main()
