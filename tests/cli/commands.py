"""The command line inside this process: what a person sees, without the start of an interpreter for each command."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import torch

from rlkit.cli.main import run


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def rlkit(*words: str, cwd: Path | None = None) -> Done:
    """Run `rlkit WORDS` in the folder `cwd`; torch's threads are put back."""
    threads, out, err = torch.get_num_threads(), io.StringIO(), io.StringIO()
    try:
        with contextlib.chdir(cwd or "."), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(list(words))
    finally:
        torch.set_num_threads(threads)
    return Done(status, out.getvalue(), err.getvalue())
