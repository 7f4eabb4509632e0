"""The report of runs that still train, in a browser of this machine: `advantageflow watch`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from advantageflow.errors import ConfigError
from advantageflow.reports.page import listed, plotly_js, render
from advantageflow.reports.reported_run import check_folder, names
from advantageflow.reports.run_page import TEMPLATE, contents
from advantageflow.run.directory import RunDirectory

HOST = "127.0.0.1"
READ = ("config.yaml", "metrics.jsonl", "summary.json", "changes.jsonl", "samples/*.json", "checkpoints/*/state.json")
PATIENCE = 30.0  # seconds, with a client that says nothing
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LivePage:
    """The report of some runs as they are now.

    Raises:
        ConfigError: a folder holds no run, or plotly or jinja2 is missing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            check_folder(folder)
        self.folders, self._library = folders, plotly_js()
        self._state, self._html = "", ""
        self._lock = threading.Lock()

    def state(self) -> str:
        """Another text as soon as the runs' files are others."""
        files = [file for folder in self.folders for pattern in READ for file in sorted(folder.glob(pattern))]
        found = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := _stat(file))]
        return sha256(repr(found).encode()).hexdigest()

    def html(self) -> str:
        """The page, made anew where the state is another."""
        with self._lock:
            state = self.state()  # before the files are read: what changes meanwhile is another state
            if state != self._state:
                self._html, self._state = self._render(state), state
            return self._html

    def _render(self, state: str) -> str:
        try:
            return render(TEMPLATE, {**contents(self.folders), "live": state}, self._library)
        except ConfigError as error:  # before the first iteration, or while a file is written
            begun = all(RunDirectory(folder).rows_mark()["count"] for folder in self.folders)
            why = str(error) if begun else "The first iteration is not done yet; it appears here as soon as it is."
            page = {"title": listed(names(self.folders)), "why": why, "live": state, "palette": []}
            return render("waiting.html.jinja", page, "")


class Handler(BaseHTTPRequestHandler):
    """Answers with the page and with its state, and with nothing else."""

    server: Server
    timeout = PATIENCE
    server_version, sys_version = "AdvantageFlow", ""

    def do_GET(self) -> None:
        page = self.server.page
        if self.headers.get("Host") not in self.server.hosts:  # a stranger's name that leads here is not this page's
            self._answer(403, "text/plain", f"this page is at {self.server.address} alone\n")
        elif self.path == "/":
            self._answer(200, "text/html", page.html())
        elif self.path == "/state":
            self._answer(200, "text/plain", page.state())
        else:
            self._answer(404, "text/plain", "there is nothing here\n")

    def _answer(self, code: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(code)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            **HEADERS,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is the user's."""


class Server(ThreadingHTTPServer):
    """On loopback; a port of 0 is any free one.

    Raises:
        ConfigError: the port is taken, or may not be used.
    """

    daemon_threads = True

    def __init__(self, page: LivePage, port: int) -> None:
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise ConfigError(f"cannot listen on port {port}: {error.strerror}; choose another --port, or 0") from None
        self.page, number = page, self.server_address[1]
        self.hosts = {f"{HOST}:{number}", f"localhost:{number}"}
        self.address = f"http://{HOST}:{number}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is nobody's fault; what else is raised has its traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # a checkpoint that was just removed
        return None
