"""rlkit activations, in this process."""

import xml.etree.ElementTree as ET

import pytest

from rlkit.cli.activations import main
from rlkit.core.errors import ConfigError
from rlkit.nn.activations import LINES

SVG = "{http://www.w3.org/2000/svg}"


def test_it_lists_every_activation_with_formula_and_paper(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for line in LINES:
        assert f"\n{line.name} " in text
        assert line.formula in text
        assert line.paper in text
    assert "a = 1, b = 1" in text


def test_plot_draws_value_and_derivative_of_all(tmp_path, capsys):
    out = tmp_path / "all.svg"
    assert main(["plot", "--out", str(out)]) == 0
    assert f"{out}: {len(LINES)} activations" in capsys.readouterr().out
    panels = ET.parse(out).getroot().findall(f"{SVG}g")
    assert [panel.findall(f"{SVG}text")[-1].text for panel in panels] == [line.name for line in LINES]
    for panel in panels:
        curves = panel.findall(f"{SVG}polyline")
        assert {"stroke-dasharray" in curve.attrib for curve in curves} == {True, False}


def test_plot_draws_those_named_and_breaks_curves_at_jumps(tmp_path):
    out = tmp_path / "some.svg"
    main(["plot", "relu", "hard_shrink", "crelu", "relu", "--out", str(out)])
    relu, shrink, crelu = ET.parse(out).getroot().findall(f"{SVG}g")
    solid = [p for p in shrink.findall(f"{SVG}polyline") if "stroke-dasharray" not in p.attrib]
    assert len(solid) == 3
    assert len({p.get("stroke") for p in crelu.findall(f"{SVG}polyline")}) == 2
    first = relu.find(f"{SVG}polyline").get("points").split()
    assert len(first) == 401
    heights = [float(point.split(",")[1]) for point in first]
    assert heights[0] == max(heights)  # 0 on the left, and the axis of an SVG points down
    assert heights[-1] == min(heights)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["draw"], "rlkit activations draw is not a command"),
        (["--out", "x.svg"], "rlkit activations is not a command"),
        (["plot", "reul"], "unknown activation 'reul'"),
        (["plot", "relu", "--out", "no/such/folder/x.svg"], "no/such/folder/x.svg cannot be written"),
    ],
)
def test_mistakes(words, what):
    with pytest.raises(ConfigError, match=what):
        main(words)
