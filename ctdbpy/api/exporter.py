# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbpy-exporter`: this node's metrics and probes over HTTP, on the loopback unless told otherwise.

    /metrics    for Prometheus
    /live       200 if the daemon answers, else 503: whoever watches may start it again
    /ready      200 if the node is a healthy member and no recovery runs, else 503: it gets no new clients

It is an ordinary client of the daemon; the daemon needs it for nothing.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ctdbpy.api.metrics import DaemonCollector, is_alive, is_ready
from ctdbpy.config.paths import Paths
from ctdbpy.errors import HostError

PORT: Final = 9385
_TIMEOUT_S: Final = 5.0
#: Whoever sends nothing is not listened to for longer.
_REQUEST_LIMIT_S: Final = 10.0


class Server(ThreadingHTTPServer):
    """One node's exporter."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, port: int, daemon_socket: str, event_socket: str) -> None:
        self.daemon_socket = daemon_socket
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(DaemonCollector(daemon_socket, event_socket, timeout_s=_TIMEOUT_S))
        if ipaddress.ip_address(address).version == 6:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            raise HostError(
                f"cannot listen on {address} port {port}: {error.strerror} (is another exporter running?)"
            ) from error


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "ctdbpy-exporter"
    sys_version = ""
    timeout = _REQUEST_LIMIT_S

    def do_GET(self) -> None:
        """Answer one question."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._say(200, generate_latest(self.server.registry), CONTENT_TYPE_LATEST)
        elif path == "/live":
            self._judge(is_alive(self.server.daemon_socket, _TIMEOUT_S))
        elif path == "/ready":
            self._judge(is_ready(self.server.daemon_socket, _TIMEOUT_S))
        else:
            self._say(404, b"there are /metrics, /live and /ready\n")

    def _judge(self, is_well: bool) -> None:
        self._say(200 if is_well else 503, b"yes\n" if is_well else b"no\n")

    def _say(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: there is one every few seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to end."""
    given = _parser().parse_args(argv)
    paths = Paths.from_environment(os.environ)
    try:
        server = Server(given.address, given.port, str(given.socket or paths.socket), str(paths.event_socket))
    except HostError as error:
        sys.stderr.write(f"ctdbpy-exporter: {error}\n")
        return 1
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ctdbpy-exporter", description="Metrics and probes of this node's daemon over HTTP."
    )
    parser.add_argument("--address", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="(default: %(default)s)")
    parser.add_argument("--socket", help="the daemon's socket; by default CTDB_SOCKET or the usual one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
