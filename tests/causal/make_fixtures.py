"""Writes fixtures.json: what lingam and causal-learn find in the random models. Neither is needed by the tests.

    .venv-lingam/bin/python -m pip install causal-learn==0.1.4.8
    .venv-lingam/bin/python -m tests.causal.make_fixtures

benchmarks/direct_lingam.py makes the environment.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import lingam
from causallearn.search.FCMBased.lingam import DirectLiNGAM

from tests.causal.data import random_model

SEEDS = range(24)


def main() -> None:
    found = []
    for seed in SEEDS:
        row: dict[str, object] = {"seed": seed}
        for name, kind in (("lingam", lingam.DirectLiNGAM), ("causal-learn", DirectLiNGAM)):
            model = kind()
            model.fit(random_model(seed))
            row[name] = {
                "order": [int(column) for column in model.causal_order_],
                "effects": [[float(f"{value:.9g}") for value in effects] for effects in model.adjacency_matrix_],
            }
        found.append(row)
    versions = {name: version(name) for name in ("lingam", "causal-learn", "scikit-learn", "numpy")}
    text = json.dumps({"versions": versions, "models": found})
    Path(__file__).with_name("fixtures.json").write_text(text.replace('{"seed"', '\n{"seed"') + "\n")


if __name__ == "__main__":
    main()
