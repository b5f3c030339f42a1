"""The report over HTTP, to this machine only: written anew when it is loaded and its runs have moved on."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rlkit.core.errors import RlkitError
from rlkit.report.page import PLOTLY, build_page, plotly_js
from rlkit.report.run_data import load_run

PORT = 8642  # the first choice; any free one if it is taken
_FILES = ("run.json", "config.yaml", "metrics.jsonl", "evaluations.jsonl", "ledger.jsonl", "plasticity/record.bin")
_HERE = ("127.0.0.1", "localhost")


class ReportServer(ThreadingHTTPServer):
    """Serves the page of the runs in `paths` on a loopback address."""

    daemon_threads = True

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._lock = list(paths), threading.Lock()
        self._seen: object = None
        self._page = b""
        try:
            super().__init__((_HERE[0], PORT), _Handler)
        except OSError:
            super().__init__((_HERE[0], 0), _Handler)

    def page(self) -> bytes:
        """The page of the runs as they are now."""
        with self._lock:
            state = [_state(path / name) for path in self._paths for name in _FILES]
            if state != self._seen:
                self._page = build_page([load_run(path) for path in self._paths], assets="shared").encode()
                self._seen = state
            return self._page


def _state(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None


class _Handler(BaseHTTPRequestHandler):
    """Two addresses: the page, and Plotly, which the browser keeps."""

    server: ReportServer

    def do_GET(self) -> None:  # the name that http.server asks for
        """Answer."""
        if self.headers.get("Host", "").rpartition(":")[0] not in _HERE:  # a web site that points its name here
            return self._answer(403, b"this report answers to 127.0.0.1 and localhost only", "text/plain")
        if self.path == f"/{PLOTLY}":
            return self._answer(200, plotly_js().encode(), "text/javascript", keep=True)
        if self.path.split("?")[0] != "/":
            return self._answer(404, b"there is / only", "text/plain")
        try:
            return self._answer(200, self.server.page(), "text/html")
        except RlkitError as error:  # a run folder that has been moved away, say
            return self._answer(500, f"<pre>{html.escape(str(error))}</pre>".encode(), "text/html")

    def _answer(self, status: int, content: bytes, kind: str, *, keep: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=86400" if keep else "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal belongs to the user."""
