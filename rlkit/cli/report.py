"""rlkit report."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

from rlkit.cli.flags import parse
from rlkit.core.errors import ConfigError

USAGE = """usage: rlkit report RUN ... [--out PATH] [--assets shared] [--serve] [--runs DIR]

Writes one HTML file about the plasticity of the runs: which units are dormant, where, since when, and what cures did.
It opens in any browser, without a network. A RUN may be a folder with runs below it.
--out PATH        where to (default: report.html, in the run's folder if it is one run, else here)
--assets shared   Plotly (5 MB) as a file beside the page, for many pages in one folder, instead of in it
--serve           show it on this machine's loopback address instead; loading it again shows what is new
--runs DIR        where run folders are (default: runs)

example: rlkit report last"""


def main(words: list[str]) -> int:
    """Write or serve; the exit status."""
    parsed = parse(words, options=("out", "assets", "runs"), switches=("serve",), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    if not parsed.positional:
        raise ConfigError("RUN is missing", why="a report is about at least one run", fix="rlkit report last")
    assets = parsed.options.get("assets", "inline")
    if assets not in ("inline", "shared"):
        raise ConfigError(f"--assets is {assets!r}", why="it must be inline or shared", fix="--assets shared")
    if "serve" in parsed.switches and {"out", "assets"} & parsed.options.keys():
        raise ConfigError(
            "--serve writes no file", why="--out and --assets say how to write one", fix="leave them or --serve out"
        )
    from rlkit.cli.runs import run_paths

    paths = run_paths(parsed.positional, Path(parsed.options.get("runs", "runs")))
    if "serve" in parsed.switches:
        return serve(paths)
    from rlkit.report.page import write_report
    from rlkit.report.run_data import load_run

    runs = [load_run(path) for path in paths]
    default = paths[0] / "report.html" if len(paths) == 1 else Path("report.html")
    out = Path(parsed.options.get("out", default))
    write_report(runs, out, assets="shared" if assets == "shared" else "inline")
    print(f"report: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    for run in runs:
        for text in run.missing:
            print(f"missing in {run.path.name}: {text}")
    return 0


def serve(paths: list[Path]) -> int:
    """Until Ctrl-C."""
    from rlkit.report.server import ReportServer

    with ReportServer(paths) as server:
        port = server.server_address[1]
        server.page()
        print(f"report: http://127.0.0.1:{port}/")
        print(f"from another machine: ssh -L {port}:127.0.0.1:{port} {getpass.getuser()}@{socket.gethostname()}")
        print("Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
