"""Rational activations: vectors, gradients, kernel against plain torch, and the settings that make them."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, NumericError
from rlkit.nn import rational_fit
from rlkit.nn.activations import make_activation, network_activation, rational_start, sample
from rlkit.nn.config import NetworkConfig
from rlkit.nn.learnable import Learning
from rlkit.nn.rational import Form, Rational, outside_range, rational, rationals, read_coefficients
from rlkit.nn.rational_fit import evaluate, fit
from rlkit.nn.rational_starts import STARTS

A, B = (0.02, 0.5, 1.5, 2.0, 1.0, 0.2), (-1.0, 4.0, 0.5, 0.3)
# x: R, dR/dx, dR/da_0 ... a_5, dR/db_1 ... b_4 at those coefficients, worked out apart from the program
VECTORS = {
    ("A", 0.7): [
        0.528935092, 0.782535658, 0.256178382, 0.179324867, 0.125527407, 0.087869185, 0.061508430, 0.043055901,
        0.094851215, -0.066395851, -0.046477095, -0.032533967,
    ],
    ("A", -1.2): [
        -0.031765981, 0.024390662, 0.105864020, -0.127036824, 0.152444188, -0.182933026, 0.219519631, -0.263423558,
        -0.004035449, 0.004842539, 0.005811047, 0.006973256,
    ],
    ("B", 0.7): [
        0.824721094, 0.963742301, 0.399435996, 0.279605197, 0.195723638, 0.137006547, 0.095904583, 0.067133208,
        -0.230596304, -0.161417413, -0.112992189, -0.079094532,
    ],
    ("B", -1.2): [
        -0.038878063, 0.037943581, 0.129565902, -0.155479083, 0.186574899, -0.223889879, 0.268667855, -0.322401426,
        -0.006044726, 0.007253671, -0.008704405, 0.010445286,
    ],
}  # fmt: skip
C_CONSTANT = {0.7: -0.329423292, -1.2: 0.005037271}  # dR/db_0 of version C at b_0 = 0.9, which else equals B
LIBRARY_LEAKY = (
    0.0297927787, 0.618373526, 2.32330906, 3.05193624, 1.48542033, 0.251024496,
    -1.14195484, 4.39315997, 0.871471231, 0.347196623,
)  # fmt: skip
# target: largest and rms error on [-3, 3] of versions A, B, C with degrees (5, 4), as the method's paper fits them
ERRORS = {
    "relu": ((3.0e-2, 5.1e-3), (3.4e-2, 5.6e-3), (3.4e-2, 5.6e-3)),
    "leaky_relu": ((3.0e-2, 5.0e-3), (3.4e-2, 5.5e-3), (3.4e-2, 5.5e-3)),
    "leaky_relu_0.1": ((2.8e-2, 4.7e-3), (3.1e-2, 5.0e-3), (3.1e-2, 5.0e-3)),
    "tanh": ((4.1e-5, 1.2e-5), (3.5e-6, 8.8e-7), (3.5e-6, 8.8e-7)),
    "silu": ((1.2e-6, 2.8e-7), (1.2e-6, 2.8e-7), (1.2e-6, 2.8e-7)),
    "gelu": ((4.1e-3, 9.7e-4), (9.5e-4, 3.0e-4), (9.5e-4, 3.0e-4)),
    "sigmoid": ((1.9e-5, 4.6e-6), (5.8e-9, 1.1e-9), (5.5e-9, 1.1e-9)),
}
VERSIONS = ("A", "B", "C", "D", "N")
KERNEL_VERSIONS = ("A", "B", "C", "D")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def naive(x, c, form):
    """The formula with powers, under autograd; the derivative of |.| at 0 is torch's 0."""
    a, b = c[: form.terms], c[form.terms :]
    p = sum(a[i] * x**i for i in range(form.terms))
    if form.version == "A":
        return p / (1 + sum(b[k - 1].abs() * x.abs() ** k for k in range(1, form.degrees[1] + 1)))
    first = 0 if form.version == "C" else 1
    inner = sum(b[k - first] * x**k for k in range(first, form.degrees[1] + 1))
    if form.version == "N":
        return p / (1 + inner)
    return p / ((0.1 if form.version == "C" else 1) + inner.abs())


def value_and_gradients(x, c, form, function=rational):
    """R, dR/dx and dR/dc at one point."""
    x, c = x.clone().requires_grad_(), c.clone().requires_grad_()
    y = function(x, c.unsqueeze(0) if function is rational else c, form)
    y.sum().backward()
    return [y.detach(), x.grad, c.grad]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("version", "x"), VECTORS)
def test_vectors(version, x, dtype, tolerance):
    y, dx, dc = value_and_gradients(torch.tensor([x], dtype=dtype), torch.tensor(A + B, dtype=dtype), Form(version))
    found = torch.cat([y, dx, dc])
    torch.testing.assert_close(found, torch.tensor(VECTORS[version, x], dtype=dtype), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize("x", C_CONSTANT)
def test_version_c_equals_b_with_its_constant(x, dtype, tolerance):
    c = torch.tensor((*A, 0.9, *B), dtype=dtype)
    y, dx, dc = value_and_gradients(torch.tensor([x], dtype=dtype), c, Form("C"))
    want = VECTORS["B", x]
    want = [*want[:8], C_CONSTANT[x], *want[8:]]
    torch.testing.assert_close(torch.cat([y, dx, dc]), torch.tensor(want, dtype=dtype), atol=tolerance, rtol=0)


def test_the_library_s_leaky_start():
    c = torch.tensor(LIBRARY_LEAKY, dtype=torch.float64)
    y, dx, dc = value_and_gradients(torch.tensor([0.7], dtype=torch.float64), c, Form())
    assert y.item() == pytest.approx(0.702935566, abs=1e-8)
    assert dx.item() == pytest.approx(1.000227903, abs=1e-8)
    assert dc[6:].tolist() == pytest.approx([0.113525980, -0.079468186, -0.055627730, -0.038939411], abs=1e-8)
    y, dx, _ = value_and_gradients(torch.tensor([-2.0], dtype=torch.float64), c, Form())
    assert (y.item(), dx.item()) == pytest.approx((-0.017831180, -0.006632142), abs=1e-8)
    ends = [value_and_gradients(torch.tensor([x], dtype=torch.float64), c, Form())[0].item() for x in (-10, -6, 6, 10)]
    assert ends == pytest.approx([-2.7265, -0.7537, 5.7493, 9.0189], abs=5e-5)  # linear outside the fitted range


def test_gradients_of_one_function_at_several_places_add_up():
    function = Rational(A + B)
    function(torch.tensor([0.7])).sum().backward(), function(torch.tensor([-1.2])).sum().backward()
    assert function.coefficients.grad[0].item() == pytest.approx(0.362042402, abs=1e-6)
    assert function.coefficients.grad[7].item() == pytest.approx(-0.061553312, abs=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("degrees", [(5, 4), (3, 2), (1, 1), (2, 6)])
def test_gradcheck(version, degrees):
    form = Form(version, degrees)
    c = 0.3 + torch.rand(form.count, generator=rng(1), dtype=torch.float64)
    c = (c * torch.where(torch.rand(form.count, generator=rng(2)) < 0.3, -1.0, 1.0)).unsqueeze(0)
    x = 3 * torch.randn(1000, generator=rng(3), dtype=torch.float64)
    with torch.no_grad():
        q = naive(x, torch.cat((torch.ones(1), torch.zeros(form.terms - 1), c[0, form.terms :])).double(), form)
    x = x[(x.abs() > 1e-2) & ((1 / q - form.base).abs() > 0.05) & (q.abs() < 20)]  # away from kinks and poles
    assert len(x) > 100
    inputs = (x.requires_grad_(), c.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, c: rational(x, c, form), inputs, atol=1e-5, rtol=1e-4, fast_mode=True)


@st.composite
def functions(draw, versions):
    form = Form(draw(st.sampled_from(versions)), (draw(st.integers(1, 8)), draw(st.integers(1, 8))))
    copies = draw(st.integers(1, 3))
    shape = draw(st.sampled_from([(7,), (3, 5), (2, 3, 4, 5), (1100,), (0, 4), (40, 450)]))
    shape = shape if copies == 1 else (copies, *shape)
    seed = draw(st.integers(0, 2**31))
    c = 0.3 * torch.randn(copies, form.count, generator=rng(seed), dtype=torch.float64)
    x = 1.5 * torch.randn(shape, generator=rng(seed + 1), dtype=torch.float64)
    if draw(st.booleans()):
        c[:, draw(st.integers(0, form.count - 1))] = 0
    layout = draw(st.sampled_from(["contiguous", "transposed", "channels_last", "strided"]))
    return form, c, x, layout


def arranged(x, layout):
    if layout == "transposed" and x.dim() >= 2:
        return x.mT.contiguous().mT
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack((x, x), -1)[..., 0]
    return x


def gradients(x, c, form, g, dtype):
    x, c = (t.detach().to(dtype).requires_grad_() for t in (x, c))
    y = rational(x, c, form, len(c))
    y.backward(g.to(dtype))
    assert y.shape == x.shape
    assert y.dtype == dtype
    return y.detach(), x.grad, c.grad


@settings(max_examples=60, deadline=None)
@given(functions(KERNEL_VERSIONS))
def test_the_kernel_equals_plain_torch(case):
    form, c, x, layout = case
    g = torch.randn(x.shape, generator=rng(5), dtype=torch.float64)
    x32, c32 = arranged(x.float(), layout), c.float()
    with torch.no_grad():  # rounding to float32 may move a sum across 0, where the derivative jumps
        near = (1 / rational_denominator(x32.double(), c32.double(), form) - form.base).abs() < 1e-4
        g = g.masked_fill(near.view(g.shape), 0)
    fast = gradients(x32, c32, form, g, torch.float32)
    slow = gradients(x32.double(), c32.double(), form, g, torch.float64)
    for found, want in zip(fast, slow, strict=True):
        scale = want.abs().max().item() if want.numel() else 0.0
        torch.testing.assert_close(found.double(), want, atol=2e-5 * max(scale, 1.0), rtol=1e-4)


def rational_denominator(x, c, form):
    """1 / Q, as the function with numerator 1."""
    one = torch.cat((torch.ones(len(c), 1), torch.zeros(len(c), form.terms - 1)), 1).to(c)
    return rational(x, torch.cat((one, c[:, form.terms :]), 1), form, len(c))


@settings(max_examples=40, deadline=None)
@given(functions(VERSIONS))
def test_plain_torch_equals_powers_under_autograd(case):
    form, c, x, layout = case
    x = arranged(x.masked_fill(x.abs() < 1e-3, 0.5), layout)
    c = torch.where(c == 0, 0.1, c)
    if form.version == "N":
        c[:, form.terms :] *= 1e-3
        x = x.clamp(-1, 1)
    found = gradients(x, c, form, torch.ones_like(x), torch.float64)
    for copy_ in range(len(c)):
        part = x if len(c) == 1 else x[copy_]
        y, dx, dc = value_and_gradients(part.contiguous(), c[copy_], form, naive)
        dc = torch.zeros_like(c[copy_]) if dc is None else dc
        mine = [f if len(c) == 1 else f[copy_] for f in found[:2]]
        torch.testing.assert_close(mine[0], y)
        torch.testing.assert_close(mine[1], dx, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(found[2][copy_], dc, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("version", KERNEL_VERSIONS)
def test_at_zero_the_derivative_of_an_absolute_value_is_one(version):
    """From the identity start b = 0 autograd's 0 would never let b move."""
    for dtype in (torch.float32, torch.float64):
        c = torch.tensor([Form(version).identity()], dtype=dtype)
        _, _, dc = gradients(torch.tensor([0.5, -1.0, 2.0, 0.0]), c, Form(version), torch.ones(4), dtype)
        assert (dc[0, -4:] != 0).all()
        assert torch.allclose(
            rational(torch.tensor([0.5, -1.0]).to(dtype), c, Form(version)).float(), torch.tensor([0.5, -1.0])
        )
    c = torch.tensor([[0.0, 1.0, 0.0, -2.0]], dtype=torch.float32)
    form = Form("A", (1, 2))
    for dtype in (torch.float32, torch.float64):
        _, dx, _ = gradients(torch.tensor([0.0, -0.0]), c, form, torch.ones(2), dtype)
        assert dx.tolist() == [1.0, 1.0]


def test_r_of_x_plus_x_has_the_same_denominator_if_m_is_larger_than_n():
    """(P + x Q) / Q: what recurrent rationals rest on."""
    form = Form("N", (5, 4))
    c = torch.tensor((*A, *B), dtype=torch.float64)
    plus = c.clone()
    plus[1] += 1
    plus[2:6] += c[6:]
    x = torch.linspace(-0.2, 2, 50, dtype=torch.float64)
    torch.testing.assert_close(rational(x, plus[None], form), rational(x, c[None], form) + x)
    form.check_closed()
    with pytest.raises(ConfigError, match=r"activation_degrees is \[4, 4\] for recurrent_rational") as caught:
        Form("A", (4, 4)).check_closed()
    assert "'[5, 4]'" in str(caught.value)


def test_half_precision_goes_in_and_out_and_is_computed_in_float32():
    function = Rational(rational_start("leaky_relu", Form()))
    x = torch.linspace(-3, 3, 10_001).bfloat16()
    y, exact = function(x), function(x.float())
    assert y.dtype == torch.bfloat16
    assert ((y.float() - exact).abs() <= 2.0**-8 * exact.abs().clamp_min(1)).all()
    y.sum().backward()
    assert function.coefficients.grad.dtype == torch.float32
    half = copy.deepcopy(function).to(torch.bfloat16)
    assert half.coefficients.dtype == torch.float32
    assert torch.equal(half.coefficients, function.coefficients)
    assert function.double().coefficients.dtype == torch.float64


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_are_the_same_bits_each_time_and_for_any_number_of_threads(threads):
    before = torch.get_num_threads()
    x, g = torch.randn(64, 1000, generator=rng()), torch.randn(64, 1000, generator=rng(1))
    c = torch.tensor([rational_start("leaky_relu", Form())])
    try:
        torch.set_num_threads(1)
        first = gradients(x, c, Form(), g, torch.float32)
        torch.set_num_threads(threads)
        for _ in range(10):
            again = gradients(x, c, Form(), g, torch.float32)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(before)


def test_nothing_but_x_is_kept_for_the_backward_pass():
    kept = []
    function = Rational(A + B)
    x = torch.randn(50, 30, generator=rng()).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        function(x)
    assert sorted(kept) == [torch.Size([10]), torch.Size([50, 30])]


def test_nan_and_infinity_are_kept():
    function = Rational(A + B)
    x = torch.tensor([1.0, float("nan"), float("inf"), -1.0] * 600, requires_grad=True)
    y = function(x)
    assert torch.equal(torch.isfinite(y), torch.tensor([True, False, False, True] * 600))
    y.sum().backward()
    assert torch.isnan(function.coefficients.grad).all()


def test_copies_have_functions_of_their_own():
    function = Rational(A + B, copies=2)
    with torch.no_grad():
        function.coefficients[10:] *= 2
    x = torch.randn(2, 5, 3, generator=rng()).requires_grad_()
    y = function(x)
    other = Rational(tuple(2 * c for c in A + B))
    assert torch.equal(y[0], Rational(A + B)(x[0]))
    assert torch.equal(y[1], other(x[1]))
    y[1].sum().backward()
    assert not function.coefficients.grad[:10].any()
    other(x[1].detach()).sum().backward()
    assert torch.equal(function.coefficients.grad[10:], other.coefficients.grad)


# --- version D


def test_noise_is_off_in_evaluation_and_right_on_average():
    noisy, plain = Rational(A + B, Form("D"), noise_seed=3), Rational(A + B, Form("B"))
    x = torch.randn(100, generator=rng())
    assert torch.equal(noisy.eval()(x), plain(x))
    noisy.train()
    with torch.no_grad():
        assert torch.equal(noisy(x), plain(x))  # acting, target networks
    many = Rational(A + B, Form("D"), copies=100, noise_seed=3)
    values = torch.cat([many(torch.full((100, 1, 1), 0.7)).detach() for _ in range(100)])
    assert len(values.unique()) > 9_000
    assert values.std() > 0.01
    assert values.mean().item() == pytest.approx(0.824721094, rel=0.01)
    noisy(torch.tensor([0.7])).backward()
    assert noisy.coefficients.grad.abs().min() > 0


def test_noise_continues_from_a_stored_state_and_never_draws_from_the_global_generator():
    def draw(function, count):
        return [function(torch.ones(1)).item() for _ in range(count)]

    whole, resumed = (Rational(A + B, Form("D"), noise_seed=seed) for seed in (3, 4))
    draw(whole, 5)
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    torch.manual_seed(1)
    want = draw(whole, 5)
    torch.manual_seed(2)
    resumed.load_state_dict(state)
    assert draw(resumed, 5) == want
    assert len(set(want)) == 5


# --- version N


def test_a_pole_is_reported_with_layer_and_value():
    function = Rational((0.0, 1.0, 1.0), Form("N", (1, 1)))
    function.address = "torso.act1"
    assert torch.equal(function(torch.tensor([1.0])), torch.tensor([0.5]))
    with pytest.raises(
        NumericError, match=r"denominator of torso\.act1 is -0\.000\d* at the input -1\.000\d*"
    ) as caught:
        function(torch.tensor([[3.0, -1.0005]]))
    assert "--network.activation_version A" in str(caught.value)


# --- starts


@pytest.mark.parametrize("target", ERRORS)
@pytest.mark.parametrize("version", ["A", "B", "C"])
def test_stored_starts_are_as_close_as_the_paper_s(version, target):
    """The references have two digits, so that 5 % of them and their rounding are allowed."""
    form = Form(version)
    x = np.linspace(-3, 3, 6001)
    error = evaluate(x, np.array(STARTS[target, version, (5, 4)]), form)[0] - sample(target, x)[0][:, 0]
    largest, rms = ERRORS[target]["ABC".index(version)]
    assert np.abs(error).max() <= 1.07 * largest
    assert np.sqrt(np.mean(error**2)) <= 1.07 * rms


@pytest.mark.parametrize("key", STARTS, ids=str)
def test_every_stored_start_is_like_its_target(key):
    target, version, degrees = key
    form = Form(version, degrees)
    x = np.linspace(-3, 3, 601)
    value, slope = evaluate(x, np.array(STARTS[key]), form)
    assert slope.shape == (601, form.count)
    assert np.abs(value - sample(target, x)[0][:, 0]).max() < 0.2


def test_a_fit_gives_the_stored_start_again():
    found = fit(lambda x: np.where(x >= 0, x, 0.01 * x), Form())
    assert found.coefficients == pytest.approx(STARTS["leaky_relu", "A", (5, 4)], rel=1e-4)
    assert found.largest_error == pytest.approx(2.98e-2, rel=0.01)
    assert found.rms_error < 5.1e-3


def test_what_is_not_stored_is_fitted():
    start = rational_start("softplus", Form("B", (4, 2)))
    x = np.linspace(-3, 3, 100)
    assert np.abs(evaluate(x, np.array(start), Form("B", (4, 2)))[0] - np.log1p(np.exp(x))).max() < 2e-3


def test_a_fit_with_a_pole_is_refused(monkeypatch):
    monkeypatch.setattr(rational_fit, "_DENOMINATORS", (1.0,))  # 1 + x: a pole from the start
    with pytest.raises(NumericError, match="was found without a pole"):
        fit(lambda x: 1 / (x - 0.5005), Form("N", (1, 1)))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_identity_start_is_exact(version):
    form = Form(version, (4, 3))
    function = Rational(rational_start("identity", form), form).eval()
    x = torch.linspace(-4, 4, 100)
    torch.testing.assert_close(function(x), x)


def test_a_file_of_coefficients(tmp_path):
    path = tmp_path / "learned.json"
    path.write_text(json.dumps({"version": "A", "numerator": A, "denominator": B}))
    assert rational_start(str(path), Form()) == [*A, *B]
    with pytest.raises(ConfigError, match=r"version A and degrees \[5, 4\]") as caught:
        rational_start(str(path), Form("A", (3, 2)))
    assert "--network.activation_degrees '[5, 4]'" in str(caught.value)
    with pytest.raises(ConfigError, match=r"version A and degrees \[5, 4\]"):
        read_coefficients(path, Form("B"))
    for text in ("", "[]", '{"version": "A"}', '{"version": "A", "numerator": [NaN], "denominator": [1]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="no coefficients can be read from"):
            read_coefficients(path, Form())
    with pytest.raises(ConfigError, match="no coefficients can be read from"):
        read_coefficients(tmp_path / "absent.json", Form())


def test_bad_starts_are_refused():
    with pytest.raises(ConfigError, match="unknown activation 'leakyrelu'") as caught:
        rational_start("leakyrelu", Form())
    assert "Did you mean 'leaky_relu'?" in str(caught.value)
    for name in ("crelu", "rational"):
        with pytest.raises(ConfigError, match=f"activation_start is '{name}'"):
            rational_start(name, Form())
    with pytest.raises(ConfigError, match="9 coefficients for a rational of version A"):
        Rational((*A, *B[:3]))


# --- in networks


def test_settings_reach_the_function():
    network = NetworkConfig(
        activation="rational", activation_version="C", activation_degrees=(3, 2), activation_start="tanh",
        activation_rate_factor=0.1, activation_max_grad_norm=None,
    )  # fmt: skip
    function = network_activation(network, copies=2)
    assert function.form == Form("C", (3, 2))
    assert function.learning == Learning(0.1, None)
    assert function.coefficients.tolist() == pytest.approx(STARTS["tanh", "C", (3, 2)] * 2)
    plain = make_activation("rational")
    assert plain.form == Form()
    assert plain.coefficients.tolist() == pytest.approx(STARTS["leaky_relu", "A", (5, 4)])


def test_frozen_coefficients_are_no_parameters():
    function = network_activation(NetworkConfig(activation="rational", activation_rate_factor=0))
    assert not list(function.parameters())
    assert "coefficients" in function.state_dict()
    x = torch.randn(10, generator=rng()).requires_grad_()
    function(x).sum().backward()
    y = make_activation("rational")(x2 := x.detach().clone().requires_grad_())
    y.sum().backward()
    torch.testing.assert_close(x.grad, x2.grad)


def test_the_share_of_inputs_outside_the_fitted_range():
    for function in (make_activation("rational"), make_activation("rational").double()):
        dtype = function.coefficients.dtype
        function(torch.tensor([-3.5, -3.0, 0.0, 2.9, 3.1], dtype=dtype).requires_grad_()).sum().backward()
        assert outside_range(rationals(function))["activation_outside_range"].item() == pytest.approx(0.4)
    assert outside_range([]) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_degrees": (5,)},
        {"activation_degrees": (5, 0)},
        {"activation_groups": (2, 0)},
        {"activation_rate_factor": -1.0},
        {"activation_rate_factor": float("nan")},
        {"activation_max_grad_norm": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=rf"network\.{next(iter(changes))}"):
        NetworkConfig(**changes)
    with pytest.raises(ConfigError, match="activation_version is 'E'"):
        Form("E")


@pytest.mark.gpu
@pytest.mark.parametrize("version", VERSIONS)
def test_a_gpu_gives_the_same(version):
    form = Form(version)
    c = 0.3 * torch.rand(2, form.count, generator=rng())
    x = torch.randn(2, 300, 40, generator=rng(1)).abs()
    g = torch.randn(x.shape, generator=rng(2))
    here, there = gradients(x, c, form, g, torch.float32), gradients(x.cuda(), c.cuda(), form, g.cuda(), torch.float32)
    again = gradients(x.cuda(), c.cuda(), form, g.cuda(), torch.float32)
    for a, b, d in zip(here, there, again, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-3)
        assert torch.equal(b, d)
