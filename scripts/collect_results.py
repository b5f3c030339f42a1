"""Evidence from finished runs: curves, means with bootstrap intervals, and what made them."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np

from rlkit.configs.parse import difference
from rlkit.core.seeding import SeedTree
from rlkit.report.statistics import bootstrap_interval
from rlkit.training.build import make_agent, make_env
from rlkit.training.evaluation import evaluate
from rlkit.training.resolve import load_config
from rlkit.training.run_folder import RunFolder

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--random", type=int, default=0, metavar="EPISODES", help="also play a random policy")
    arguments = parser.parse_args()
    folders = [RunFolder.open(path) for path in arguments.runs]
    configs = [load_config(folder.path / "config.yaml") for folder in folders]
    for config in configs[1:]:
        changed = [key for key, _, _ in difference(configs[0], config) if key != "seed"]
        if changed:
            raise SystemExit(f"these runs are not seeds of one setting, they differ in: {', '.join(changed)}")
    target = Path("results") / arguments.name
    target.mkdir(parents=True, exist_ok=True)
    rng = SeedTree(0).generator("bootstrap")

    curves = {
        config.seed: [(line["step"], line["frames"], line["mean"]) for line in folder.lines("evaluations")]
        for folder, config in zip(folders, configs, strict=True)
    }
    with (target / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "env_step", "frames", "mean_return"])
        writer.writerows([seed, *row] for seed, rows in sorted(curves.items()) for row in rows)
    final = [curves[seed][-1][2] for seed in sorted(curves)]
    last = folders[0].lines("evaluations")[-1]
    summary = {
        "env": configs[0].env.id,
        "agent": configs[0].name,
        "env_steps": last["step"],
        "frames": last["frames"],
        "seeds": sorted(curves),
        "final_mean_return_per_seed": final,
        "mean": float(np.mean(final)),
        "ci95_of_mean_bootstrap": bootstrap_interval(final, rng),
        "episodes_per_evaluation": len(last["returns"]),
        "protocol": last["protocol"],
        "wall_s_per_seed": [folder.lines("metrics")[-1]["wall_s"] for folder in folders],
        "versions": json.loads((folders[0].path / "versions.json").read_text()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if len(final) == 1:
        summary["final_episode_returns"] = last["returns"]
        summary["ci95_over_episodes_bootstrap"] = bootstrap_interval(last["returns"], rng)
    if arguments.random:
        config = replace(configs[0], evaluation=replace(configs[0].evaluation, epsilon=1.0))
        seeds = SeedTree(config.seed)
        env = make_env(config.env, seeds, "shape", num_envs=1)
        agent = make_agent(config, env.spec, seeds)
        env.close()
        random = evaluate(agent, config, "random-policy", episodes=arguments.random)
        assert random is not None
        summary["random_policy"] = {
            "episodes": arguments.random,
            "mean": random.mean,
            "ci95_bootstrap": bootstrap_interval(random.returns, rng),
        }
    (target / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    shutil.copy(folders[0].path / "config.yaml", target / "config.yaml")
    draw(curves, summary, target / "curve.svg")
    print(json.dumps(summary, indent=1))


def draw(curves: dict[int, list[tuple[int, int, float]]], summary: dict[str, object], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for seed, rows in sorted(curves.items()):
        axes.plot([row[0] for row in rows], [row[2] for row in rows], linewidth=1, label=f"seed {seed}")
    axes.set_xlabel("env steps")
    axes.set_ylabel("mean evaluation return")
    axes.set_title(f"{summary['agent']} on {summary['env']}")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
