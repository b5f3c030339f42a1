"""Write rlkit/nn/rational_starts.py: rational functions close to the common activations, fitted on [-3, 3]."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from rlkit.core.errors import NumericError
from rlkit.nn.activations import sample
from rlkit.nn.rational import FITTED_RANGE, Form
from rlkit.nn.rational_fit import Fit, fit

TARGETS = ("relu", "leaky_relu", "leaky_relu_0.1", "tanh", "sigmoid", "silu", "gelu")
FORMS = (
    *(Form(version, degrees) for version in ("A", "B", "C") for degrees in ((5, 4), (3, 2), (7, 6))),
    *(Form("N", degrees) for degrees in ((5, 4), (2, 2))),
)
HEAD = f'''"""Where rationals start: coefficients close to activations on [-{FITTED_RANGE:g}, {FITTED_RANGE:g}].

Written by scripts/fit_rational_starts.py; rlkit/nn/rational_fit.py says how they are fitted. Above each: the largest
and the root-mean-square error on the range. Version D takes those of B. A line of version N is missing where the best
fit has a pole.
"""

# fmt: off
# (target, version, degrees): a_0 ... a_m, then [b_0,] b_1 ... b_n
STARTS: dict[tuple[str, str, tuple[int, int]], tuple[float, ...]] = {{
'''


def entry(target: str, form: Form, found: Fit) -> str:
    """The lines of one start."""
    numbers = ", ".join(f"{value:.12g}" for value in found.coefficients)
    indent = " " * 8
    return (
        f"    # {found.largest_error:.1e}, {found.rms_error:.1e}\n"
        f'    ("{target}", "{form.version}", {form.degrees}): (\n'
        f"{textwrap.fill(numbers, 119, initial_indent=indent, subsequent_indent=indent)},\n"
        "    ),\n"
    )


def main() -> None:
    lines = [HEAD]
    for form in FORMS:
        for target in TARGETS:
            try:
                found = fit(lambda x, name=target: sample(name, x)[0][:, 0], form)
            except NumericError as error:
                print(f"{target}, {form}: {error.what}", file=sys.stderr)
                continue
            lines.append(entry(target, form, found))
            print(f"{target}, {form}: {found.largest_error:.3g}, {found.rms_error:.3g}", file=sys.stderr, flush=True)
    text = "".join([*lines, "}\n"])
    (Path(__file__).parent.parent / "rlkit" / "nn" / "rational_starts.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
