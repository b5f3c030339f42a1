"""What rational activations cost: alone, in an update of DQN on the Nature network, in an update of SAC.

    benchmarks/setup_peers.sh && .venv/bin/python benchmarks/activations.py --threads 1,2 --rounds 15

Cases of a round take turns. `op`: forward and backward of one layer, ReLU, ours (degrees 5 and 4), the formula with
powers and by Horner's rule under autograd; and in processes of their own the `rational-activations` package. `dqn`,
`sac`: the agent's whole update on ready batches, ReLU against rational and joint; `script` is SAC with ReLU as a plain
script writes it. `kept`: bytes that the forward pass keeps for the backward pass, in sizes of x.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import OWN_PYTHON, PEERS_PYTHON, emit, interleave, machine, paired_ratios, worker

SHAPES = {"conv 32x32x20x20": (32, 32, 20, 20), "linear 256x512": (256, 512)}
OBSERVATIONS, ACTIONS, BATCH = 24, 6, 256
BATCHES = 4


def repeated(step: Callable[[], object], seconds: float) -> Callable[[], float]:
    """A case of a round: seconds a call, over about `seconds`."""
    for _ in range(3):
        step()
    start = time.perf_counter()
    step()
    count = max(3, round(seconds / (time.perf_counter() - start)))

    def measure() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - begin) / count

    return measure


def forward_and_backward(module: object, shape: tuple[int, ...]) -> Callable[[], object]:
    import torch

    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(shape, generator=generator) for _ in range(2))

    def step() -> None:
        x.requires_grad_(True)
        x.grad = None
        module(x).backward(g)

    return step


def op_modules() -> dict[str, object]:
    import torch
    from torch import nn

    from rlkit.nn.activations import make_activation

    start = make_activation("rational").coefficients.detach()

    class ByAutograd(nn.Module):
        """Version A written down."""

        def __init__(self, horner: bool) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(start[:6].clone()), nn.Parameter(start[6:].clone())
            self.horner = horner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b, u = self.a, self.b.abs(), x.abs()
            if self.horner:
                p = ((((a[5] * x + a[4]) * x + a[3]) * x + a[2]) * x + a[1]) * x + a[0]
                return p / ((((b[3] * u + b[2]) * u + b[1]) * u + b[0]) * u + 1)
            p = sum(a[i] * x**i for i in range(6))
            return p / (1 + sum(b[k] * u ** (k + 1) for k in range(4)))

    return {
        "relu": nn.ReLU(),
        "rational": make_activation("rational"),
        "powers": ByAutograd(horner=False),
        "horner": ByAutograd(horner=True),
    }


def kept_sizes(module: object, shape: tuple[int, ...]) -> float:
    import torch

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    return sum(kept.values()) / (4 * x.numel())


def seconds_of_op(who: str, shape: str, seconds: float) -> float:
    """One process's measurement of the op, for the package that lives in an environment of its own."""
    if who == "package":
        from rational.torch import Rational

        module = Rational(approx_func="leaky_relu", degrees=(5, 4), cuda=False, version="A")
    else:
        from rlkit.nn.activations import make_activation

        module = make_activation("rational")
    return repeated(forward_and_backward(module, SHAPES[shape]), seconds)()


def dqn_step(activation: str) -> Callable[[], object]:
    import gymnasium as gym
    import torch
    from tensordict import TensorDict

    from rlkit.agents import dqn
    from rlkit.agents.agent import AgentInputs
    from rlkit.core.seeding import SeedTree
    from rlkit.nn.config import NetworkConfig

    generator = torch.Generator().manual_seed(0)
    inputs = AgentInputs((4, 84, 84), "uint8", gym.spaces.Discrete(4), SeedTree(0), "cpu", 10**6, 0)
    agent = dqn.build(inputs, dqn.DQNConfig(), NetworkConfig(hidden=(512,), activation=activation))

    def frames() -> torch.Tensor:
        return torch.randint(0, 256, (32, 4, 84, 84), generator=generator, dtype=torch.uint8)

    batches = [
        TensorDict(
            {
                "observation": frames(),
                "action": torch.randint(0, 4, (32,), generator=generator),
                "next": {"observation": frames(), "reward": torch.rand(32, generator=generator)},
                "discount": torch.full((32,), 0.99),
            },
            batch_size=[32],
        )
        for _ in range(BATCHES)
    ]
    return in_turn(agent.update, batches)


def in_turn(update: Callable[[object], object], batches: list[object]) -> Callable[[], object]:
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        update(batches[calls % len(batches)])

    return step


def sac_batches() -> list[object]:
    import torch
    from tensordict import TensorDict

    generator = torch.Generator().manual_seed(0)
    return [
        TensorDict(
            {
                "observation": torch.randn(BATCH, OBSERVATIONS, generator=generator),
                "action": torch.rand(BATCH, ACTIONS, generator=generator) * 2 - 1,
                "next": {
                    "observation": torch.randn(BATCH, OBSERVATIONS, generator=generator),
                    "reward": torch.rand(BATCH, generator=generator),
                },
                "discount": torch.full((BATCH,), 0.99),
            },
            batch_size=[BATCH],
        )
        for _ in range(BATCHES)
    ]


def sac_step(activation: str) -> Callable[[], object]:
    """SAC as CleanRL sets it: the actor twice in every second update."""
    import gymnasium as gym

    from rlkit.agents import sac
    from rlkit.agents.agent import AgentInputs
    from rlkit.core.seeding import SeedTree
    from rlkit.nn.config import NetworkConfig

    space = gym.spaces.Box(-1.0, 1.0, (ACTIONS,))
    inputs = AgentInputs((OBSERVATIONS,), "float32", space, SeedTree(0), "cpu", 10**6, 0)
    config = sac.SACConfig(critic_learning_rate=1e-3, actor_period=2)
    return in_turn(sac.build(inputs, config, NetworkConfig(activation=activation)).update, sac_batches())


def sac_script_step() -> Callable[[], object]:
    """The same work with two critic modules, a pass for each use and ordinary Adam."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    def network(inputs: int, outputs: int) -> nn.Sequential:
        sizes = ((inputs, 256), (256, 256))
        layers = [part for size in sizes for part in (nn.Linear(*size), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(256, outputs))

    actor = network(OBSERVATIONS, 2 * ACTIONS)
    critics = nn.ModuleList(network(OBSERVATIONS + ACTIONS, 1) for _ in range(2))
    targets = copy.deepcopy(critics)
    log_temperature = torch.zeros(1, requires_grad=True)
    adams = [
        torch.optim.Adam(parameters, rate)
        for parameters, rate in ((critics.parameters(), 1e-3), (actor.parameters(), 3e-4), ([log_temperature], 3e-4))
    ]
    updates = 0

    def sample(observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, raw = actor(observation).chunk(2, 1)
        normal = torch.distributions.Normal(mean, (-4 + 6 * raw.tanh()).exp())
        u = normal.rsample()
        action = u.tanh()
        return action, (normal.log_prob(u) - (1 - action**2 + 1e-6).log()).sum(1)

    def lower(nets: nn.ModuleList, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        both = torch.cat((observation, action), 1)
        return torch.min(nets[0](both), nets[1](both)).flatten()

    def descend(adam: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    def update(batch: object) -> None:
        nonlocal updates
        updates += 1
        observation, action = batch["observation"], batch["action"]
        with torch.no_grad():
            next_action, log_prob = sample(batch["next", "observation"])
            soft = lower(targets, batch["next", "observation"], next_action) - log_temperature.exp() * log_prob
            wanted = batch["next", "reward"] + batch["discount"] * soft
        both = torch.cat((observation, action), 1)
        descend(adams[0], sum(F.mse_loss(net(both).flatten(), wanted) for net in critics))
        if updates % 2 == 0:
            for _ in range(2):
                new_action, log_prob = sample(observation)
                temperature = log_temperature.exp().item()
                descend(adams[1], (temperature * log_prob - lower(critics, observation, new_action)).mean())
                descend(adams[2], -(log_temperature.exp() * (log_prob.detach() - ACTIONS / 2)).mean())
        with torch.no_grad():
            for target, online in zip(targets.parameters(), critics.parameters(), strict=True):
                target.copy_(0.005 * online + 0.995 * target)

    return in_turn(update, sac_batches())


def report(case: str, threads: int, found: dict[str, list[float]], references: tuple[str, ...], **more: object) -> None:
    for name, times in found.items():
        ratios = {f"ratio_to_{other}": paired_ratios(times, found[other]) for other in references if other != name}
        emit(case=case, name=name, threads=threads, ms=round(1000 * statistics.median(times), 4), **ratios, **more)


def measure(threads: int, rounds: int, seconds: float, only: list[str]) -> None:
    import torch

    torch.set_num_threads(threads)
    for shape, size in SHAPES.items() if "op" in only else ():
        modules = op_modules()
        cases = {name: repeated(forward_and_backward(part, size), seconds) for name, part in modules.items()}
        report(f"op {shape}", threads, interleave(cases, rounds), ("relu", "rational"))
        emit(case=f"op {shape}", kept={name: round(kept_sizes(part, size), 3) for name, part in modules.items()})
    for shape in SHAPES if "package" in only else ():

        def run(who: str, shape: str = shape) -> float:
            python = OWN_PYTHON if who == "rational" else PEERS_PYTHON
            words = ["--worker", who, shape, "--seconds", str(seconds), "--threads", str(threads)]
            return worker(python, Path(__file__), *words, threads=threads)

        found = interleave({who: lambda who=who: run(who) for who in ("rational", "package")}, max(3, rounds // 3))
        report(f"op {shape}, a process each", threads, found, ("rational",))
    updates = {
        "dqn": {name: lambda name=name: dqn_step(name) for name in ("relu", "rational", "recurrent_rational")},
        "sac": {name: lambda name=name: sac_step(name) for name in ("relu", "rational", "recurrent_rational")},
    }
    updates["sac"]["script"] = sac_script_step
    for agent in ("dqn", "sac"):
        if agent in only:
            cases = {name: repeated(make(), seconds) for name, make in updates[agent].items()}
            references = ("relu",) if agent == "dqn" else ("relu", "script")
            report(f"{agent} update", threads, interleave(cases, rounds), references)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--only", default="op,package,dqn,sac")
    parser.add_argument("--worker", nargs=2, metavar=("WHO", "SHAPE"))
    arguments = parser.parse_args()
    if arguments.worker:
        import torch

        torch.set_num_threads(int(arguments.threads))
        sys.stdout.write(f"{seconds_of_op(*arguments.worker, arguments.seconds)}\n")
        return
    emit(benchmark="activations", **machine())
    for threads in map(int, arguments.threads.split(",")):
        measure(threads, arguments.rounds, arguments.seconds, arguments.only.split(","))


if __name__ == "__main__":
    main()
