"""Loss of plasticity in its smallest form: a classifier whose random labels are drawn anew every 600 updates.

    .venv/bin/python benchmarks/label_shuffling.py --out runs/label-shuffling [--seeds 8] [--conditions shuffled,redo]
    .venv/bin/rlkit report runs/label-shuffling

1,000 fixed inputs from N(0, I) in 64 dimensions, 10 classes, 20 tasks of 600 updates; an MLP 64-256-256-256-10 with
ReLU and He initialisation, Adam with learning rate 1e-3 and batches of 64. Conditions: `fixed` (the labels never
change), `shuffled`, and with shuffled labels `redo` (threshold 0.1, every 200 updates), `random` (as many units as ReDo
would take, but any), `layer_norm`, `l2_init`. Each training is a run folder that `rlkit report` reads; one that is
finished is not done again. Prints a JSON line a training, and at the end means with 95 % t-intervals over the seeds.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from common import emit, machine, summarise
from rlkit.plasticity.interventions.l2_init import L2Init, L2InitConfig
from rlkit.plasticity.log import PlasticityLog
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.monitor import PlasticityMonitor
from rlkit.plasticity.protocols import AfterStep, Penalty, UnitGraph
from rlkit.plasticity.record import read_record
from rlkit.plasticity.surgery import dormant_units, recycle
from rlkit.plasticity.unit_graph import graph_of
from rlkit.report.run_data import dormant_share

INPUTS, CLASSES, SAMPLES, BATCH = 64, 10, 1_000, 64
TASKS, UPDATES = 20, 600  # updates a task
RECYCLE_EVERY, THRESHOLD = 200, 0.1
CONDITIONS = ("fixed", "shuffled", "redo", "random", "layer_norm", "l2_init")


class HeLinear(nn.Linear):
    """A linear layer that starts, and starts anew, from He et al. 2015's normal distribution and zero biases."""

    def reset_parameters(self) -> None:
        """Draw from the global generator, as all torch initialisers do."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)


class Classifier:
    """What the cures ask of an agent, of a supervised model."""

    def __init__(self, layer_norm: bool, rng: torch.Generator) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.initial_seed())
            parts: list[nn.Module] = []
            for inputs, units in pairwise((INPUTS, 256, 256, 256)):
                parts += [HeLinear(inputs, units), *([nn.LayerNorm(units)] if layer_norm else []), nn.ReLU()]
            model = nn.Sequential(*parts, HeLinear(256, CLASSES))
        self.networks = nn.ModuleDict({"model": model})
        self.optimizers: dict[str, Optimizer] = {"model": Adam(model.parameters(), 1e-3, fused=True)}
        self.penalties: list[Penalty] = []
        self.after_step: list[AfterStep] = []
        self._graph = graph_of(model, torch.randn(4, INPUTS, generator=rng), prefix="model")

    def unit_graph(self) -> UnitGraph:
        return self._graph

    def outputs(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        logits = self.networks["model"](batch[0])
        return {"values": logits, "policy": logits.argmax(-1)}

    def losses(self, batch: tuple[Tensor, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        return {"model": F.cross_entropy(self.networks["model"](batch[0]), batch[1])}

    def update(self, batch: tuple[Tensor, Tensor]) -> None:
        loss = self.losses(batch, torch.Generator())["model"]
        for penalty in self.penalties:
            loss = loss + penalty.value(self.networks)
        self.optimizers["model"].zero_grad()
        loss.backward()
        self.optimizers["model"].step()


def treat(classifier: Classifier, condition: str, measurement: Measurement, rng: np.random.Generator) -> list[dict]:
    """ReDo, or the same number of units chosen at random; what was done, for the ledger."""
    masks = dormant_units(classifier, measurement, THRESHOLD, "redo")
    if condition == "random":
        masks = {name: rng.permuted(mask, axis=1) for name, mask in masks.items()}
    return [event.details for event in recycle(classifier, masks, rng, kind=condition)]


def train(condition: str, seed: int, folder: Path) -> dict[str, float]:
    """One training; the numbers after its tasks."""
    data = torch.Generator().manual_seed(1_000 + seed)
    x = torch.randn(SAMPLES, INPUTS, generator=data)
    classifier = Classifier(condition == "layer_norm", torch.Generator().manual_seed(seed))
    rng = np.random.default_rng(seed)
    if condition == "l2_init":
        L2Init(L2InitConfig(coefficient=2e-3)).attach(classifier, rng)  # 1e-3 times the sum of squares
    noise = torch.Generator().manual_seed(seed)
    monitor = PlasticityMonitor(
        classifier.networks,
        classifier.unit_graph(),
        forward=classifier.outputs,
        losses=lambda batch: classifier.losses(batch, noise),
        optimizers=list(classifier.optimizers.values()),
    )
    found: dict[str, float] = {}
    y = torch.randint(CLASSES, (SAMPLES,), generator=data)
    with PlasticityLog(folder, monitor, name=condition, env="label-shuffling", seed=seed) as log:
        log.probe((x, y), step=0, updates=0, kind="start")
        for update in range(1, TASKS * UPDATES + 1):
            rows = torch.randint(SAMPLES, (BATCH,), generator=data)
            classifier.update((x[rows], y[rows]))
            if update % RECYCLE_EVERY == 0:
                cured = condition in ("redo", "random")
                full = update % UPDATES == 0
                kind = "pre" if cured else "probe"
                measurement = log.probe((x, y), step=update, updates=update, kind=kind, full=full)
                if update % UPDATES == 0:
                    found |= after_task(classifier, (x, y), measurement, update // UPDATES, log)
                if cured and update < TASKS * UPDATES:
                    for details in treat(classifier, condition, measurement, rng):
                        log.event(update, condition, updates=update, intervention=condition, **details)
                    log.probe((x, y), step=update, updates=update, kind="post", full=False)
            if update % UPDATES == 0 and condition != "fixed":
                y = torch.randint(CLASSES, (SAMPLES,), generator=data)
    return found


@torch.no_grad()
def after_task(
    classifier: Classifier, batch: tuple[Tensor, Tensor], measurement: Measurement, task: int, log: PlasticityLog
) -> dict[str, float]:
    """Accuracy and dormancy at the end of a task: logged, and returned for the tasks that the summary shows."""
    outputs = classifier.outputs(batch)
    accuracy = float((outputs["policy"] == batch[1]).float().mean())
    loss = float(F.cross_entropy(outputs["values"], batch[1]))
    dormant = {tau: measurement.dormant_fraction(tau) for tau in (0.0, 0.025, 0.1)}
    srank = float(list(measurement.layers.values())[2].metrics["srank"][0])
    log.scalars(task * UPDATES, updates=task * UPDATES, episode_return=accuracy, loss=loss, srank=srank)
    log.evaluation(task * UPDATES, [accuracy])
    if task not in (5, 10, TASKS):
        return {}
    names = {f"dormant_{tau}_{task}": share for tau, share in dormant.items()}
    return {f"accuracy_{task}": accuracy, f"loss_{task}": loss, f"srank_{task}": srank} | names


def right_after_the_last_cure(folder: Path) -> dict[str, float]:
    """Dormant shares that a measurement finds right after recycling; the others are taken right before it."""
    (part,) = read_record(folder / "plasticity" / "record.bin").parts
    places = [i for i, kind in enumerate(part.kind) if kind == "post"]
    return {f"dormant_{tau}_post": float(dormant_share(part, tau)[places[-1]]) for tau in (0.025, 0.1) if places}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/label-shuffling"))
    parser.add_argument("--seeds", type=int, default=8, choices=range(1, 11))
    parser.add_argument("--conditions", default=",".join(CONDITIONS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    emit(benchmark="label_shuffling", seeds=arguments.seeds, **machine())
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(arguments.seeds):
        for condition in arguments.conditions.split(","):
            folder = arguments.out / condition / f"s{seed}"
            done = folder / "summary.json"
            if not done.exists():
                if folder.exists():
                    folder.rename(folder.with_name(f"{folder.name}-unfinished-{len(list(folder.parent.iterdir()))}"))
                done.write_text(json.dumps(train(condition, seed, folder)))
            row = json.loads(done.read_text()) | right_after_the_last_cure(folder)
            rows.setdefault(condition, []).append(row)
            emit(condition=condition, seed=seed, **{key: round(value, 4) for key, value in row.items()})
    summarise(rows)


if __name__ == "__main__":
    main()
