"""SAC on a task of the DeepMind Control suite at replay ratio 4, with and without the soft reset of ACE.

    .venv/bin/python benchmarks/reset_at_high_ratio.py --runs runs/reset [--seeds 0,1,2] [--env dmc/walker-walk]
    .venv/bin/rlkit report runs/reset

20,000 env steps (40,000 frames), 4 gradient steps each. Conditions: `plain`; `ace_reset`, every 20,000 gradient steps,
as hard as the policy is dormant by its gradients (published: every 100,000, which these runs do not reach). A training
that is there is not done again. Prints means with 95 % t-intervals over the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from common import compare_trainings, emit, machine
from rlkit.report.run_data import dormant_share, load_run
from rlkit.training.experiment import train
from rlkit.training.resolve import resolve

ENV_STEPS, REPLAY_RATIO = 20_000, 4
CONDITIONS = {
    "plain": {},
    "ace_reset": {"plasticity.interventions": ["ace_reset"], "intervention.ace_reset.every": 20_000},
}


def settings(condition: str, seed: int) -> dict[str, Any]:
    return {
        "env_steps": ENV_STEPS,
        "replay_ratio": REPLAY_RATIO,
        "seed": seed,
        "threads": 1,
        "replay.capacity": ENV_STEPS,
        "evaluation.period": 5_000,
        "evaluation.episodes": 5,
        "checkpoint.period": 5_000,
        "checkpoint.keep": 1,
        **CONDITIONS[condition],
    }


def measure(folder: Path) -> dict[str, float]:
    """Returns of the evaluations, and dormancy at the end by network."""
    run = load_run(folder)
    part = run.record.parts[-1]
    found = {f"return_{line['step']}": float(line["mean"]) for line in run.evaluations}
    for network in ("actor", "critic"):
        for tau in (0.025, 0.1):
            share = dormant_share(part, tau, network=network)
            found[f"dormant_{network}_{tau}"] = float(share[~np.isnan(share)][-1])
    gradient = dormant_share(part, 0.05, "ace", network="actor")
    found["gradient_dormant_actor_0.05"] = float(gradient[~np.isnan(gradient)][-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/reset"))
    parser.add_argument("--env", default="dmc/walker-walk")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--conditions", default=",".join(CONDITIONS))
    arguments = parser.parse_args()
    emit(
        benchmark="reset_at_high_ratio", env=arguments.env, replay_ratio=REPLAY_RATIO, env_steps=ENV_STEPS, **machine()
    )

    def one(condition: str, seed: int) -> None:
        train(resolve("sac", arguments.env, flags=settings(condition, seed)), arguments.runs / condition)

    seeds = map(int, arguments.seeds.split(","))
    compare_trainings(arguments.runs, arguments.conditions.split(","), seeds, one, measure)


if __name__ == "__main__":
    main()
