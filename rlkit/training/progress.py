"""What a person sees while a run trains: one live line on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Snapshot:
    """The numbers of one progress line."""

    env_steps: int
    total: int  # where the run ends
    updates: int
    last_return: float | None
    mean_return: float | None  # of the last 100 episodes
    loss: float | None
    dormant: float | None  # share of units at 0.1, in the last probe


def say(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Write to the terminal or pipe; one that is gone does not stop a training."""
    stream = sys.stderr if error else sys.stdout
    try:
        stream.write(text + end)
        stream.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError):  # so that nothing that is still buffered fails at exit
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class ProgressLine:
    """Prints a line at most every half second on a terminal, every 10 seconds in a pipe."""

    LIVE_S, PIPE_S = 0.5, 10.0

    def __init__(self, start: int) -> None:
        self._live = sys.stdout.isatty()
        self._period = self.LIVE_S if self._live else self.PIPE_S
        self._next = time.monotonic() + self._period
        self._mark: tuple[float, int] = (time.monotonic(), start)
        self._process = psutil.Process()
        self._width = 0

    def due(self) -> bool:
        """Whether it is time to show a line; cheap enough for every step."""
        return time.monotonic() >= self._next

    def show(self, now: Snapshot) -> None:
        """Show `now`."""
        clock = time.monotonic()
        speed = (now.env_steps - self._mark[1]) / max(clock - self._mark[0], 1e-9)
        self._mark, self._next = (clock, now.env_steps), clock + self._period
        parts = [
            f"step {now.env_steps:,}/{now.total:,} ({100 * now.env_steps / now.total:.0f} %)",
            f"return {_number(now.last_return)} (mean {_number(now.mean_return)})",
            f"loss {_number(now.loss, 3)}",
            f"{speed:,.0f} steps/s",
            f"replay ratio {now.updates / max(now.env_steps, 1):.3g}",
            f"dormant {_number(None if now.dormant is None else 100 * now.dormant)} %",
            f"{self._process.memory_info().rss / 1e9:.2f} GB",
            f"{duration((now.total - now.env_steps) / max(speed, 1e-9))} left",
        ]
        line = " | ".join(parts)
        if self._live:
            say("\r" + line.ljust(self._width), end="")
            self._width = len(line)
        else:
            say(line)

    def end(self) -> None:
        """Leave the live line standing."""
        if self._live and self._width:
            say("")


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """`2 h 05 min` or `4 min 09 s`."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole:02d} s"
