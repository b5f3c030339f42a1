"""Statistics of a few seeds on a few tasks (Agarwal et al. 2021, arXiv:2108.13264). Scores of a task are its seeds'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Scores = Mapping[str, Sequence[float]]  # by task


def interquartile_mean(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean of the middle half of the last axis: a quarter of the values, rounded down, is left out at each end."""
    sample = np.sort(np.asarray(values, np.float64), axis=-1)
    count = sample.shape[-1]
    if count == 0:
        raise ValueError("no values")
    middle: npt.NDArray[np.float64] = sample[..., count // 4 : count - count // 4].mean(axis=-1)
    return middle


def bootstrap_interval(
    values: Sequence[float], rng: np.random.Generator, *, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (Efron 1979).

    With very few values it is too narrow; say the number of values beside it.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("no values")
    means = sample[rng.integers(sample.size, size=(resamples, sample.size))].mean(axis=1)
    return _quantiles(means, confidence)


def interquartile_mean_interval(
    scores: Scores, rng: np.random.Generator, *, confidence: float = 0.95, resamples: int = 5_000
) -> tuple[float, float]:
    """Stratified percentile interval of the interquartile mean of all scores.

    Stratified: the seeds of each task are drawn anew among themselves.
    """
    drawn = np.concatenate(list(_redraws(scores, rng, resamples).values()), axis=1)
    return _quantiles(interquartile_mean(drawn), confidence)


def probability_of_improvement(scores: Scores, over: Scores) -> float:
    """P(a seed of `scores` is better than a seed of `over`), ties half, mean over the tasks that both have."""
    tasks = [task for task in scores if task in over]
    if not tasks:
        raise ValueError("no task in common")
    return float(np.mean([_better(np.asarray(scores[t])[None], np.asarray(over[t])[None])[0] for t in tasks]))


def probability_of_improvement_interval(
    scores: Scores, over: Scores, rng: np.random.Generator, *, confidence: float = 0.95, resamples: int = 2_000
) -> tuple[float, float]:
    """Stratified bootstrap interval of `probability_of_improvement`; both sides are drawn anew."""
    left, right = _redraws(scores, rng, resamples), _redraws(over, rng, resamples)
    found = np.mean([_better(left[task], right[task]) for task in scores if task in over], axis=0)
    return _quantiles(found, confidence)


def _redraws(scores: Scores, rng: np.random.Generator, resamples: int) -> dict[str, npt.NDArray[np.float64]]:
    """By task: [resamples, seeds]."""
    samples = {task: np.asarray(values, np.float64) for task, values in scores.items()}
    if not samples or any(sample.size == 0 for sample in samples.values()):
        raise ValueError("no values")
    return {task: sample[rng.integers(sample.size, size=(resamples, sample.size))] for task, sample in samples.items()}


def _better(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[resamples, n] and [resamples, m] -> share of pairs in which the left is larger, ties half: [resamples]."""
    difference = left[:, :, None] - right[:, None, :]
    share: npt.NDArray[np.float64] = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))
    return share


def _quantiles(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
