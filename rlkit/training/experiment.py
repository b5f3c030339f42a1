"""The loop: act, step, add, update; then, on their schedules, evaluate, log and write checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkit.agents.agent import WatchesSteps
from rlkit.configs.parse import difference, dump
from rlkit.configs.schema import RunConfig
from rlkit.core.errors import ConfigError, NumericError, ResumeError, system_error
from rlkit.core.score_codec import NOT_FINITE
from rlkit.core.seeding import SeedTree, generator_state, load_generator_state
from rlkit.core.typing import Array, State
from rlkit.nn.learnable import CURVE_RANGE, curves
from rlkit.plasticity.measurement import Probe
from rlkit.plasticity.networks import trained_networks
from rlkit.plasticity.protocols import LedgerEvent, Progress
from rlkit.plasticity.record import RecordWriter, read_record
from rlkit.plasticity.replay_ratio import UpdateSchedule
from rlkit.plasticity.scores import DEFINITIONS
from rlkit.replay.batch import Batch, Window
from rlkit.training.build import (
    check_spaces,
    make_agent,
    make_env,
    make_replay,
    make_stacker,
    random_action,
    threads,
    whole_locksteps,
)
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.evaluation import evaluate
from rlkit.training.logging import MetricLog, RunLog
from rlkit.training.plasticity import Plasticity
from rlkit.training.progress import ProgressLine, Snapshot, say
from rlkit.training.resolve import load_config
from rlkit.training.run_folder import RunFolder, versions
from rlkit.training.signals import EXIT_INTERRUPTED, StopRequest
from rlkit.training.tree_files import write_text

_CURVES = 100  # times in a run that the curves of learned activations are recorded


class Experiment:
    """One agent, one environment, one replay: everything that moves, and nothing that writes files."""

    def __init__(self, config: RunConfig) -> None:
        torch.set_num_threads(threads(config))
        seeds = SeedTree(config.seed)
        self.config = config
        self.env = make_env(config.env, seeds, "env")
        self.stacker = make_stacker(self.env.spec)
        self.agent = make_agent(config, self.env.spec, seeds)  # before replay, which may have kernels to compile
        self._watching = self.agent if isinstance(self.agent, WatchesSteps) else None
        self.replay = make_replay(config, self.env.spec, seeds)
        self.plasticity = Plasticity(config, self.agent, self.replay, seeds)
        self.schedule = UpdateSchedule(config.learning_starts)
        self.window = Window(config.replay.n_step, config.replay.gamma)
        self.log = MetricLog()
        self.env_steps, self.updates = 0, 0
        self._rng = seeds.generator("random-actions")
        self._batch: Batch | None = None  # of the last update
        self._observation: Array | None = None  # [E, *obs] single frames that the next action answers

    @property
    def progress(self) -> Progress:
        """Where the run stands."""
        frames = self.env_steps * self.env.spec.action_repeat
        return Progress(self.env_steps, self.updates, frames, self.config.env_steps)

    def step(self) -> None:
        """One lockstep of all environments and the gradient steps that it earns."""
        if self._observation is None:
            self._observation = self.env.reset().observation.copy()
            self.stacker.reset(self._observation)
        action = self._act()
        step = self.env.step(action)
        self.replay.add(self._observation, action, step)
        if self._watching is not None:
            self._watching.watch(self.stacker.observation, action, step.reward)
        self.log.add_episodes(step.episodes)
        np.copyto(self._observation, step.observation)
        self.stacker.push(step)

        num_envs = self.env.spec.num_envs
        self.env_steps += num_envs
        ratio = self.plasticity.ratio.ratio(self.progress)
        for _ in range(self.schedule.due(self.env_steps, num_envs, ratio)):
            self._update()

    def _act(self) -> Array:
        spec = self.env.spec
        if self.env_steps < self.config.random_steps:
            return random_action(spec.action_space, spec.num_envs, self._rng)
        observation = torch.from_numpy(self.stacker.observation).to(self.config.device)
        action: Array = self.agent.act(observation, explore=True).cpu().numpy()
        return action

    def _update(self) -> None:
        batch = self.replay.sample(self.config.replay.batch_size, self.window)
        if self.config.device != "cpu":
            batch = batch.to(self.config.device, non_blocking=True)
        before = self.plasticity.before_update(self.updates + 1)
        update = self.agent.update(batch, self.plasticity.observer)
        if update.priority is not None:
            self.replay.update_priority(batch, update.priority)
        self.updates += 1
        self._batch = batch
        if self.config.device == "cpu":  # reading a number costs nothing here; elsewhere it would stop the device
            self.check_finite(update.metrics)
        self.log.add_update(update.metrics)
        self.plasticity.after_update(self.progress, before)

    def check_finite(self, metrics: Mapping[str, Tensor]) -> None:
        """Raise NumericError at the first loss that is NaN or infinite."""
        for key, value in metrics.items():
            if key.endswith("loss") and not math.isfinite(number := float(value)):
                assert self._batch is not None
                raise NonFiniteLossError(key, number, self, self._batch)

    def check_unread(self) -> None:
        """The same for updates whose losses nobody has read yet: before they are written, and before a checkpoint."""
        for metrics in self.log.unread_updates:
            self.check_finite(metrics)

    def state_dict(self) -> State:
        """Everything but the rows of replay, which a checkpoint keeps in segments."""
        exact = self.env.spec.exact
        return {
            "env_steps": self.env_steps,
            "updates": self.updates,
            "agent": self.agent.state_dict(),
            "replay": self.replay.state_dict(),
            "schedule": self.schedule.state_dict(),
            "plasticity": self.plasticity.state_dict(),
            "log": self.log.state_dict(),
            "random_actions": generator_state(self._rng),
            "observation": self._observation,
            "stacker": self.stacker.state_dict(),
            "env": self.env.state_dict() if exact else None,
            "planned": {"env_steps": self.config.env_steps, "threads": torch.get_num_threads()},
        }

    def load_state_dict(self, state: State, *, with_replay: bool) -> None:
        """Continue a stored run; the rows of replay have been loaded before."""
        self.env_steps, self.updates = state["env_steps"], state["updates"]
        self.plasticity.load_state_dict(state["plasticity"])  # before the agent, whose networks a cure may have changed
        self.agent.load_state_dict(state["agent"])
        self.schedule.load_state_dict(state["schedule"])
        self.log.load_state_dict(state["log"])
        load_generator_state(self._rng, state["random_actions"])
        if not with_replay:
            self.schedule.wait_until(self.env_steps + self.config.learning_starts)
        if state["env"] is not None:
            self.env.load_state_dict(state["env"])
            self.stacker.load_state_dict(state["stacker"])
            self._observation = state["observation"]
        elif with_replay and state["observation"] is not None:
            # The environment starts anew, so the open episodes end here; their last frames are known.
            self.replay.cut(state["observation"])

    def close(self) -> None:
        """Free environment and replay."""
        self.env.close()
        self.replay.close()


class NonFiniteLossError(NumericError):
    """A loss became NaN or infinite; carries what a dump needs."""

    def __init__(self, key: str, value: float, experiment: Experiment, batch: Batch) -> None:
        super().__init__(
            f"{key} is {value} at env step {experiment.env_steps:,}, update {experiment.updates:,}",
            why=f"the first tensor that is not finite: {_first_bad(experiment, batch)}",
            fix="lower --agent.learning_rate or set --replay.reward_clip 1, then start from the last good checkpoint",
            see="docs/run_folder.md",
        )
        gradients = {
            name: float(parameter.grad.norm())
            for name, parameter in experiment.agent.networks.named_parameters()
            if parameter.grad is not None
        }
        self.dump = {
            "step": experiment.env_steps,
            "updates": experiment.updates,
            "key": key,
            "batch_index": batch["index"].tolist(),
            "batch_uid": batch["uid"].tolist(),
            "gradient_norms": {name: repr(norm) for name, norm in gradients.items()},
        }


def _first_bad(experiment: Experiment, batch: Batch) -> str:
    tensors = [(f"batch {key}", value) for key, value in batch.items(include_nested=True, leaves_only=True)]
    tensors += list(experiment.agent.networks.named_parameters())
    for name, tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return f"{name} {list(tensor.shape)}"
    return "none in the batch or the parameters; the loss itself overflowed"


class Trainer:
    """An experiment and its run folder: the schedules of everything that is written.

    continues: the settings that the run in the folder has had so far; its newest whole checkpoint is loaded.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, *, continues: RunConfig | None = None) -> None:
        config = experiment.config
        self._experiment, self._folder, self._config = experiment, folder, config
        self._checkpoints = CheckpointStore(folder.path / "checkpoints", config.checkpoint.keep)
        self._last_checkpoint: int | None = None
        self._last_loss: float | None = None
        if continues is not None:
            self._restore(continues)
        probe = Probe(config.plasticity.batch_size, "replay, uniform, fresh", config.seed)
        self._record = RecordWriter(folder.path / "plasticity" / "record.bin", DEFINITIONS, probe)
        purge_step = None
        if continues is not None:
            purge_step = experiment.env_steps
            self._record.cut_after(purge_step)
        self._run_log = RunLog(folder, tensorboard=config.logging.tensorboard, purge_step=purge_step)

    def run(self, stop: StopRequest) -> bool:
        """Train to the end or to the first signal; True if it came to the end."""
        experiment, config = self._experiment, self._config
        progress = ProgressLine(experiment.env_steps)
        if experiment.env_steps == 0:
            self._write_activations()
        one_back = experiment.env_steps - experiment.env.spec.num_envs if experiment.env_steps else -1
        if _crossed(one_back, experiment.env_steps, config.evaluation.period):
            self._evaluate(stop)  # step 0: the untrained agent; later: what a signal may have abandoned
        while experiment.env_steps < config.env_steps and not stop:
            before = experiment.env_steps
            experiment.step()
            now = experiment.env_steps
            if now >= config.env_steps:
                experiment.plasticity.finish(experiment.progress)
            self._write_plasticity()
            if _crossed(before, now, config.logging.period):
                self._write_metrics()
            if _crossed(before, now, config.evaluation.period) and now < config.env_steps:
                self._evaluate(stop)
            if _crossed(before, now, config.checkpoint.period) and now < config.env_steps:
                self.checkpoint()
            if progress.due():
                progress.show(self.snapshot())
            if now < config.env_steps and _crossed(before, now, max(config.env_steps // _CURVES, 1)):
                self._write_activations()
        finished = experiment.env_steps >= config.env_steps
        if finished:
            self._show_scores()
            self._write_metrics()
            self._write_activations()
            self._evaluate(stop)
        if self._last_checkpoint != experiment.env_steps:
            self.checkpoint()
        if experiment.env_steps:
            progress.show(self.snapshot())
        progress.end()
        return finished and not stop

    def checkpoint(self) -> Path:
        """Write a checkpoint of this very step."""
        experiment = self._experiment
        experiment.check_unread()
        replay = experiment.replay if self._config.checkpoint.replay else None
        self._record.sync()
        path = self._checkpoints.save(experiment.env_steps, experiment.state_dict(), replay)
        self._last_checkpoint = experiment.env_steps
        self.record(LedgerEvent("checkpoint", {"path": path.relative_to(self._folder.path).as_posix()}))
        return path

    def record(self, event: LedgerEvent) -> None:
        """One line of the ledger."""
        experiment = self._experiment
        where = {"step": experiment.env_steps, "updates": experiment.updates}
        self._folder.append("ledger", {**where, "kind": event.kind, **event.details})

    def snapshot(self) -> Snapshot:
        """Numbers for the progress line."""
        experiment = self._experiment
        returns = experiment.log.recent_returns
        mean = sum(returns) / len(returns) if returns else None
        last = returns[-1] if returns else None
        now = experiment.env_steps
        left = whole_locksteps(max(0, self._config.env_steps - now), experiment.env.spec.num_envs)
        return Snapshot(
            now,
            now + left,  # all environments step together, so a run may end a few steps behind `env_steps`
            experiment.updates,
            last,
            mean,
            self._last_loss,
            experiment.plasticity.dormant_share,
        )

    def close(self) -> None:
        """Close files and environments: all of them, whatever a full disk says."""
        with contextlib.ExitStack() as stack:
            for part in (self._experiment, self._record, self._run_log):
                stack.callback(part.close)

    def _where(self) -> dict[str, float]:
        progress = self._experiment.progress
        wall_s = round(self._experiment.log.wall_s(), 3)
        return {"step": progress.env_steps, "updates": progress.updates, "frames": progress.frames, "wall_s": wall_s}

    def _write_metrics(self) -> None:
        experiment = self._experiment
        experiment.check_unread()
        values = experiment.log.flush() | experiment.replay.metrics() | experiment.plasticity.take_metrics()
        self._last_loss = next((value for key, value in values.items() if key.endswith("loss")), self._last_loss)
        if values:
            self._run_log.write("metrics", {**self._where(), **values}, prefix="train")

    def _write_plasticity(self) -> None:
        """Probes to the record, what was done and decided to the ledger."""
        plasticity = self._experiment.plasticity
        for measurement in plasticity.take_measurements():
            self._record.append(measurement)
        for event in plasticity.take_events():
            self.record(event)
            if event.details.get("whole_layer"):
                layer, name = event.details["layer"], event.details["intervention"]
                say(f"{name}: every unit of {layer} was dormant and starts anew", error=True)

    def _write_activations(self) -> None:
        """What learned activations look like, for the report; nothing if there are none, or it has been done."""
        agent, step = self._experiment.agent, self._experiment.env_steps
        functions = {
            f"{network}.{address}": found
            for network in trained_networks(agent)
            for address, found in curves(agent.networks[network]).items()
        }
        if functions and all(line["step"] != step for line in self._folder.lines("activations")):
            where = {"step": step, "updates": self._experiment.updates}
            self._folder.append("activations", {**where, "range": CURVE_RANGE, "functions": functions})

    def _show_scores(self) -> None:
        """A picture of all scores, unit by probe, for TensorBoard: the darker, the less active."""
        parts = read_record(self._record.path).parts
        if parts:
            scored = (parts[-1].codes["redo"] != NOT_FINITE).any(axis=0)
            codes = parts[-1].codes["redo"][:, scored].T  # [units, T]
            self._run_log.picture("plasticity/scores", np.repeat(codes, 4, axis=1), self._experiment.env_steps)

    def _evaluate(self, stop: StopRequest) -> None:
        """Evaluate at this step unless it has been done; a signal abandons it, and the resumed run takes it again."""
        experiment, config = self._experiment, self._config
        episodes = config.evaluation.episodes
        if episodes == 0 or any(line["step"] == experiment.env_steps for line in self._folder.lines("evaluations")):
            return
        result = evaluate(experiment.agent, config, f"evaluation/{experiment.env_steps}", episodes=episodes, stop=stop)
        if result is None:
            return
        numbers = {"mean": result.mean, "median": result.median, "returns": result.returns, "lengths": result.lengths}
        line = {**self._where(), **numbers, "protocol": result.protocol}
        self._run_log.write("evaluations", line, prefix="evaluation")

    def _restore(self, old: RunConfig) -> None:
        experiment, config = self._experiment, self._config
        step, state, segments, torn = self._checkpoints.load()
        if step - config.env.num_envs >= config.env_steps:
            raise ConfigError(
                f"env_steps is {config.env_steps:,}, and {step:,} are done",
                why="a run goes on from its newest checkpoint, never back",
                fix=f"leave --env_steps out, or give more than {step}",
                see="docs/run_folder.md",
            )
        with_replay = bool(segments)
        changes = difference(replace(old.env, workers=config.env.workers), config.env)
        other_env = ", ".join(f"{key} {before} -> {after}" for key, before, after in changes)
        if other_env:
            state["env"] = None  # it is of an environment that is gone
        try:
            if with_replay:
                self._checkpoints.load_replay(segments, experiment.replay, state["replay"])
            experiment.load_state_dict(state, with_replay=with_replay)
        except KeyError as error:
            raise ResumeError(
                f"checkpoints/{step} has no {error}",
                why="another version of rlkit wrote it, or other settings were in force; its files are whole",
                fix="resume with the version that versions.json names and the settings of the run, or start a new run",
                see="docs/run_folder.md",
            ) from error
        self._checkpoints.discard_after(step)
        self._folder.cut_after(step)
        self._last_checkpoint = step
        exact, why = _exactness(experiment, config, state["planned"], other_env)
        recorded = json.loads((self._folder.path / "versions.json").read_text())
        now = versions()
        changed = {name: [then, now.get(name)] for name, then in recorded.items() if now.get(name) != then}
        details = {"checkpoint": step, "bit_exact": exact and not changed, "why": why, "versions_changed": changed}
        passed_over = {bad.path.name: bad.why for bad in torn}
        self.record(LedgerEvent("resume", {**details, "torn": passed_over}))
        for name, damage in passed_over.items():
            say(f"checkpoint {name} is torn ({damage}); going on from the last good one")
        if step >= config.env_steps:
            say(f"{step:,} of {config.env_steps:,} env steps are done: nothing is left to train")
            say("go on with a larger one: --env_steps N")
            return
        say(f"resuming at step {step:,} from checkpoints/{step}")
        reason = f"versions differ: {changed}" if changed else why
        say(f"bit-exact: {'yes' if exact and not changed else 'no'} ({reason})")


def _exactness(experiment: Experiment, config: RunConfig, planned: State, other_env: str) -> tuple[bool, str]:
    """Whether what follows is what an uninterrupted run would have done, and why.

    planned: as it was stored. other_env: what is different about the environment.
    """
    if other_env:
        return False, f"another environment ({other_env}): episodes start anew"
    if not experiment.env.spec.exact:
        return False, f"the {config.env.backend} backend of {config.env.id} cannot store its state: episodes start anew"
    if not config.checkpoint.replay:
        return False, "checkpoint.replay is false: the replay starts empty and is filled for learning_starts steps"
    if config.device != "cpu":
        return False, f"kernels on {config.device} are not all deterministic"
    threads = torch.get_num_threads()
    if threads != planned["threads"]:
        return False, f"{threads} threads instead of {planned['threads']}: sums are taken in another order"
    if config.env_steps != planned["env_steps"]:
        steps = f"env_steps {planned['env_steps']:,} -> {config.env_steps:,}"
        return (
            False,
            f"{steps}: schedules that are shares of the run (exploration, weights, probes) follow the new length",
        )
    return True, "environment, replay, agent and every random stream continue"


def _crossed(before: int, now: int, period: int) -> bool:
    """Whether a multiple of `period` lies in (before, now]."""
    return period > 0 and now // period > before // period


def train(config: RunConfig, runs_dir: Path) -> int:
    """Train from the start in a new run folder; returns the exit code."""
    experiment = Experiment(config)  # what does not fit together fails here, before a folder exists
    folder = RunFolder.create(config, runs_dir)
    say(f"run folder: {folder.path}")
    return _train_in(folder, experiment)


def resume(run: Path, config: RunConfig, *, fork: bool = False, break_lock: bool = False) -> int:
    """Continue a run, or a copy of it, from its newest whole checkpoint with `config`; returns the exit code."""
    folder = RunFolder.open(run)
    old = load_config(run / "config.yaml")
    check_spaces(old, config)
    experiment = Experiment(config)  # what does not fit together fails here, before anything is copied or locked
    if not fork:
        return _train_in(folder, experiment, continues=old, break_lock=break_lock)
    with folder.fork(config) as copy:
        say(f"copied into {copy.path}")
        return _train_in(copy, experiment, continues=old)


def _train_in(
    folder: RunFolder, experiment: Experiment, *, continues: RunConfig | None = None, break_lock: bool = False
) -> int:
    config = experiment.config
    with folder.lock(break_lock=break_lock):
        try:
            with StopRequest() as stop, contextlib.closing(Trainer(experiment, folder, continues=continues)) as trainer:
                # Not before: what cannot go on has been refused and stays as it is.
                write_text(folder.path / "config.yaml", dump(config))
                folder.set_status("running")
                finished = trainer.run(stop)
            folder.set_status("finished" if finished else "interrupted")
        except BaseException as error:
            steps = CheckpointStore(folder.path / "checkpoints", config.checkpoint.keep).steps()
            last_good = f"last good checkpoint: {steps[-1] if steps else 'none'}"
            with contextlib.suppress(OSError):  # full disk: a run `running` without a lock has crashed, too
                (folder.path / "crash.txt").write_text(traceback.format_exc())
                if folder.run()["status"] == "running":
                    folder.set_status("crashed")
                if isinstance(error, NonFiniteLossError):
                    (folder.path / "crash.json").write_text(json.dumps(error.dump, indent=1))
            if isinstance(error, NonFiniteLossError):
                error.why += f"; {last_good}; dump: {folder.path}/crash.json"
            if isinstance(error, OSError):
                fix = f"rlkit resume {folder.path}" if steps else "start the run again"
                raise system_error(error, why=f"the run stopped; {last_good}", fix=fix) from error
            raise
    _summary(folder, finished=finished)
    return 0 if finished else EXIT_INTERRUPTED


def _summary(folder: RunFolder, *, finished: bool) -> None:
    if not finished:
        say(f"interrupted; go on with: rlkit resume {folder.path}", error=True)
        return
    evaluations = folder.lines("evaluations")
    if evaluations:
        last = evaluations[-1]
        say(
            f"evaluation after {last['step']:,} env steps: mean {last['mean']:.1f}, median {last['median']:.1f}, "
            f"{len(last['returns'])} episodes"
        )
    say(f"results: {folder.path}/metrics.jsonl, evaluations.jsonl, plasticity/, checkpoints/, tensorboard/")
    say(f"next: rlkit eval {folder.path} --episodes 10 --video, or rlkit report {folder.path}")
