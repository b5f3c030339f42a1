"""The dormancy report: one HTML file from run folders alone. It opens without a network, and asks for none."""

from __future__ import annotations

import datetime
import html
import re
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import rlkit
from rlkit.core.errors import ConfigError
from rlkit.report.blobs import Blobs, to_json
from rlkit.report.history import EXACT, STOPS, stop_threshold
from rlkit.report.run_data import RunData
from rlkit.report.sections import RUNS_IN_FULL, comparison, run_sections
from rlkit.report.verdict import THRESHOLD, Verdict, verdict_of_many

PLOTLY = "plotly.min.js"  # its name beside a page with shared assets
Assets = Literal["inline", "shared"]

# The page may run what is in it and nothing else: whatever a library would fetch, the browser refuses.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; script-src 'unsafe-inline'"
)


def build_page(runs: Sequence[RunData], *, assets: Assets = "inline") -> str:
    """The text of the page. With shared assets it reads PLOTLY beside itself."""
    if not runs:
        raise ConfigError("no run", why="a report is about at least one", fix="rlkit report last", see="docs/report.md")
    blobs = Blobs()
    sections = [run_sections(run, number, blobs) for number, run in enumerate(runs)]
    compared = comparison(runs) if len(runs) > 1 else None
    index = {
        "stops": [
            {
                "code": code,
                "threshold": stop_threshold(code),
                "exact": list(EXACT).index(code) if code in EXACT else None,
            }
            for code in STOPS
        ],
        "stop": [stop_threshold(code) for code in STOPS].index(THRESHOLD),
        "runs_in_full": RUNS_IN_FULL,
        "runs": sections,
        "comparison": compared,
    }
    first = sections[0]
    if compared is None:
        title = f"{first['agent']} {first['env']} s{first['seed']}"
        words, missing = Verdict(first["headline"], first["sentences"]), first["missing"]
        over = [first["name"], first["agent"], first["env"], f"seed {first['seed']}", first["status"], first["created"]]
    else:
        words = verdict_of_many(compared, len(runs))
        title, missing = f"{len(runs)} runs", []
        over = [f"{len(runs)} runs", *dict.fromkeys(section["env"] for section in sections)]
    script = (
        f'<script src="{PLOTLY}"></script>' if assets == "shared" else f"<script>{_in_script(plotly_js())}</script>"
    )
    return _fill(
        _template("page.html"),
        {
            "policy": _POLICY + (" 'self' file:" if assets == "shared" else ""),
            "version": html.escape(rlkit.__version__),
            "title": html.escape(f"Dormancy: {title}"),
            "css": _template("page.css"),
            "over": " · ".join(html.escape(str(text)) for text in over if text),
            "headline": html.escape(words.headline),
            "sentences": _carried(words),
            "missing": _missing(missing),
            "written": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
            "sources": "1 run folder" if len(runs) == 1 else f"{len(runs)} run folders",
            "plotly": script,
            "index": to_json(index),
            "blobs": blobs.html(),
            "js": _in_script(_template("page.js")),
        },
    )


def write_report(runs: Sequence[RunData], out: Path, *, assets: Assets = "inline") -> None:
    """Write the page to `out`, and Plotly beside it if assets are shared."""
    text = build_page(runs, assets=assets)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if assets == "shared":
            (out.parent / PLOTLY).write_text(plotly_js(), encoding="utf-8")
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written",
            why=str(error),
            fix="--out PATH of a file in a folder of yours",
            see="docs/report.md",
        ) from error


def plotly_js() -> str:
    """Plotly's own minified script, from its wheel; the package is not imported."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "package_data" / PLOTLY).read_text(encoding="utf-8")


def _template(name: str) -> str:
    return (resources.files("rlkit.report") / "template" / name).read_text(encoding="utf-8")


def _fill(template: str, values: dict[str, str]) -> str:
    """Each {{name}} once, in one pass: what is filled in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _in_script(source: str) -> str:
    """A script must not hold what ends it; in a string or a regular expression the added backslash changes nothing."""
    return re.sub(r"</(script)", r"<\\/\1", source, flags=re.IGNORECASE).replace("<!--", "<\\!--")


def _missing(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f'<div class="missing"><p>Missing or left out</p><ul>{items}</ul></div>' if texts else ""


def _carried(words: Verdict) -> str:
    text = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in words.sentences)
    if not words.rows:
        return text
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in words.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in words.rows)
    return f'{text}<div class="table-box"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
