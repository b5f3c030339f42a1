"""Rational activations R(x) = P(x) / Q(x) with learned coefficients (Molina et al. 2020, arXiv:1907.06732).

In deep reinforcement learning: Delfosse et al. 2021 (arXiv:2102.09407). P(x) = sum a_i x^i of degree m; Q by version,
of degree n:

    A  1 + sum |b_k| |x|^k     B  1 + |sum b_k x^k|     C  0.1 + |sum b_k x^k| with b_0     N  1 + sum b_k x^k
    D  B with every coefficient times U(0.9, 1.1) in training: one draw a coefficient and call, for P and Q

Deviates: the derivative of |.| at 0 is 1, so that b moves away from the identity start b = 0 (autograd's 0 would keep
it there for ever). Forward and backward evaluate polynomials by Horner's rule and store x alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError, NumericError
from rlkit.core.seeding import CounterStream
from rlkit.nn.learnable import LEARNING, LearnableActivation, Learning

Version = Literal["A", "B", "C", "D", "N"]
FITTED_RANGE = 3.0  # starts are fitted on [-3, 3]
_NOISE = 0.1  # version D
_NEAR_POLE = 1e-3  # |Q| of version N below which its value means nothing
_SEE = "docs/activations.md"


@dataclass(frozen=True)
class Form:
    """Version and degrees (m, n) of numerator and denominator."""

    version: Version = "A"
    degrees: tuple[int, int] = (5, 4)

    def __post_init__(self) -> None:
        if self.version not in get_args(Version):
            raise ConfigError(
                f"network.activation_version is {self.version!r}",
                why="there are A, B, C and D, whose denominators are bounded away from 0, and N, which has poles",
                fix="--network.activation_version A",
                see=_SEE,
            )
        if len(self.degrees) != 2 or min(self.degrees) < 1:
            raise ConfigError(
                f"network.activation_degrees is {list(self.degrees)}",
                why="there are two, of the numerator and of the denominator, and each is 1 or more",
                fix="--network.activation_degrees '[5, 4]'",
                see=_SEE,
            )

    @property
    def terms(self) -> int:
        """Coefficients of the numerator."""
        return self.degrees[0] + 1

    @property
    def own_constant(self) -> bool:
        """Whether the denominator has a b_0."""
        return self.version == "C"

    @property
    def count(self) -> int:
        """Coefficients in all: a_0 ... a_m, then [b_0,] b_1 ... b_n."""
        return self.terms + self.degrees[1] + self.own_constant

    @property
    def base(self) -> float:
        """What the denominator is at least; of N, what its sum is added to."""
        return 0.1 if self.own_constant else 1.0

    def check_closed(self) -> None:
        """Raise ConfigError unless R(x) + x has the form of R, which is what sharing through a network rests on."""
        m, n = self.degrees
        if m <= n:
            raise ConfigError(
                f"network.activation_degrees is [{m}, {n}] for recurrent_rational",
                why="R(x) + x has a numerator of degree max(m, n + 1): it has the form of R only if m > n",
                fix=f"--network.activation_degrees '[{n + 1}, {n}]'",
                see=_SEE,
            )

    def identity(self) -> list[float]:
        """Coefficients of R(x) = x."""
        denominator = [0.9] * self.own_constant + [0.0] * self.degrees[1]
        return [0.0, 1.0, *[0.0] * (self.degrees[0] - 1), *denominator]


_DEFAULT = Form()


def _horner(x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """p = sum c_k x^k and dp/dx. x: [copies, size], coefficients: [copies, k + 1]."""
    columns = coefficients.unsqueeze(-1).unbind(1)  # [copies, 1] each
    p, slope = columns[-1].expand_as(x), torch.zeros_like(x)
    for column in reversed(columns[:-1]):
        slope = torch.addcmul(p, slope, x)
        p = torch.addcmul(column, p, x)
    return p, slope


def _sign(x: Tensor) -> Tensor:
    """1 where x >= 0, else -1."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def _denominator(x: Tensor, c: Tensor, form: Form) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Q [copies, size], dQ/dx, u whose powers are in it, dQ/d(sum b_k u^k) [copies, size], d(b as used)/db."""
    b = c[:, form.terms :]
    sign_b = torch.ones_like(b)
    if form.version == "A":
        sign_b = _sign(b)
        b = b.abs()
    if not form.own_constant:
        b = torch.cat((b.new_zeros(len(b), 1), b), 1)
    u = x.abs() if form.version == "A" else x
    inner, slope = _horner(u, b)
    if form.version == "A":
        slope = slope * _sign(x)
    outer = torch.ones_like(inner) if form.version == "N" else _sign(inner)
    return form.base + outer * inner, outer * slope, u, outer, sign_b


def _forward(x: Tensor, c: Tensor, form: Form) -> Tensor:
    return _horner(x, c[:, : form.terms])[0] / _denominator(x, c, form)[0]


def _backward(x: Tensor, g: Tensor, c: Tensor, form: Form, *, sums: bool) -> tuple[Tensor, Tensor | None]:
    """g dR/dx [copies, size] and, with `sums`, the gradient of c [copies, K]."""
    p, p_slope = _horner(x, c[:, : form.terms])
    q, q_slope, u, outer, sign_b = _denominator(x, c, form)
    h = g / q
    w = -h * p / q
    dx = h * p_slope + w * q_slope
    if not sums:
        return dx, None
    w = w * outer
    numerator = []
    for _ in range(form.terms):
        numerator.append(h.sum(1))
        h = h * x
    denominator = []
    for k in range(form.degrees[1] + 1):
        if k > 0 or form.own_constant:
            denominator.append(w.sum(1))
        w = w * u
    return dx, torch.cat((torch.stack(numerator, 1), torch.stack(denominator, 1) * sign_b), 1)


def _dense(x: Tensor, copies: int) -> Tensor:
    """x, or a copy if its memory has gaps or is not one stretch for each of the copies."""
    if x.is_contiguous() or (x.dim() > 1 + (copies > 1) and x.mT.is_contiguous()):
        return x
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _rows(x: Tensor, copies: int) -> Tensor:
    """The memory of a dense tensor in its own order, [copies, size]."""
    size = x.numel() // copies
    return x.detach().as_strided((copies, size), (size, 1))


class _Rational(torch.autograd.Function):
    """x of any shape, c of copies x K elements -> R(x). `outside`, a list of one, gets the share of |x| > 3."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, c: Tensor, form: Form, copies: int, kernel: bool, outside: list[Tensor] | None
    ) -> Tensor:
        x = _dense(x, copies)
        ctx.save_for_backward(x, c)
        ctx.form, ctx.copies, ctx.kernel, ctx.outside = form, copies, kernel, outside
        y, by_copy = torch.empty_like(x), c.detach().view(copies, -1)
        if not kernel:
            _rows(y, copies).copy_(_forward(_rows(x, copies).to(c.dtype), by_copy, form))
            return y
        from rlkit.nn import rational_kernels

        half = x.dtype != torch.float32
        out = torch.empty_like(x, dtype=torch.float32) if half else y
        rows = _rows(x, copies).float() if half else _rows(x, copies)
        rational_kernels.forward(rows.numpy(), by_copy.numpy(), form.terms, form.version, _rows(out, copies).numpy())
        return y.copy_(out) if half else y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        x, c = ctx.saved_tensors
        form, copies, sums = ctx.form, ctx.copies, ctx.needs_input_grad[1]
        if g.stride() != x.stride():
            g = torch.empty_like(x).copy_(g)
        dx, by_copy = torch.empty_like(x), c.detach().view(copies, -1)
        x_rows, g_rows = _rows(x, copies), _rows(g, copies)
        gradient: Tensor | None = None
        if ctx.kernel:
            from rlkit.nn import rational_kernels

            half = x.dtype != torch.float32
            out = torch.empty_like(x, dtype=torch.float32) if half else dx
            if half:
                x_rows, g_rows = x_rows.float(), g_rows.float()
            dc, share = rational_kernels.backward(
                x_rows.numpy(),
                g_rows.numpy(),
                by_copy.numpy(),
                form.terms,
                form.version,
                FITTED_RANGE,
                sums=sums,
                dx=_rows(out, copies).numpy(),
            )
            if half:
                dx.copy_(out)
            gradient = None if dc is None else torch.from_numpy(dc)
            outside = torch.tensor(share)
        else:
            x_rows = x_rows.to(c.dtype)
            slope, gradient = _backward(x_rows, g_rows.to(c.dtype), by_copy, form, sums=sums)
            _rows(dx, copies).copy_(slope)
            outside = (x_rows.abs() > FITTED_RANGE).float().mean()
        if ctx.outside is not None:
            ctx.outside[0] = outside
        return dx, None if gradient is None else gradient.view(c.shape), None, None, None, None


def rational(
    x: Tensor, coefficients: Tensor, form: Form, copies: int = 1, outside: list[Tensor] | None = None
) -> Tensor:
    """R(x), the same shape and type as x; differentiable once in x and coefficients.

    coefficients: copies x form.count elements, a_0 ... a_m then [b_0,] b_1 ... b_n; with copies > 1 x is [copies, ...].
    Computed in the coefficients' type (float64 with float64 x), on the CPU by the kernel but for float64 and version N.
    outside: a list of one that each backward pass fills with the share of |x| > FITTED_RANGE.
    """
    if x.dtype == torch.float64:
        coefficients = coefficients.double()
    kernel = x.device.type == "cpu" and coefficients.dtype == torch.float32 and form.version != "N"
    return _Rational.apply(x, coefficients, form, copies, kernel, outside)  # type: ignore[no-any-return, no-untyped-call]


class Rational(LearnableActivation):
    """A rational function of a layer's units. start: `form.count` coefficients; noise_seed: of version D."""

    def __init__(
        self,
        start: Sequence[float],
        form: Form = _DEFAULT,
        learning: Learning = LEARNING,
        copies: int | None = None,
        noise_seed: int = 0,
    ) -> None:
        if len(start) != form.count:
            raise ConfigError(
                f"{len(start)} coefficients for a rational of version {form.version} and degrees {list(form.degrees)}",
                why=f"it has {form.count}: {form.terms} of the numerator, {form.count - form.terms} of the denominator",
                fix="give as many, or set network.activation_degrees to the degrees that they are for",
                see=_SEE,
            )
        super().__init__(start, learning, copies)
        self.form = form
        self._outside = [torch.zeros(())]
        if form.version == "D":
            self.noise: Tensor  # seed, and draws so far: part of the state, so that a resumed run draws on
            self.register_buffer("noise", torch.tensor([noise_seed, 0]))
            self.draws_noise = True  # who only looks puts it to eval mode

    @property
    def outside_range(self) -> Tensor:
        """Share of the inputs outside [-3, 3], where the starts were fitted, in the last backward pass; a scalar."""
        return self._outside[0]

    def forward(self, x: Tensor) -> Tensor:
        """x: [...], with copies [copies, B, units] -> the same shape and type.

        Version D draws in training mode and under gradients only. Version N raises NumericError near a pole.
        """
        coefficients: Tensor = self.coefficients
        if self.form.version == "D" and self.training and torch.is_grad_enabled():
            coefficients = coefficients * self._factors().to(coefficients)
        if self.form.version == "N":
            self._check_poles(x, self.by_copy())
        return rational(x, coefficients, self.form, self.copies or 1, self._outside)

    def evaluate(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """R(x) with these coefficients [copies, K]."""
        return rational(x, coefficients, self.form, len(coefficients))

    def _factors(self) -> Tensor:
        """U(0.9, 1.1) for each coefficient."""
        seed, drawn = self.noise.tolist()
        stream = CounterStream(seed)
        stream.counter = drawn
        units = stream.units(self.coefficients.numel())
        self.noise[1] += len(units)
        return torch.from_numpy(1 + _NOISE * (2 * units - 1))

    @torch.no_grad()
    def _check_poles(self, x: Tensor, coefficients: Tensor) -> None:
        rows = _rows(_dense(x, len(coefficients)), len(coefficients)).to(coefficients.dtype)
        q = _denominator(rows, coefficients, self.form)[0].flatten()
        if not q.numel():
            return
        at = q.abs().argmin()
        if q[at].abs() < _NEAR_POLE:
            raise NumericError(
                f"the denominator of {self.address or 'a rational activation'} is {q[at].item():.3g} at the input"
                f" {rows.flatten()[at].item():.6g}",
                why=f"version N has poles, and within {_NEAR_POLE} of one its value means nothing",
                fix="--network.activation_version A, or keep the inputs small with --network.layer_norm true",
                see=_SEE,
            )

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        m, n = self.form.degrees
        return f"version={self.form.version}, degrees=({m}, {n})"


def rationals(module: nn.Module) -> list[Rational]:
    """The rational activations of `module`, in its order."""
    return [part for part in module.modules() if isinstance(part, Rational)]


def outside_range(parts: Sequence[Rational]) -> dict[str, Tensor]:
    """For the metrics of an update: inputs outside the fitted range in its last backward pass, a mean over layers."""
    if not parts:
        return {}
    return {"activation_outside_range": torch.stack([part.outside_range for part in parts]).mean()}


def read_coefficients(path: Path, form: Form) -> list[float]:
    """Coefficients from a JSON file {"version": "A", "numerator": [...], "denominator": [...]}.

    Raises ConfigError if it cannot be read, or holds another version or other degrees than `form`.
    """
    fix = 'write {"version": "A", "numerator": [a_0, ..., a_m], "denominator": [b_1, ..., b_n]}'
    try:
        content = json.loads(path.read_text())
        version = str(content["version"])
        numerator, denominator = (np.array(content[key], float) for key in ("numerator", "denominator"))
        if numerator.ndim != 1 or denominator.ndim != 1 or not np.isfinite([*numerator, *denominator]).all():
            raise ValueError("coefficients are finite numbers in a list")
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"no coefficients can be read from {path}", why=why, fix=fix, see=_SEE) from error
    found = (len(numerator) - 1, len(denominator) - (version == "C"))
    if (version, found) != (form.version, form.degrees):
        raise ConfigError(
            f"{path} holds a rational of version {version} and degrees {list(found)}",
            why=f"the network's is of version {form.version} and degrees {list(form.degrees)}",
            fix=f"--network.activation_version {version} --network.activation_degrees '{list(found)}'",
            see=_SEE,
        )
    return [*numerator.tolist(), *denominator.tolist()]
