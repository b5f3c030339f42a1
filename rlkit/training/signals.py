"""Ctrl-C, SIGTERM and SIGHUP: the first asks, the second insists."""

from __future__ import annotations

import os
import signal
from types import FrameType

from rlkit.training.progress import say

EXIT_INTERRUPTED = 130


class StopRequest:
    """True once a signal has come. A second signal ends the process at once, without a checkpoint."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    def __enter__(self) -> StopRequest:
        wanted = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks that the run outlives its terminal
            wanted.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._handle) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number == signal.SIGHUP:  # a shell that goes sends it a second time; nobody insists
                return
            os._exit(EXIT_INTERRUPTED)
        self._signal = number
        name = signal.Signals(number).name
        say(f"\n{name}: finishing this step and writing a checkpoint (once more: stop at once)", error=True)
