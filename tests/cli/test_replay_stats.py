"""`rlkit replay stats`: the printed table agrees with the closed forms; mistakes are explained."""

import re

import pytest

from rlkit.cli.main import run
from rlkit.replay.samplers import SAMPLERS
from rlkit.replay.visits import CLOSED_FORMS

COLUMNS = ["r", "batch / env steps", "mean N", "var N", "N = 0", "least N", "most N", "delay"]


def table(printed):
    """{column: [(measured, closed form)]} of the printed table; other lines are dropped."""
    lines = [re.split(r" {2,}", line) for line in printed.splitlines()]
    header = next(i for i, line in enumerate(lines) if line[0] == "r")
    return {
        column: [tuple(cell.split(" / ")) for cell in cells]
        for column, cells in zip(lines[header], zip(*lines[header + 1 :], strict=True), strict=True)
    }


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_table_agrees_with_the_closed_forms(name, capsys):
    assert run(["replay", "stats", "--sampler", name, "--ratios", "0.5,1,3/2,8", "--seed", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{name}: ")
    found, form = table(printed), CLOSED_FORMS[name]
    assert list(found) == COLUMNS
    assert found["r"] == [("0.5",), ("1",), ("1.5",), ("8",)]
    assert [int(batch) / int(steps) for batch, steps in found["batch / env steps"]] == [0.5, 1, 1.5, 8]
    for i, r in enumerate([0.5, 1.0, 1.5, 8.0]):
        known = {
            "mean N": (r, 0.01),
            "var N": (form.variance(r), 0.1),
            "N = 0": (form.never(r), 0.05),
            "delay": (form.delay(r), 0.04),
        }
        for column, (value, tolerance) in known.items():
            measured, printed_form = map(float, found[column][i])
            assert printed_form == pytest.approx(value, rel=1e-3, abs=1e-6), column
            assert measured == pytest.approx(value, rel=tolerance, abs=2e-4), column
    for column, bound in zip(("least N", "most N"), zip(*map(form.bounds, (0.5, 1, 1.5, 8)), strict=True), strict=True):
        assert [printed for _, printed in found[column]] == [f"{n:g}".replace("inf", "-") for n in bound]
    assert all(int(measured) >= int(printed) for measured, printed in found["least N"])


def test_options_matter_and_a_seed_repeats(capsys):
    def printed(*words):
        assert run(["replay", "stats", "--capacity", "100", "--ratios", "1", *words]) == 0
        return capsys.readouterr().out

    assert "100 slots, 2,000 rows a line, seed 0" in printed()
    assert printed("--seed", "0", "--sampler", "rr-c") == printed()
    assert table(printed("--seed", "1")) != table(printed())
    assert table(printed("--sampler", "uniform")) != table(printed())


def test_draws_by_priority_are_compared_with_their_expectation(capsys):
    assert run(["replay", "stats", "--sampler", "rr-m", "--ratios", "4"]) == 0
    printed = capsys.readouterr().out
    assert "e: expected N by the priorities" in printed
    found = table(printed)
    assert float(found["mean N"][0][0]) == pytest.approx(4, rel=0.01)
    assert float(found["var(N - e)"][0][0]) < 0.5  # about a third, as RR-C; independent draws have 4
    assert int(found["most N"][0][0]) > 15  # rows of high priority are drawn far more often than the mean
    assert {cells[0][1] for column, cells in found.items() if column not in ("r", "batch / env steps")} == {"-"}


def test_settings_of_the_sampler_matter(capsys):
    def printed(*words):
        assert run(["replay", "stats", "--capacity", "200", "--ratios", "20", "--sampler", "uniform", *words]) == 0
        return capsys.readouterr().out

    distinct = printed("--sampler.replacement", "false")
    assert distinct.splitlines()[1] == "sampler.replacement false"
    found = table(distinct)
    assert found["batch / env steps"] == [("20", "1")]
    assert float(found["var N"][0][0]) == pytest.approx(20 * (1 - 20 / 200), rel=0.05)  # r (1 - B / C)
    assert found["var N"][0][1] == "-"  # the closed form is of draws with replacement
    assert printed("--sampler.replacement=true") == printed().replace("\n", "\nsampler.replacement true\n", 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_a_table(name, capsys):
    assert run(["replay", "stats", "--sampler", name, "--capacity", "100", "--ratios", "1"]) == 0
    printed = capsys.readouterr().out
    assert float(table(printed)["mean N"][0][0]) == pytest.approx(1, rel=0.1)
    assert ("no priority is ever updated" in printed) == (name in ("per", "per-rank", "rr-m"))
    assert ("e: expected" in printed) == (name in ("per", "rr-m"))


def test_a_ratio_that_a_sampler_cannot_serve_is_said(capsys):
    assert run(["replay", "stats", "--sampler", "consume", "--capacity", "100", "--ratios", "1,2"]) == 0
    printed = capsys.readouterr().out
    assert table(printed)["mean N"] == [("1", "-"), ("-",)]
    assert re.search(r"r = 2 cannot be: a batch of 2 from \d usable rows; consume gives every row", printed)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["rlkit replay is not a command", "there is `stats`", "usage: rlkit replay stats"]),
        (["stat"], ["rlkit replay stat is not a command"]),
        (["stats", "more"], ["rlkit replay stats more is not a command"]),
        (["stats", "--sampler", "rrc"], ["unknown sampler 'rrc'", "uniform", "Did you mean 'rr-c'", "--sampler"]),
        (["stats", "--sampler.shufle", "lazy"], ["sampler.shufle", "shuffle"]),
        (["stats", "--sampler", "uniform", "--sampler.replacement", "4"], ["sampler.replacement"]),
        (["stats", "--sampler", "per", "--sampler.priority_exponent", "1"], ["has no meaning here", "log-normal"]),
        (["stats", "--ratio", "1"], ["unknown option --ratio", "'ratios'"]),
        (["stats", "--ratios", "1,"], ["--ratios holds ''", "above 0", "fix: --ratios 0.5,1,8"]),
        (["stats", "--ratios", "0.5,x"], ["--ratios holds 'x'"]),
        (["stats", "--ratios", "0"], ["--ratios holds '0'"]),
        (["stats", "--ratios", "-1"], ["--ratios holds '-1'"]),
        (["stats", "--ratios", "1/0"], ["--ratios holds '1/0'"]),
        (["stats", "--ratios", "nan"], ["--ratios holds 'nan'"]),
        (["stats", "--ratios", "10001"], ["--ratios holds '10001'", "at most 10,000"]),
        (["stats", "--ratios", "1/1001"], ["--ratios holds '1/1001'", "b <= 1000"]),
        (["stats", "--capacity", "0"], ["--capacity is '0'", "above 0"]),
        (["stats", "--capacity", "1e3"], ["--capacity is '1e3'"]),
        (["stats", "--capacity", "1000001"], ["--capacity is 1,000,001", "at most 1,000,000"]),
        (["stats", "--seed", "-1"], ["--seed is '-1'", "whole number"]),
        (["stats", "--seed", "a"], ["--seed is 'a'"]),
    ],
)
def test_mistakes_are_explained(words, parts, capsys):
    assert run(["replay", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error[config]: ")
    assert "\nfix: " in error
    for part in parts:
        assert part in error
