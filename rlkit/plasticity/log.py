"""A run folder for a training loop that is not rlkit's: what `rlkit report` and `rlkit dormancy` read."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from rlkit.core.errors import ConfigError
from rlkit.plasticity.measurement import Measurement, Probe
from rlkit.plasticity.monitor import BeforeUpdate, PlasticityMonitor
from rlkit.plasticity.record import RecordWriter
from rlkit.plasticity.scores import DEFINITIONS


class PlasticityLog:
    """Probes, numbers and events of one training, written as they come; a crash loses nothing that was logged.

    path: a folder that does not exist yet, or is empty. name, env, seed: how reports call and group the run.
    """

    def __init__(
        self, path: Path | str, monitor: PlasticityMonitor, *, name: str, env: str = "", seed: int = 0
    ) -> None:
        self.path, self.monitor = Path(path), monitor
        if (self.path / "run.json").exists():
            raise ConfigError(
                f"{self.path} already holds a run",
                why="a log never writes over another one",
                fix="give each training a folder of its own",
                see="docs/plasticity.md",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._about = {"format": 1, "agent": name, "env": env, "seed": seed, "created": created}
        self._set_status("running")
        self._record: RecordWriter | None = None

    def probe(
        self,
        batch: Any,
        *,
        step: int,
        updates: int,
        kind: str = "probe",
        fixed: Any = None,
        full: bool = True,
        before: BeforeUpdate | None = None,
    ) -> Measurement:
        """`monitor.measure` on `batch`, recorded. Returns the measurement."""
        measurement = self.monitor.measure(
            batch, step=step, updates=updates, kind=kind, fixed=fixed, full=full, before=before
        )
        if self._record is None:
            states = len(batch[0] if isinstance(batch, tuple | list) else batch)
            self._record = RecordWriter(self.path / "plasticity" / "record.bin", DEFINITIONS, Probe(states, "given"))
        self._record.append(measurement)
        return measurement

    def scalars(self, step: int, *, updates: int, **values: float) -> None:
        """Numbers of the training at `step`: `episode_return` is the one that reports look for first."""
        self._append("metrics", {"step": step, "updates": updates, **values})

    def evaluation(self, step: int, returns: list[float]) -> None:
        """Returns of evaluation episodes at `step`."""
        self._append("evaluations", {"step": step, "mean": sum(returns) / len(returns), "returns": returns})

    def event(self, step: int, kind: str, *, updates: int, **details: Any) -> None:
        """Something that was done: a reset, a new learning rate. Reports mark it on the time axis."""
        self._append("ledger", {"step": step, "updates": updates, "kind": kind, **details})

    def close(self, status: str = "finished") -> None:
        """The training is over: finished, interrupted or crashed."""
        if self._record is not None:
            self._record.close()
        self._set_status(status)

    def __enter__(self) -> PlasticityLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("finished" if kind is None else "crashed")

    def _set_status(self, status: str) -> None:
        (self.path / "run.json").write_text(json.dumps({**self._about, "status": status}, indent=1))

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with (self.path / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
