"""rlkit activations."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.cli.flags import parse
from rlkit.cli.tables import print_table
from rlkit.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

USAGE = """usage: rlkit activations [plot [NAME ...] [--out FILE]]

Lists the activations of --network.activation: what they learn and where that starts, paper, formula.
plot            draw value and derivative of all, or of those named, into an SVG file
--out FILE      default activations.svg

example: rlkit activations plot rational silu crelu"""

_WIDTH, _HEIGHT, _GAP, _COLUMNS = 230, 170, 24, 4  # of a panel, pixels; panels in a row
_RANGE = 4.0  # of x, both ways
_HIGHEST = 4.0  # what is larger is cut off, so that steep functions do not flatten the rest
_POINTS = 401
_STEEPEST = 12.0  # slope beyond which two points are two sides of a jump
_COLOURS = ("#0b62a8", "#c2410c")  # of the first and second output


def main(words: list[str]) -> int:
    """List or draw; the exit status."""
    parsed = parse(words, options=("out",), switches=(), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    from rlkit.nn.activations import LINES, find

    if not parsed.positional and not parsed.options:
        rows = []
        for line in LINES:
            learned = ", ".join(f"{name} = {start:g}" for name, start in line.learned)
            if line.learns and not learned:
                learned = "a0 ... a5, b1 ... b4"
            rows.append([line.name, learned, line.paper, line.formula])
        print_table(["activation", "learns", "paper", "f(x)"], rows)
        return 0
    if parsed.positional[:1] != ["plot"]:
        raise ConfigError(
            f"{' '.join(['rlkit activations', *parsed.positional])} is not a command",
            why="there is `plot`; without a word the activations are listed",
            fix=USAGE.splitlines()[0],
        )
    names = parsed.positional[1:] or [line.name for line in LINES]
    lines = [find(name, "NAME") for name in dict.fromkeys(names)]
    out = Path(parsed.options.get("out", "activations.svg"))
    text = picture([line.name for line in lines])
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written", why=str(error), fix="--out FILE in a folder of yours") from error
    print(f"{out}: {len(lines)} activations, value solid, derivative dashed")
    return 0


def picture(names: Sequence[str]) -> str:
    """SVG of value and derivative of the activations called `names`, a panel each."""
    import numpy as np

    from rlkit.nn.activations import sample

    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    x = np.linspace(-_RANGE, _RANGE, _POINTS)
    panels = []
    for number, name in enumerate(names):
        left = _GAP + number % columns * (_WIDTH + _GAP)
        top = 2 * _GAP + number // columns * (_HEIGHT + 2 * _GAP)
        panels.append(f'<g transform="translate({left} {top})">{_panel(name, x, *sample(name, x))}</g>')
    width, height = columns * (_WIDTH + _GAP) + _GAP, rows * (_HEIGHT + 2 * _GAP) + 2 * _GAP
    style = "text{font:12px sans-serif;fill:#222}.frame{fill:none;stroke:#999}.zero{stroke:#ddd}polyline{fill:none}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{style}</style>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f'<text x="{_GAP}" y="{_GAP - 6}">f(x) solid, df/dx dashed; second output in the second colour</text>'
        f"{''.join(panels)}</svg>\n"
    )


def _panel(name: str, x: Array, values: Array, slopes: Array) -> str:
    import numpy as np

    from rlkit.nn.activations import find

    line = find(name)
    shown = np.clip(np.concatenate([values, slopes]), -_HIGHEST, _HIGHEST)
    low, high = float(shown.min()), float(shown.max())
    room = 0.05 * max(high - low, 1e-6)
    low, high = low - room, high + room

    def across(value: float) -> float:
        return (value + _RANGE) / (2 * _RANGE) * _WIDTH

    def down(value: float) -> float:
        return (high - value) / (high - low) * _HEIGHT

    def curve(y: Array, style: str) -> str:
        """Pieces of what lies in the panel: a line over a jump or beyond the edge would be no part of the function."""
        pieces: list[list[str]] = []
        piece: list[str] = []
        for point, (at, value) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            jump = point > 0 and abs(value - y[point - 1]) > _STEEPEST * (x[1] - x[0])
            if (jump or not low <= value <= high) and piece:
                pieces.append(piece)
                piece = []
            if low <= value <= high:
                piece.append(f"{across(at):.1f},{down(value):.1f}")
        return "".join(f'<polyline points="{" ".join(points)}" {style}/>' for points in [*pieces, piece] if points)

    marks = f'<line class="zero" x1="{across(0):.1f}" x2="{across(0):.1f}" y1="0" y2="{_HEIGHT}"/>'
    if low < 0 < high:
        marks += f'<line class="zero" x1="0" x2="{_WIDTH}" y1="{down(0):.1f}" y2="{down(0):.1f}"/>'
    curves = "".join(
        curve(values[:, k], f'stroke="{colour}" stroke-width="1.8"')
        + curve(slopes[:, k], f'stroke="{colour}" stroke-dasharray="4 3"')
        for k, colour in zip(range(values.shape[1]), _COLOURS, strict=False)
    )
    ends = (
        f'<text x="0" y="{_HEIGHT + 14}">{-_RANGE:g}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">{_RANGE:g}</text>'
        f'<text x="4" y="13">{high - room:.3g}</text>'
        f'<text x="{_WIDTH - 4}" y="{_HEIGHT - 5}" text-anchor="end">{low + room:.3g}</text>'
    )
    about = html.escape(f"{line.name}: {line.formula}" + (f" ({line.paper})" if line.paper else ""))
    frame = f'<rect class="frame" width="{_WIDTH}" height="{_HEIGHT}"/>'
    return f'<title>{about}</title>{marks}{curves}{frame}{ends}<text x="0" y="-6" font-weight="bold">{line.name}</text>'
