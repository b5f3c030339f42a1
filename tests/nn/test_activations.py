"""The table of activations: every line's vector against its formula and against the module; learned formulas."""

import math
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.nn import elementwise, learnable
from rlkit.nn.activations import ACTIVATIONS, LINES, RATIONAL, find, make_activation, network_activation, sample
from rlkit.nn.config import NetworkConfig
from rlkit.nn.rational import Form
from rlkit.nn.rational_starts import STARTS

ARITHMETIC = {
    "exp": mpmath.exp, "log": mpmath.log, "tanh": mpmath.tanh, "sqrt": mpmath.sqrt, "sin": mpmath.sin,
    "cos": mpmath.cos, "atan": mpmath.atan, "asinh": mpmath.asinh, "erf": mpmath.erf, "sign": mpmath.sign,
    "Phi": mpmath.ncdf, "pi": mpmath.pi, "abs": abs, "max": max, "min": min,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
    "where": lambda condition, yes, no: yes if condition else no,
}  # fmt: skip


def by_formula(line, x):
    """(outputs, derivatives) of the text of the formula, in 20 digits."""
    names = dict(line.learned)
    if line.name in RATIONAL:
        start = STARTS["leaky_relu", "A", Form().degrees]
        names = {f"a{i}": start[i] for i in range(6)} | {f"b{k}": start[5 + k] for k in range(1, 5)}
    parts = [
        lambda x, part=part: eval(part, ARITHMETIC | {k: mpmath.mpf(v) for k, v in names.items()} | {"x": x})
        for part in line.formula.split("; ")
    ]
    with mpmath.workdps(20):
        at = mpmath.mpf(x)
        return [float(part(at)) for part in parts] + [float(mpmath.diff(part, at)) for part in parts]


def test_there_are_enough_and_each_is_described():
    assert len(LINES) == len(ACTIVATIONS) >= 50
    for line in LINES:
        assert line.paper or line.name == "identity"
        assert len(line.values) == 2
    own = {line.name for line in LINES if not line.torch and not line.learns and line.outputs == 1}
    assert own == set(elementwise.FUNCTIONS)
    assert {line.name for line in LINES if line.learned} == set(learnable.FORMULAS)
    assert {line.name for line in LINES if line.outputs == 2} == set(elementwise.DOUBLING)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_the_vector_is_what_the_formula_says(line):
    for x, *values in line.values:
        assert by_formula(line, x) == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_the_module_gives_the_vector(line):
    x = np.array([row[0] for row in line.values])
    values, slopes = sample(line.name, x)
    found = np.concatenate([values, slopes], axis=1)
    np.testing.assert_allclose(found, [row[1:] for row in line.values], atol=2e-7)  # coefficients are float32
    single = make_activation(line.name)(torch.tensor(x, dtype=torch.float32).unsqueeze(-1))
    np.testing.assert_allclose(single.detach().numpy(), values, atol=1e-5)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_gradients_are_finite_far_out_and_at_the_knots(line):
    x = torch.tensor([-80.0, -3.0, -2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 80.0], requires_grad=True)
    module = make_activation(line.name)
    y = module(x.unsqueeze(-1))
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert line.learns == bool(list(module.parameters()))


def test_torch_s_own_are_torch_s():
    assert isinstance(make_activation("silu"), nn.SiLU)
    assert isinstance(make_activation("hard_swish"), nn.Hardswish)


def test_the_table_is_read_without_torch():
    code = "import sys, rlkit.nn.activations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- formulas with parameters: value, derivative and gradients of the parameters, worked out apart from the program

FORMULAS = [
    (learnable.swish, 0.7, (1.5,), 0.518542429, 0.942403720, (0.094093449,)),
    (learnable.swish, -1.3, (1.5,), -0.161919366, -0.088074289, (0.184277294,)),
    (learnable.smelu, 0.3, (1.0,), 0.4225, 0.65, (0.2275,)),
    (learnable.smelu, -0.2, (0.5,), 0.045, 0.3, (0.21,)),
    (learnable.generalised_smelu, 0.3, (0.05, 1, 0.5, 1.5, 0), 0.167, 0.43, (0.14, 0.16, 0.304, -0.076, 1)),
    (learnable.generalised_smelu, 2.0, (0.05, 1, 0.5, 1.5, 0), 1.525, 1.0, (0.5, 1.5, 0.475, -0.475, 1)),
    (learnable.generalised_smelu, -2.0, (0.05, 1, 0.5, 1.5, 0), -0.1, 0.05, (-2, 0, 0, 0, 1)),
    (learnable.elephant, 0.7, (1, 4, 1), 0.806386582, -0.892155786, (0.624509050, 0.055686683, 0.806386582)),
    (learnable.elephant, -0.6, (0.5, 4, 2), 0.650702759, 2.926638125, (3.511965750, -0.080038383, 0.325351379)),
    (learnable.pelu, 0.7, (1, 2), 0.35, 0.5, (0.35, -0.175)),
    (learnable.pelu, -1.3, (1, 2), -0.477954223, 0.261022888, (-0.477954223, 0.169664877)),
    (learnable.xatlu, 0.7, (0.2,), 0.540512110, 0.981518337, (0.272160157,)),
    (learnable.xatlu, -1.3, (0.2,), -0.119860208, -0.123161919, (0.757342560,)),
    (learnable.xgelu, 0.7, (0.2,), 0.602875621, 1.167259742, (0.361250887,)),
    (learnable.xgelu, -1.3, (0.2,), 0.083823118, -0.376370159, (1.048318740,)),
    (learnable.xsilu, 0.7, (0.2,), 0.514824017, 0.952741497, (0.235462881,)),
    (learnable.xsilu, -1.3, (0.2,), -0.129780331, -0.206471996, (0.743170956,)),
    (learnable.prelu, -1.3, (0.25,), -0.325, 0.25, (-1.3,)),
]


@pytest.mark.parametrize(("function", "x", "parameters", "y", "dy", "gradients"), FORMULAS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_formulas_and_their_gradients(function, x, parameters, y, dy, gradients, dtype, tolerance):
    inputs = [torch.tensor(float(value), dtype=dtype, requires_grad=True) for value in (x, *parameters)]
    value = function(*inputs)
    value.backward()
    found = [value.item(), *(inputs[i].grad.item() for i in range(len(inputs)))]
    assert found == pytest.approx([y, dy, *gradients], abs=tolerance)


def test_dsilu_vectors_and_extremes():
    x = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    y = elementwise.dsilu(x)
    assert y.tolist() == pytest.approx([0.823386783, -0.004622854], abs=1e-8)
    y.sum().backward()
    assert x.grad.tolist() == pytest.approx([0.391220595, 0.211522270], abs=1e-8)
    assert elementwise.dsilu(torch.tensor(2.39936)).item() == pytest.approx(1.09984, abs=1e-5)


def test_helu_is_relu_whose_gradient_reaches_below_zero():
    x = torch.tensor([-0.03, -0.05, 0.2], dtype=torch.float64, requires_grad=True)
    y = elementwise.helu(x, 0.05)
    assert y.tolist() == [0, 0, 0.2]
    y.sum().backward()
    assert x.grad.tolist() == [1, 0, 1]


def test_elephant_at_zero():
    x = torch.zeros(1, requires_grad=True)
    module = make_activation("elephant")
    y = module(x)
    assert y.item() == 1
    y.backward()
    assert x.grad.item() == 0
    assert not math.isnan(module.coefficients.grad.sum())


@pytest.mark.parametrize("name", learnable.FORMULAS)
def test_copies_of_a_formula_have_coefficients_of_their_own(name):
    both, one = network_activation(NetworkConfig(activation=name), copies=2), make_activation(name)
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both(x)[0], one(x[0]))
    both(x)[1].sum().backward()
    first, second = both.coefficients.grad.view(2, -1)
    assert not first.any()
    assert second.any()


# --- what a user may get wrong


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown activation 'gelo'") as caught:
        make_activation("gelo")
    assert "Did you mean 'gelu'?" in str(caught.value)
    assert find("gelu").torch == "GELU"


def test_two_outputs_where_there_is_room_for_one():
    with pytest.raises(ConfigError, match="'crelu' where the width cannot double"):
        network_activation(NetworkConfig(activation="crelu"), may_double=False)
    assert network_activation(NetworkConfig(activation="silu"), may_double=False)(torch.ones(3)).shape == (3,)


@pytest.mark.parametrize("name", ["relu", "recurrent_rational"])
def test_groups_need_functions_to_share(name):
    with pytest.raises(ConfigError, match=rf"activation_groups is \[1, 1\] for {name}"):
        network_activation(NetworkConfig(activation=name, activation_groups=(1, 1)))
