"""Every formula that an agent uses, as a pure function with its source; tested on vectors worked by hand."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rlkit.core.shapes import check_shapes

TemperatureFactor = Literal["temperature", "log_temperature"]


def q_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_q_select: Tensor) -> Tensor:
    """y = R + D * next_q[argmax_a next_q_select].

    van Hasselt et al. 2016 (arXiv:1509.06461), "Double DQN"; next_q_select = next_q: Mnih et al. 2015, algorithm 1.
    reward: [B] n-step return R, reward units. discount: [B] D = gamma^K (1 - terminated).
    next_q, next_q_select: [B, A] at the window's last observation (the true final frame if truncated).
    Returns [B], reward units, no gradient.
    """
    check_shapes(reward, "B", discount, "B", next_q, "B A", next_q_select, "B A")
    best = next_q_select.argmax(-1, keepdim=True)
    return (reward + discount * next_q.gather(-1, best).squeeze(-1)).detach()


def huber(td_error: Tensor, threshold: float) -> Tensor:
    """e^2 / 2 for |e| <= threshold k, else k (|e| - k / 2), elementwise.

    Huber 1964. Its gradient is e clipped to [-k, k]: at k = 1 Mnih et al. 2015's clipped error term. k = inf: e^2 / 2.
    """
    size = td_error.abs()
    quadratic = size.clamp(max=threshold)  # this form has no inf * 0 at threshold = inf
    return quadratic * (size - 0.5 * quadratic)


def weighted_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    """mean_b w_b loss_b: divided by B, not by the sum of the weights (Schaul et al. 2016, arXiv:1511.05952, alg. 1).

    loss: [B]. weight: [B] importance weights, None = ones. Returns a scalar.
    """
    if weight is None:
        check_shapes(loss, "B")
        return loss.mean()
    check_shapes(loss, "B", weight, "B")
    return (weight * loss).mean()


def sac_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_log_prob: Tensor, temperature: Tensor) -> Tensor:
    """y = R + D (min_k next_q_k - temperature * log pi(a'|s')).

    Haarnoja et al. 2018b (arXiv:1812.05905), equations 2, 3 and section 6; D carries gamma^K (1 - terminated).
    reward, discount: [B]. next_q: [K, B] of the target critics at a' ~ pi(s'). next_log_prob: [B] nats.
    temperature: scalar, reward units per nat. Returns [B], reward units, no gradient.
    """
    check_shapes(reward, "B", discount, "B", next_q, "K B", next_log_prob, "B", temperature, "")
    return (reward + discount * (next_q.amin(0) - temperature * next_log_prob)).detach()


def sac_critic(td_error: Tensor, weight: Tensor | None) -> Tensor:
    """sum_k mean_b w_b e_kb^2: arXiv:1812.05905, equation 5, without its 1/2, as CleanRL and SimBa have it.

    td_error: [K, B] y - Q_k(s, a). weight: [B], None = ones. Returns a scalar, reward units squared.
    """
    return weighted_mean(td_error.square().sum(0), weight)


def sac_actor(log_prob: Tensor, q: Tensor, temperature: Tensor) -> Tensor:
    """mean_b (temperature * log pi(a|s) - min_k Q_k(s, a)), a reparameterised.

    Haarnoja et al. 2018b (arXiv:1812.05905), equation 9. log_prob: [B] nats. q: [K, B], critics frozen.
    temperature: scalar without gradient. Returns a scalar, reward units.
    """
    check_shapes(log_prob, "B", q, "K B", temperature, "")
    return (temperature * log_prob - q.amin(0)).mean()


def sac_temperature(
    log_temperature: Tensor, log_prob: Tensor, target_entropy: float, *, factor: TemperatureFactor = "temperature"
) -> Tensor:
    """-mean_b factor (log pi + target_entropy), factor = exp(log_temperature), or log_temperature itself.

    Haarnoja et al. 2018b (arXiv:1812.05905), equation 18, on the logarithm; many ports, ACE's code among them, multiply
    by the logarithm itself, and the step no longer depends on the temperature.
    log_temperature: scalar. log_prob: [B] nats, its gradient is cut. Returns a scalar.
    """
    check_shapes(log_temperature, "", log_prob, "B")
    kappa = log_temperature if factor == "log_temperature" else log_temperature.exp()
    return -kappa * (log_prob.detach().mean() + target_entropy)


def action_log_prob(log_prob: Tensor, weight: Tensor | None) -> Tensor:
    """sum_i w_i log pi(a_i|s), None = ones: the log-density of the action.

    Other weights: minus the mean is the causality-weighted entropy of Ji et al. 2024 (arXiv:2402.14528) as their code
    has it. log_prob: [B, A] nats. weight: [A] of sum A. Returns [B] nats.
    """
    if weight is None:
        check_shapes(log_prob, "B A")
        return log_prob.sum(-1)
    check_shapes(log_prob, "B A", weight, "A")
    return (log_prob * weight).sum(-1)


def causal_weight(effect: Tensor, temperature: float) -> Tensor:
    """w = A softmax(effect / temperature): sum A, mean 1.

    Code of Ji et al. 2024 (arXiv:2402.14528), there with temperature 1; in the paper the weight is the effect itself.
    effect: [A] of each action dimension on the reward. Returns [A].
    """
    check_shapes(effect, "A")
    return len(effect) * torch.softmax(effect / temperature, -1)


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target <- target + rate (online - target), in place for every parameter (arXiv:1509.02971, algorithm 1)."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)
