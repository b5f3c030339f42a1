"""Adam for networks: coefficients of activations in groups of their own, a step without the bookkeeping around it."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from rlkit.nn.learnable import learnable_activations


def make_adam(network: nn.Module, learning_rate: float, eps: float = 1e-8) -> Adam:
    """Fused Adam for all that `network` learns: group 0 the weights, another one for learned activations if any.

    Coefficients of activations have their own learning rate, no weight decay, and in the group's `max_grad_norm` the
    clip that `adam_step` gives each function's gradient; `copies`: functions in each parameter.
    """
    activations = learnable_activations(network).values()
    functions = {part.coefficients: part for part in activations if isinstance(part.coefficients, nn.Parameter)}
    weights = [parameter for parameter in network.parameters() if parameter not in functions]
    groups: list[dict[str, object]] = [{"params": weights}]
    if functions:
        learning = next(iter(functions.values())).learning
        groups.append(
            {
                "params": list(functions),
                "lr": learning_rate * learning.rate_factor,
                "weight_decay": 0.0,
                "max_grad_norm": learning.max_grad_norm,
                "copies": [part.copies or 1 for part in functions.values()],
            }
        )
    return Adam(groups, learning_rate, eps=eps, fused=True)


def _clip_functions(optimizer: Optimizer) -> None:
    """Scale the gradient of each learned activation down to its group's norm, in place."""
    for group in optimizer.param_groups[1:]:
        limit = group.get("max_grad_norm")
        if limit is None:
            continue
        functions = [
            gradient
            for parameter, copies in zip(group["params"], group["copies"], strict=True)
            if parameter.grad is not None
            for gradient in (parameter.grad.view(copies, -1).unbind() if copies > 1 else (parameter.grad,))
        ]
        if functions:
            norms = torch.stack(torch._foreach_norm(functions))
            torch._foreach_mul_(functions, (limit / (norms + 1e-6)).clamp_max_(1.0).unbind())


def clear_gradients(optimizer: Optimizer) -> None:
    """`optimizer.zero_grad()`, which spends most of its time on a record for the profiler."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


@torch.no_grad()
def adam_step(optimizer: Optimizer) -> None:
    """Clip the functions of `make_adam`, then `optimizer.step()`, bit for bit, but quicker for `Adam(fused=True)`.

    Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; less than half of the time if the network is small. What is left
    out: grouping by device and type, hooks on `step`, the record for the profiler. Moments stay in `optimizer.state`,
    which anybody may change between steps. The first step (it makes the moments), a parameter without gradient and any
    other optimiser are left to `optimizer.step()`.
    """
    _clip_functions(optimizer)
    if not _is_plain(optimizer):
        optimizer.step()
        return
    for group in optimizer.param_groups:
        parameters = group["params"]
        states = [optimizer.state[parameter] for parameter in parameters]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        beta1, beta2 = group["betas"]
        torch._fused_adam_(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # moments of amsgrad
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def _is_plain(optimizer: Optimizer) -> bool:
    return type(optimizer) is Adam and all(
        group["fused"]
        and not group["amsgrad"]
        and not group["maximize"]
        and all(optimizer.state[parameter] and parameter.grad is not None for parameter in group["params"])
        for group in optimizer.param_groups
    )
