"""Activations by name: the table, and what makes a module of a line. Importing it does not import torch.

Each call makes an instance of its own, so that a forward hook sees one layer's units. Where a name is torch's own the
module is torch's. Definitions that several papers share are those of the survey by Kunc & Klema (arXiv:2402.09092).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.core.errors import ConfigError, look_up

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from rlkit.nn.config import NetworkConfig
    from rlkit.nn.rational import Form

    Array = np.ndarray[Any, np.dtype[np.float64]]

_SEE = "docs/activations.md"
RATIONAL = ("rational", "recurrent_rational")  # each activation its own function, or one for the whole network


@dataclass(frozen=True)
class Line:
    """A line of the table.

    formula: Python over x, numbers and the usual functions (Phi: the normal distribution function; where: a condition
    and two values); "; " between the outputs of those that give two. values: (x, each output, each derivative).
    """

    name: str
    formula: str
    paper: str
    values: tuple[tuple[float, ...], ...]
    torch: str = ""  # class in torch.nn
    learned: tuple[tuple[str, float], ...] = ()  # coefficients in the formula, and where they start

    @property
    def outputs(self) -> int:
        """2 for an activation that returns two functions of each unit one after the other, else 1."""
        return self.formula.count("; ") + 1

    @property
    def learns(self) -> bool:
        """Whether it has coefficients."""
        return bool(self.learned) or self.name in RATIONAL


_RATIONAL = (
    "(a0 + a1*x + a2*x**2 + a3*x**3 + a4*x**4 + a5*x**5) / (1 + abs(b1*x) + abs(b2*x**2) + abs(b3*x**3) + abs(b4*x**4))"
)
_GENERALISED_SMELU = (
    "offset + left * x + (right - left) * where(x <= -alpha, 0,"
    " where(x >= beta, x + (alpha - beta) / 2, (x + alpha)**2 / (2 * (alpha + beta))))"
)

LINES = (
    Line("identity", "x", "", ((0.7, 0.7, 1.0), (-1.3, -1.3, 1.0))),
    Line("relu", "max(x, 0)", "Nair & Hinton 2010, ICML", ((0.7, 0.7, 1.0), (-1.3, 0.0, 0.0)), torch="ReLU"),
    Line(
        "leaky_relu",
        "where(x >= 0, x, 0.01 * x)",
        "Maas et al. 2013, ICML workshop",
        ((0.7, 0.7, 1.0), (-1.3, -0.013, 0.01)),
        torch="LeakyReLU",
    ),
    Line(
        "leaky_relu_0.1",
        "where(x >= 0, x, 0.1 * x)",
        "Maas et al. 2013, ICML workshop",
        ((0.7, 0.7, 1.0), (-1.3, -0.13, 0.1)),
    ),
    Line(
        "prelu",
        "where(x >= 0, x, slope * x)",
        "He et al. 2015, arXiv:1502.01852",
        ((0.7, 0.7, 1.0), (-1.3, -0.325, 0.25)),
        learned=(("slope", 0.25),),
    ),
    Line(
        "relu6",
        "min(max(x, 0), 6)",
        "Krizhevsky 2010, Convolutional deep belief networks on CIFAR-10",
        ((0.7, 0.7, 1.0), (-1.3, 0.0, 0.0)),
        torch="ReLU6",
    ),
    Line("squared_relu", "max(x, 0)**2", "So et al. 2021, arXiv:2109.08668", ((0.7, 0.49, 1.4), (-1.3, 0.0, 0.0))),
    Line("abs", "abs(x)", "Kunc & Klema 2024, arXiv:2402.09092", ((0.7, 0.7, 1.0), (-1.3, 1.3, -1.0))),
    Line(
        "elu",
        "where(x >= 0, x, exp(x) - 1)",
        "Clevert et al. 2016, arXiv:1511.07289",
        ((0.7, 0.7, 1.0), (-1.3, -0.727468206966, 0.272531793034)),
        torch="ELU",
    ),
    Line(
        "celu",
        "where(x >= 0, x, exp(x) - 1)",
        "Barron 2017, arXiv:1704.07483",
        ((0.7, 0.7, 1.0), (-1.3, -0.727468206966, 0.272531793034)),
        torch="CELU",
    ),
    Line(
        "selu",
        "1.0507009873554805 * where(x >= 0, x, 1.6732632423543772 * (exp(x) - 1))",
        "Klambauer et al. 2017, arXiv:1706.02515",
        ((0.7, 0.735490691149, 1.05070098736), (-1.3, -1.27896137515, 0.479137965693)),
        torch="SELU",
    ),
    Line(
        "pelu",
        "where(x >= 0, a / b * x, a * (exp(x / b) - 1))",
        "Trottier et al. 2017, arXiv:1605.09332",
        ((0.7, 0.7, 1.0), (-1.3, -0.727468206966, 0.272531793034)),
        learned=(("a", 1.0), ("b", 1.0)),
    ),
    Line(
        "isrlu",
        "where(x >= 0, x, x / sqrt(1 + x**2))",
        "Carlile et al. 2017, arXiv:1710.09967",
        ((0.7, 0.7, 1.0), (-1.3, -0.792623989105, 0.226658275409)),
    ),
    Line(
        "isru",
        "x / sqrt(1 + x**2)",
        "Carlile et al. 2017, arXiv:1710.09967",
        ((0.7, 0.573462344363, 0.549820080885), (-1.3, -0.792623989105, 0.226658275409)),
    ),
    Line(
        "gelu",
        "x * Phi(x)",
        "Hendrycks & Gimpel 2016, arXiv:1606.08415",
        ((0.7, 0.530625443444, 0.976614101134), (-1.3, -0.125840629961, -0.125978685077)),
        torch="GELU",
    ),
    Line(
        "gelu_tanh",
        "x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))",
        "Hendrycks & Gimpel 2016, arXiv:1606.08415",
        ((0.7, 0.530570134705, 0.976357218656), (-1.3, -0.126070987683, -0.125878069784)),
    ),
    Line(
        "quick_gelu",
        "x * sigmoid(1.702 * x)",
        "Hendrycks & Gimpel 2016, arXiv:1606.08415",
        ((0.7, 0.536893951723, 0.979913142001), (-1.3, -0.128212106617, -0.0980707219336)),
    ),
    Line(
        "silu",
        "x * sigmoid(x)",
        "Elfwing et al. 2018, arXiv:1702.03118",
        ((0.7, 0.467731440518, 0.823386783473), (-1.3, -0.278414522045, -0.00462285425234)),
        torch="SiLU",
    ),
    Line(
        "swish",
        "x * sigmoid(beta * x)",
        "Ramachandran et al. 2017, arXiv:1710.05941",
        ((0.7, 0.467731440518, 0.823386783473), (-1.3, -0.278414522045, -0.00462285425234)),
        learned=(("beta", 1.0),),
    ),
    Line(
        "dsilu",
        "sigmoid(x) * (1 + x * (1 - sigmoid(x)))",
        "Elfwing et al. 2018, arXiv:1702.03118",
        ((0.7, 0.823386783473, 0.391220594678), (-1.3, -0.00462285425234, 0.211522270024)),
    ),
    Line(
        "hard_swish",
        "x * min(max(x + 3, 0), 6) / 6",
        "Howard et al. 2019, arXiv:1905.02244",
        ((0.7, 0.431666666667, 0.733333333333), (-1.3, -0.368333333333, 0.0666666666667)),
        torch="Hardswish",
    ),
    Line(
        "mish",
        "x * tanh(softplus(x))",
        "Misra 2019, arXiv:1908.08681",
        ((0.7, 0.561148377644, 0.9687948682), (-1.3, -0.307382464749, -0.0264009621598)),
        torch="Mish",
    ),
    Line(
        "serf",
        "x * erf(softplus(x))",
        "Nag & Bhattacharyya 2021, arXiv:2108.09598",
        ((0.7, 0.616891350632, 1.03755457628), (-1.3, -0.346806232218, -0.0296551302619)),
    ),
    Line(
        "tanhexp",
        "x * tanh(exp(x))",
        "Liu & Di 2020, arXiv:2003.09855",
        ((0.7, 0.675490512972, 1.0619704083), (-1.3, -0.345772826685, -0.0632479357018)),
    ),
    Line(
        "phish",
        "x * tanh(x * Phi(x))",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.340101326367, 1.00811192173), (-1.3, 0.162734709549, 0.0360254053131)),
    ),
    Line(
        "logish",
        "x * log(1 + sigmoid(x))",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.35821650959, 0.604772368454), (-1.3, -0.252273595211, 0.0138604537206)),
    ),
    Line(
        "smish",
        "x * tanh(log(1 + sigmoid(x)))",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.329908710107, 0.543667650595), (-1.3, -0.249153876009, 0.0180796961892)),
    ),
    Line(
        "lisht",
        "x * tanh(x)",
        "Roy et al. 2019, arXiv:1901.05894",
        ((0.7, 0.423057443982, 1.0486854901), (-1.3, 1.12024010711, -1.19638631503)),
    ),
    Line(
        "elish",
        "sigmoid(x) * where(x >= 0, x, exp(x) - 1)",
        "Basirat & Roth 2018, arXiv:1808.00783",
        ((0.7, 0.467731440518, 0.823386783473), (-1.3, -0.155798240881, -0.0640649319041)),
    ),
    Line(
        "hard_elish",
        "min(max((x + 1) / 2, 0), 1) * where(x >= 0, x, exp(x) - 1)",
        "Basirat & Roth 2018, arXiv:1808.00783",
        ((0.7, 0.595, 1.2), (-1.3, 0.0, 0.0)),
    ),
    Line(
        "xatlu",
        "x * ((1 + 2 * alpha) * (0.5 + atan(x) / pi) - alpha)",
        "Huang 2024, arXiv:2405.20768",
        ((0.7, 0.48608007855, 0.843941669482), (-1.3, -0.271328720208, 0.0548843436401)),
        learned=(("alpha", 0.0),),
    ),
    Line(
        "xgelu",
        "x * ((1 + 2 * alpha) * Phi(x) - alpha)",
        "Huang 2024, arXiv:2405.20768",
        ((0.7, 0.530625443444, 0.976614101134), (-1.3, -0.125840629961, -0.125978685077)),
        learned=(("alpha", 0.0),),
    ),
    Line(
        "xsilu",
        "x * ((1 + 2 * alpha) * sigmoid(x) - alpha)",
        "Huang 2024, arXiv:2405.20768",
        ((0.7, 0.467731440518, 0.823386783473), (-1.3, -0.278414522045, -0.00462285425234)),
        learned=(("alpha", 0.0),),
    ),
    Line(
        "smelu",
        "where(x <= -2, 0, where(x >= 2, x, (x + 2)**2 / 8))",
        "Shamir et al. 2020, arXiv:2010.09931",
        ((0.7, 0.91125, 0.675), (-1.3, 0.06125, 0.175)),
    ),
    Line(
        "generalised_smelu",
        _GENERALISED_SMELU,
        "Shamir et al. 2022, arXiv:2202.06499",
        ((0.7, 0.722275, 0.8515), (-1.3, -0.013, 0.01)),
        learned=(("left", 0.01), ("right", 1.0), ("alpha", 1.0), ("beta", 1.0), ("offset", 0.0)),
    ),
    Line("helu", "max(x, 0)", "arXiv:2411.10573", ((0.7, 0.7, 1.0), (-1.3, 0.0, 0.0))),
    Line(
        "softplus",
        "softplus(x)",
        "Dugas et al. 2000, NIPS",
        ((0.7, 1.10318604889, 0.668187772168), (-1.3, 0.241008453833, 0.214165016957)),
        torch="Softplus",
    ),
    Line(
        "sigmoid",
        "sigmoid(x)",
        "Rumelhart et al. 1986, doi:10.1038/323533a0",
        ((0.7, 0.668187772168, 0.221712873293), (-1.3, 0.214165016957, 0.168298362469)),
        torch="Sigmoid",
    ),
    Line(
        "hard_sigmoid",
        "min(max(x + 3, 0), 6) / 6",
        "Howard et al. 2019, arXiv:1905.02244",
        ((0.7, 0.616666666667, 0.166666666667), (-1.3, 0.283333333333, 0.166666666667)),
        torch="Hardsigmoid",
    ),
    Line(
        "log_sigmoid",
        "log(sigmoid(x))",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, -0.403186048885, 0.331812227832), (-1.3, -1.54100845383, 0.785834983043)),
        torch="LogSigmoid",
    ),
    Line(
        "cloglog",
        "1 - exp(-exp(x))",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.866513203342, 0.268809398182), (-1.3, 0.238550779991, 0.207519121234)),
    ),
    Line(
        "tanh",
        "tanh(x)",
        "LeCun et al. 1998, Efficient BackProp",
        ((0.7, 0.604367777117, 0.634739589982), (-1.3, -0.861723159313, 0.257433196703)),
        torch="Tanh",
    ),
    Line(
        "lecun_tanh",
        "1.7159 * tanh(2 / 3 * x)",
        "LeCun et al. 1998, Efficient BackProp",
        ((0.7, 0.747278077268, 0.926972545112), (-1.3, -1.20057505635, 0.583923827752)),
    ),
    Line(
        "penalised_tanh",
        "where(x >= 0, tanh(x), 0.25 * tanh(x))",
        "Xu et al. 2016, arXiv:1602.05980",
        ((0.7, 0.604367777117, 0.634739589982), (-1.3, -0.215430789828, 0.0643582991758)),
    ),
    Line(
        "hard_tanh",
        "min(max(x, -1), 1)",
        "Collobert 2004, Large scale machine learning",
        ((0.7, 0.7, 1.0), (-1.3, -1.0, 0.0)),
        torch="Hardtanh",
    ),
    Line(
        "tanh_shrink",
        "x - tanh(x)",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.0956322228828, 0.365260410018), (-1.3, -0.438276840687, 0.742566803297)),
        torch="Tanhshrink",
    ),
    Line(
        "soft_shrink",
        "where(abs(x) > 0.5, x - 0.5 * sign(x), 0)",
        "Donoho & Johnstone 1994, doi:10.1093/biomet/81.3.425",
        ((0.7, 0.2, 1.0), (-1.3, -0.8, 1.0)),
        torch="Softshrink",
    ),
    Line(
        "hard_shrink",
        "where(abs(x) > 0.5, x, 0)",
        "Donoho & Johnstone 1994, doi:10.1093/biomet/81.3.425",
        ((0.7, 0.7, 1.0), (-1.3, -1.3, 1.0)),
        torch="Hardshrink",
    ),
    Line(
        "soft_sign",
        "x / (1 + abs(x))",
        "Glorot & Bengio 2010, AISTATS",
        ((0.7, 0.411764705882, 0.346020761246), (-1.3, -0.565217391304, 0.189035916824)),
        torch="Softsign",
    ),
    Line(
        "arctan",
        "atan(x)",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.610725964389, 0.671140939597), (-1.3, -0.915100700553, 0.371747211896)),
    ),
    Line(
        "arcsinh",
        "asinh(x)",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.652666566082, 0.819231920519), (-1.3, -1.07845105895, 0.60971076085)),
    ),
    Line(
        "symlog",
        "sign(x) * log(1 + abs(x))",
        "Hafner et al. 2023, arXiv:2301.04104",
        ((0.7, 0.530628251062, 0.588235294118), (-1.3, -0.832909122935, 0.434782608696)),
    ),
    Line(
        "sqnl",
        "where(abs(x) >= 2, sign(x), x - x * abs(x) / 4)",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.5775, 0.65), (-1.3, -0.8775, 0.35)),
    ),
    Line(
        "bent_identity",
        "x + (sqrt(x**2 + 1) - 1) / 2",
        "Kunc & Klema 2024, arXiv:2402.09092",
        ((0.7, 0.810327780787, 1.28673117218), (-1.3, -0.979939026657, 0.603688005448)),
    ),
    Line(
        "gaussian",
        "exp(-x**2)",
        "Broomhead & Lowe 1988, Complex Systems 2",
        ((0.7, 0.612626394184, -0.857676951858), (-1.3, 0.184519523993, 0.479750762382)),
    ),
    Line(
        "elephant",
        "height / (1 + abs(x / width)**4)",
        "Lan & Mahmood 2023, arXiv:2310.01365",
        ((0.7, 0.806386581727, -0.892155785928), (-1.3, 0.259329374238, 0.591008153524)),
        learned=(("width", 1.0), ("height", 1.0)),
    ),
    Line(
        "sin",
        "sin(x)",
        "Parascandolo et al. 2017, Taming the waves",
        ((0.7, 0.644217687238, 0.764842187284), (-1.3, -0.963558185417, 0.267498828625)),
    ),
    Line(
        "snake",
        "x + sin(x)**2",
        "Ziyin et al. 2020, arXiv:2006.08195",
        ((0.7, 1.11501642855, 1.98544972999), (-1.3, -0.371555623316, 0.484498628179)),
    ),
    Line(
        "gcu",
        "x * cos(x)",
        "Noel et al. 2021, arXiv:2108.12943",
        ((0.7, 0.535389531099, 0.313889806218), (-1.3, -0.347748477212, -0.985126812418)),
    ),
    Line(
        "crelu",
        "max(x, 0); max(-x, 0)",
        "Shang et al. 2016, arXiv:1603.05201",
        ((0.7, 0.7, 0.0, 1.0, 0.0), (-1.3, 0.0, 1.3, 0.0, -1.0)),
    ),
    Line(
        "fourier",
        "sin(x); cos(x)",
        "Lewandowski et al. 2024, arXiv:2410.20634",
        (
            (0.7, 0.644217687238, 0.764842187284, 0.764842187284, -0.644217687238),
            (-1.3, -0.963558185417, 0.267498828625, 0.267498828625, 0.963558185417),
        ),
    ),
    Line(
        "rational",
        _RATIONAL,
        "Molina et al. 2020, arXiv:1907.06732",
        ((0.7, 0.702937140263, 1.00025582251), (-1.3, -0.0189091798014, 0.0159001979756)),
    ),
    Line(
        "recurrent_rational",
        _RATIONAL,
        "Delfosse et al. 2021, arXiv:2102.09407",
        ((0.7, 0.702937140263, 1.00025582251), (-1.3, -0.0189091798014, 0.0159001979756)),
    ),
)
ACTIVATIONS = {line.name: line for line in LINES}


def activation_names() -> tuple[str, ...]:
    """Every name that `make_activation` knows."""
    return tuple(ACTIVATIONS)


def find(name: str, key: str = "network.activation") -> Line:
    """The line called `name`; ConfigError with the nearest and all names, about the setting `key`."""
    fix = f"set {key} to one of them; `rlkit activations` shows their formulas"
    return look_up(ACTIVATIONS, name, "activation", fix=fix, see=_SEE)


def make_activation(name: str, axis: int = -1) -> nn.Module:
    """A new module for `name`, with coefficients at their default start; ConfigError for a name that is not registered.

    axis: of the units, -3 in images.
    """
    from rlkit.nn.config import NetworkConfig

    return network_activation(NetworkConfig(activation=name), axis=axis)


def network_activation(
    network: NetworkConfig,
    rng: torch.Generator | None = None,
    axis: int = -1,
    copies: int | None = None,
    *,
    may_double: bool = True,
) -> nn.Module:
    """The activation that `network` asks for. rng: seeds the noise of rationals of version D.

    axis: of the units, -3 in images. copies: of a batched layer, whose units are then in [copies, B, units].
    may_double: whether what reads it can be twice as wide. Raises ConfigError for an unknown name, settings that the
    activation does not have, a start that cannot be used, and two outputs a unit where there is room for one.
    """
    from torch import nn

    from rlkit.nn.elementwise import DOUBLING, Elementwise
    from rlkit.nn.learnable import FORMULAS, Formula

    line = find(network.activation)
    if line.outputs > 1 and not may_double:
        raise ConfigError(
            f"network.activation is {line.name!r} where the width cannot double",
            why="it returns two outputs a unit, and what reads them has room for one",
            fix="--network.activation relu, or another one of a single output",
            see=_SEE,
        )
    if network.activation_groups and (not line.learns or line.name == "recurrent_rational"):
        raise ConfigError(
            f"network.activation_groups is {list(network.activation_groups)} for {line.name}",
            why="recurrent_rational is one function for the whole network"
            if line.learns
            else f"{line.name} has no coefficients to share",
            fix="leave it out, or --network.activation rational",
            see=_SEE,
        )
    if line.name in RATIONAL:
        return _rational(network, rng, copies, closed=line.name == "recurrent_rational")
    if line.learned:
        return Formula(*FORMULAS[line.name], network.activation_learning, copies)
    if line.name in DOUBLING:
        return DOUBLING[line.name](axis)
    return getattr(nn, line.torch)() if line.torch else Elementwise(line.name)


def _rational(network: NetworkConfig, rng: torch.Generator | None, copies: int | None, *, closed: bool) -> nn.Module:
    import torch

    from rlkit.nn.rational import Rational

    form = network.activation_form
    if closed:
        form.check_closed()
    noise_seed = 0
    if form.version == "D":
        noise_seed = int(torch.randint(2**62, (), generator=rng))
    start = rational_start(network.activation_start, form)
    return Rational(start, form, network.activation_learning, copies, noise_seed)


def rational_start(start: str, form: Form) -> list[float]:
    """Coefficients that make a rational of `form` like `start`: an activation's name, or a file that ends in .json.

    Stored ones where there are some, else fitted now. Raises ConfigError if there is no such name, or the file holds
    something else, NumericError if no fit without a pole is found.
    """
    from rlkit.nn.rational import read_coefficients
    from rlkit.nn.rational_fit import fit
    from rlkit.nn.rational_starts import STARTS

    if start.endswith(".json"):
        return read_coefficients(Path(start), form)
    line = find(start, "network.activation_start")
    if line.outputs > 1 or line.name in RATIONAL:
        raise ConfigError(
            f"network.activation_start is {start!r}",
            why="a rational starts close to a function of one output that is no rational itself",
            fix="--network.activation_start leaky_relu",
            see=_SEE,
        )
    if start == "identity":
        return form.identity()
    stored = STARTS.get((start, "B" if form.version == "D" else form.version, form.degrees))
    return list(fit(lambda x: sample(start, x)[0][:, 0], form).coefficients if stored is None else stored)


def sample(name: str, x: Array) -> tuple[Array, Array]:
    """Values and derivatives of the activation at its start, float64 [N, outputs] each. x: float64 [N]."""
    import torch

    module = make_activation(name).double()
    inputs = torch.from_numpy(x).unsqueeze(-1).requires_grad_()
    values = module(inputs)  # [N, outputs]
    slopes = [torch.autograd.grad(column.sum(), inputs, retain_graph=True)[0] for column in values.unbind(-1)]
    return values.detach().numpy(), torch.cat(slopes, -1).numpy()


def outputs_per_unit(activation: nn.Module) -> int:
    """2 for an activation that returns two functions of each unit one after the other, else 1."""
    return int(getattr(activation, "halves", 1))
