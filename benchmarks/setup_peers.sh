#!/usr/bin/env bash
# Makes .venv-peers: the peers that rlkit is measured against, at pinned versions, apart from rlkit's own environment.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv-peers/bin/python ] || "${PYTHON:-python3}" -m venv .venv-peers
.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
  torch stable-baselines3==2.9.2 ale-py dm-control mujoco opencv-python-headless scipy matplotlib
# It asks for torch 1.7.1, which there is not for this Python; its CPU path is plain torch code that any torch runs.
.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps rational-activations==0.2.0
