"""The folder of one run: the truth about it. TensorBoard and reports are views of these files.

run.json, config.yaml, versions.json, lock, metrics.jsonl, evaluations.jsonl, ledger.jsonl, checkpoints/, tensorboard/,
crash.txt. No absolute path is written into it, so a folder can be moved.
"""

from __future__ import annotations

import datetime
import fcntl
import itertools
import json
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import rlkit
from rlkit.configs.parse import dump
from rlkit.configs.schema import RunConfig
from rlkit.core.errors import ConfigError, ResourceError, ResumeError, nearest
from rlkit.plasticity.measurement import THRESHOLDS
from rlkit.training.tree_files import write_text

FORMAT = 1
_DORMANT = f"plasticity/dormant_{THRESHOLDS[-1]}"
_PACKAGES = ("torch", "tensordict", "gymnasium", "ale-py", "dm-control", "mujoco", "numpy", "safetensors")


@dataclass(frozen=True)
class RunSummary:
    """A line of `rlkit ls`."""

    path: Path
    agent: str
    env: str
    seed: int
    status: str  # running, finished, interrupted, crashed, forked; unreadable if its run.json is
    env_steps: int
    last_return: float | None
    dormant: float | None = None  # share of the units at 0.1, in the last probe that metrics.jsonl tells of


class RunFolder:
    """Files of one run, appended to while it trains."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def create(config: RunConfig, runs_dir: Path) -> RunFolder:
        """A new folder `<runs_dir>/<env>/<agent>/<time>-s<seed>`; an existing one is never touched.

        Raises ConfigError if there is a file where a folder must be, or no right to make one.
        """
        now = datetime.datetime.now().astimezone()
        parent = runs_dir / config.env.id.replace("/", "-") / config.name
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise ConfigError(
                f"no run folder can be made in {runs_dir}",
                why=f"{error.strerror}: {error.filename}",
                fix="--runs DIR, a folder that can be written to",
                see="docs/run_folder.md",
            ) from error
        stem = f"{now:%Y%m%d-%H%M%S}-s{config.seed}"
        for suffix in ["", *(f"-{n}" for n in range(2, 1000))]:
            path = parent / f"{stem}{suffix}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            folder = RunFolder(path)
            write_text(path / "versions.json", json.dumps(versions(), indent=1))
            write_text(path / "config.yaml", dump(config))
            run = {"format": FORMAT, **_about(config), "created": now.isoformat(timespec="seconds")}
            folder._write_run(run, "running")
            return folder
        raise AssertionError(f"1,000 runs in one second in {parent}")

    @staticmethod
    def open(path: Path) -> RunFolder:
        """An existing folder; refuses one that another release wrote in another format."""
        folder = RunFolder(path)
        try:
            found = folder.run()["format"]
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise ResumeError(
                f"{path} is not a run folder",
                why=f"its run.json cannot be read ({error.__class__.__name__})",
                fix="rlkit ls lists the runs",
                see="docs/run_folder.md",
            ) from error
        if found != FORMAT:
            raise ResumeError(
                f"{path} has format {found}",
                why=f"rlkit {rlkit.__version__} reads format {FORMAT}",
                fix=f"use the release of rlkit that versions.json in {path} names",
                see="docs/run_folder.md",
            )
        return folder

    def run(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return content

    def set_status(self, status: str) -> None:
        """running, finished, interrupted, crashed, or forked: copied, and nothing has been trained yet."""
        self._write_run(self.run(), status)

    def _write_run(self, content: dict[str, Any], status: str) -> None:
        write_text(self.path / "run.json", json.dumps({**content, "status": status}, indent=1))

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one line to `name`.jsonl."""
        with (self.path / f"{name}.jsonl").open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            torn = size > 0 and file.read(1) != b"\n"  # a line that was cut off must not swallow this one
            file.write(b"\n" * torn + json.dumps(line, allow_nan=False).encode() + b"\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All whole lines of `name`.jsonl; torn ones are ignored."""
        path = self.path / f"{name}.jsonl"
        if not path.exists():
            return []
        found = []
        for text in path.read_text().splitlines():
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return found

    def cut_after(self, step: int) -> None:
        """Drop measurements later than env step `step`: the resumed run takes them again. The ledger keeps all."""
        for name in ("metrics", "evaluations", "activations"):
            path = self.path / f"{name}.jsonl"
            if path.exists():
                kept = [line for line in self.lines(name) if line["step"] <= step]
                write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    @contextmanager
    def fork(self, config: RunConfig) -> Iterator[RunFolder]:
        """A copy beside it that will go on with `config`; removed again unless a training begins in it."""
        for number in itertools.count(1):
            copy = RunFolder(self.path.resolve().with_name(f"{self.path.resolve().name}-fork{number}"))
            with suppress(FileExistsError):
                copy.path.mkdir()
                break
        try:
            leave_out = shutil.ignore_patterns("lock", "run.json")
            shutil.copytree(self.path, copy.path, ignore=leave_out, dirs_exist_ok=True)
            copy._write_run({**self.run(), **_about(config)}, "forked")  # last: without it, it is no run
            yield copy
        except shutil.Error as error:  # a list of all files that could not be copied
            raise ResourceError(
                f"{self.path} could not be copied",
                why=str(error.args[0][0][2]),
                fix="free disk space; if the run is still running, stop it first",
                see="docs/run_folder.md",
            ) from error
        finally:
            if not (copy.path / "run.json").exists() or copy.run()["status"] == "forked":
                shutil.rmtree(copy.path, ignore_errors=True)

    @contextmanager
    def lock(self, *, break_lock: bool = False) -> Iterator[None]:
        """Hold the folder; a lock whose process is gone from this host is taken over.

        The file says who holds it; the system's lock on it sees to it that only one can take it over.
        Raises ResumeError if somebody else holds it.
        """
        path = self.path / "lock"
        file, alone = _open_alone(path)
        with file:
            holder = self.lock_holder() if os.fstat(file.fileno()).st_size else None
            if not alone or (holder is not None and not break_lock and not _gone(holder)):
                holder = holder or _UNKNOWN
                raise ResumeError(
                    f"{self.path} is in use",
                    why=f"process {holder['pid']} on {holder['host']} holds it since {holder['since']}",
                    fix="wait for it or stop it" + ("; if it is dead: rlkit resume RUN --break-lock" if alone else ""),
                    see="docs/run_folder.md",
                )
            since = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}))
            file.flush()
            try:
                yield
            finally:
                if _is_at(file, path):
                    path.unlink()

    def lock_holder(self) -> dict[str, Any] | None:
        """Who holds the lock, or None."""
        try:
            holder: dict[str, Any] = json.loads((self.path / "lock").read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            return _UNKNOWN
        return holder

    def status(self) -> str:
        """As in run.json, but a run whose process died without a word is `crashed`."""
        status = str(self.run()["status"])
        if status != "running":
            return status
        holder = self.lock_holder()
        return "crashed" if holder is None or _gone(holder) else "running"


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


_UNKNOWN: dict[str, Any] = {"host": "an unknown host", "pid": "unknown", "since": "an unknown time"}


def _open_alone(path: Path) -> tuple[IO[str], bool]:
    """The file at `path`, made if need be, and whether this process holds the system's lock on it now.

    That lock is there as long as the file is open, in this process: nobody else can hold it, and a process that ends
    loses it. Where the file system knows no such locks, what is written in the file must do.
    """
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file, False
        except OSError:
            return file, True
        if _is_at(file, path):
            return file, True
        file.close()  # its holder removed it between our two calls: lock the file that is there now


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the lock's process is known to have ended."""
    if holder["host"] != socket.gethostname():
        return False
    if holder["pid"] == os.getpid():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, ValueError):
        return True
    except PermissionError:
        return False
    return False


def _about(config: RunConfig) -> dict[str, Any]:
    return {"agent": config.name, "env": config.env.id, "seed": config.seed}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"rlkit": rlkit.__version__, "python": platform.python_version(), "machine": platform.machine()}
    return found | {name: metadata.version(name) for name in _PACKAGES}


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """All runs below `runs_dir`, oldest first."""
    summaries = []
    for run_file in sorted(runs_dir.glob("*/*/*/run.json"), key=lambda path: path.parent.name):
        folder = RunFolder(run_file.parent)
        try:
            run = folder.run()
        except (OSError, ValueError):  # somebody's hand, or a broken disk: the other runs are still there
            agent, env = folder.path.parent.name, folder.path.parent.parent.name
            summaries.append(RunSummary(folder.path, agent, env, 0, "unreadable", 0, None))
            continue
        metrics = folder.lines("metrics")
        returns = [line["episode_return"] for line in metrics if "episode_return" in line]
        dormant = [line[_DORMANT] for line in metrics if _DORMANT in line]
        summaries.append(
            RunSummary(
                path=folder.path,
                agent=run["agent"],
                env=run["env"],
                seed=run["seed"],
                status=folder.status(),
                env_steps=metrics[-1]["step"] if metrics else 0,
                last_return=returns[-1] if returns else None,
                dormant=dormant[-1] if dormant else None,
            )
        )
    return summaries


def find_run(runs_dir: Path, text: str) -> Path:
    """The run that `text` names: a path, a folder name, or `last`."""
    if (Path(text) / "run.json").exists():
        return Path(text)
    runs = [summary.path for summary in list_runs(runs_dir) if summary.status != "unreadable"]
    if text == "last" and runs:
        return runs[-1]
    matches = [path for path in runs if path.name == text]
    if len(matches) == 1:
        return matches[0]
    raise ConfigError(
        f"no run {text!r}" if not matches else f"{len(matches)} runs are called {text!r}",
        why=f"{runs_dir} holds {len(runs)} runs." + nearest(text, [path.name for path in runs]),
        fix="rlkit ls lists the runs; give the path of one, or `last`",
    )
