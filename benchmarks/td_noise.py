"""How much of TD(0)'s noise is the order of the draws? With replacement, without it inside a batch, and RR-C.

    .venv/bin/python benchmarks/td_noise.py

A random Markov reward process (50 states, 5 successors each) gives 2,000 stored transitions with unit reward noise.
Tabular TD(0) passes over them 30 times in batches of 32, once with each sampler of rlkit.replay and each step size.
The error is the mean squared distance of the values to the fixed point of the stored data, over the states and the
second half of the updates; a pair is one seed, that is one process, one data set and one seed of the samplers.

What reshuffling can lessen is the distance to that empirical fixed point, down to what is printed as `without noise`:
the same updates with every batch replaced by its expectation, which have not converged either. The distance to the true
values, printed as well, is mostly the noise of 2,000 transitions, which no order of drawing them removes.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from common import emit, machine
from rlkit.core.seeding import SeedTree
from rlkit.replay import samplers
from rlkit.replay.samplers.uniform import UniformConfig
from rlkit.report.statistics import bootstrap_interval

Doubles = npt.NDArray[np.float64]

STATES, SUCCESSORS, TRANSITIONS = 50, 5, 2_000
GAMMA, BATCH, EPOCHS = 0.9, 32, 30
UPDATES = EPOCHS * TRANSITIONS // BATCH
STEP_SIZES = np.array([0.02, 0.05, 0.1])
SAMPLERS = {  # name, settings
    "with replacement": ("uniform", None),
    "without replacement in a batch": ("uniform", UniformConfig(replacement=False)),
    "rr-c": ("rr-c", None),
}


class Data:
    """A random process, transitions of it from uniformly drawn states, and the values of both."""

    def __init__(self, rng: np.random.Generator) -> None:
        successors = np.array([rng.choice(STATES, SUCCESSORS, replace=False) for _ in range(STATES)])
        probability = rng.dirichlet(np.ones(SUCCESSORS), STATES)
        mean_reward = rng.standard_normal(STATES)
        self.state = rng.integers(STATES, size=TRANSITIONS)
        pick = (probability[self.state].cumsum(1) < rng.random((TRANSITIONS, 1))).sum(1)
        self.next_state = successors[self.state, np.minimum(pick, SUCCESSORS - 1)]
        self.reward = mean_reward[self.state] + rng.standard_normal(TRANSITIONS)

        process = np.zeros((STATES, STATES))
        np.put_along_axis(process, successors, probability, axis=1)
        self.true_value = np.linalg.solve(np.eye(STATES) - GAMMA * process, mean_reward)
        # Fixed point of TD(0) on the stored transitions: in each state, the sum of r + gamma v(s') - v(s) is 0.
        visit, lead = np.eye(STATES)[self.state], np.eye(STATES)[self.next_state]
        self.matrix, self.vector = visit.T @ (visit - GAMMA * lead), visit.T @ self.reward
        self.batch_value = np.linalg.solve(self.matrix, self.vector)

    def batch_change(self, value: Doubles, batch: npt.NDArray[np.int64]) -> Doubles:
        """What TD(0) with step size 1 adds to `value` [step sizes, states] for the transitions `batch` [B]."""
        state, next_state = self.state[batch], self.next_state[batch]
        td_error = self.reward[batch] + GAMMA * value[:, next_state] - value[:, state]
        return td_error @ np.eye(STATES)[state]  # a state may be in the batch more than once

    def expected_change(self, value: Doubles) -> Doubles:
        """Its mean over all batches."""
        return BATCH / TRANSITIONS * (self.vector - value @ self.matrix.T)


def learning_error(data: Data, batches: npt.NDArray[np.int64] | None) -> Doubles:
    """TD(0) on `batches` [U, B], None = their expectation: the errors [2, step sizes] of `main`."""
    value = np.zeros((len(STEP_SIZES), STATES))
    error = np.zeros((2, len(STEP_SIZES)))
    half = UPDATES // 2
    for update in range(UPDATES):
        change = data.expected_change(value) if batches is None else data.batch_change(value, batches[update])
        value += STEP_SIZES[:, None] * change
        if update >= half:
            error += [np.square(value - target).mean(1) for target in (data.batch_value, data.true_value)]
    return error / (UPDATES - half)


def drawn(name: str, config: object, seed: int) -> npt.NDArray[np.int64]:
    """The batches [U, B] of all epochs from sampler `name` over the stored transitions."""
    sampler = samplers.make(name, TRANSITIONS, seed, config)
    sampler.extend(np.arange(TRANSITIONS), np.arange(TRANSITIONS))
    return np.array([sampler.sample(BATCH)[0] for _ in range(UPDATES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    pairs = parser.parse_args().pairs
    emit(benchmark="td_noise", pairs=pairs, gamma=GAMMA, batch_size=BATCH, epochs=EPOCHS, **machine())
    distance = np.empty(pairs)  # of the fixed point from the true values: what no order of draws can change
    errors = np.empty((2, len(SAMPLERS), pairs, len(STEP_SIZES)))  # to the batch's, to the true values
    without_noise = np.empty((2, pairs, len(STEP_SIZES)))
    for pair in range(pairs):
        seeds = SeedTree(pair)
        data = Data(seeds.generator("process"))
        distance[pair] = np.square(data.batch_value - data.true_value).mean()
        for i, (name, config) in enumerate(SAMPLERS.values()):
            errors[:, i, pair] = learning_error(data, drawn(name, config, seeds.integer("sampler")))
        without_noise[:, pair] = learning_error(data, None)
    emit(fixed_point_to_true_values=round(float(distance.mean()), 4))
    rng = np.random.default_rng(0)
    for k, step_size in enumerate(STEP_SIZES):
        for target, name in enumerate(("fixed point of the stored data", "true values")):
            error = errors[target, :, :, k]  # [samplers, pairs]
            ratio = error[2] / error[0]  # rr-c / with replacement
            low, high = bootstrap_interval(ratio, rng)
            emit(
                step_size=step_size,
                error_to=name,
                mean=dict(zip(SAMPLERS, error.mean(1).round(4).tolist(), strict=True)),
                standard_error=dict(zip(SAMPLERS, (error.std(1, ddof=1) / pairs**0.5).round(4).tolist(), strict=True)),
                without_noise=round(float(without_noise[target, :, k].mean()), 4),
                ratio_rr_c_to_with_replacement=round(float(ratio.mean()), 3),
                ratio_95=[round(low, 3), round(high, 3)],
                pairs_rr_c_better=int((ratio < 1).sum()),
            )


if __name__ == "__main__":
    main()
