"""Ctrl-C, SIGTERM and SIGHUP: the first asks, the second insists."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

EXIT_INTERRUPTED = 130


class StopRequest:
    """True once a signal has come. A second signal ends the process at once, without a checkpoint."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    def __enter__(self) -> StopRequest:
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            os._exit(EXIT_INTERRUPTED)
        self._signal = number
        name = signal.Signals(number).name
        sys.stderr.write(f"\n{name}: finishing this step and writing a checkpoint (once more: stop at once)\n")
