# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl top`: a page about the cluster at work, drawn anew every few seconds.

What is asked is put together here; how it looks is decided in top_page.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any, Final

import click

from ctdbpy.cli.commands import Answer, Command, reasons_of
from ctdbpy.cli.session import PATIENCE_S, Session, terminal_width
from ctdbpy.cli.status import cluster_status
from ctdbpy.client import databases, event_socket
from ctdbpy.client.addresses import addresses_of
from ctdbpy.client.connection import Connection
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import NodeFlag, flag_names
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.events import StatusRequest
from ctdbpy.wire.statistics import DbStatistics, Statistics

_HOT_MAX: Final = 8
_EVENTS_MAX: Final = 6
_WIDTH: Final = 100
#: The counters of a node that the page shows the speed of.
COUNTERS: Final = ("total_calls", "node_packets_recv", "client_packets_recv", "num_recoveries")


@click.command(cls=Command)
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--count", type=click.IntRange(1), help="Look so often, and end.")
@click.pass_obj
def top(session: Session, interval: float, count: int | None) -> None:
    """Watch the cluster at work: nodes, addresses, recoveries, migrations, hot records, scripts.

    Ends with q or Ctrl-C. Where there is no terminal the page is printed --count times, once by default.
    """
    from ctdbpy.cli.top_page import page

    paths = Paths.from_environment(os.environ)
    is_live = terminal_width() is not None and not session.as_json
    left = count if count is not None or is_live else 1
    with session.connect() as connection:
        before: Answer | None = None
        if not is_live:
            # Speeds want two looks.
            before = snapshot(connection, paths)
            while left:
                _rest(interval)
                now = snapshot(connection, paths)
                session.show(now if session.as_json else {"page": page(before, now, _WIDTH)}, _text)
                before, left = now, left - 1
            return
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with _Keys() as keys, Live(console=Console(), screen=True, auto_refresh=False) as live:
            while left is None or left:
                now = snapshot(connection, paths)
                live.update(Text.from_ansi(page(before, now, live.console.width, colour=True)), refresh=True)
                before = now
                if keys.wait(interval):
                    return
                left = None if left is None else left - 1


def _text(answer: Answer) -> str:
    return str(answer["page"])


def _rest(seconds: float) -> None:
    select.select([], [], [], seconds)


class _Keys:
    """The keyboard, key by key, while the page is shown."""

    def __enter__(self) -> _Keys:
        self._saved: list[Any] | None = None
        if sys.stdin.isatty():
            import termios
            import tty

            self._saved = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)

    def wait(self, seconds: float) -> bool:
        """Whether the page is to end; waits so long to hear of it."""
        if self._saved is None:
            _rest(seconds)
            return False
        ready = select.select([sys.stdin], [], [], seconds)[0]
        return bool(ready) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b"\x03", b"")


# -- asking -----------------------------------------------------------------------------------------


def snapshot(connection: Connection, paths: Paths) -> Answer:
    """All that one page is made of. A node that does not answer in time has no counters."""
    status = cluster_status(connection)
    reached = [row["pnn"] for row in status["nodes"] if "DISCONNECTED" not in row["state"]]
    replies = connection.controls(Control.STATISTICS, nodes=reached, timeout_s=PATIENCE_S)
    counters = {
        pnn: _counters(decode_reply(Control.STATISTICS, reply.data))
        for pnn, reply in replies.items()
        if reply.status == 0
    }
    served: dict[int, list[str]] = {}
    for ip in addresses_of(connection, connection.pnn):
        served.setdefault(ip.pnn, []).append(ip.address.host)
    for row in status["nodes"]:
        row["counters"] = counters.get(row["pnn"])
        row["addresses"] = served.get(row["pnn"], [])
    return {
        **status,
        "monotonic_s": time.monotonic(),
        "wall_s": time.time(),
        "hot_records": _hot_records(connection),
        "scripts": _scripts(paths),
        "events": _events(connection),
    }


def _counters(found: Statistics) -> dict[str, Any]:
    return {
        **{name: getattr(found, name) for name in COUNTERS},
        "migrations": found.node.reply_dmaster,
        "clients": found.num_clients,
        "pending_calls": found.pending_calls,
        "waiting_locks": found.locks.num_pending,
        "call_seconds_max": found.call_latency.max,
    }


def _hot_records(connection: Connection) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for database in databases.list_databases(connection, connection.pnn):
        if database.is_volatile:
            found: DbStatistics = connection.ask(Control.GET_DB_STATISTICS, database.db_id)
            rows += [
                {"database": database.name, "key": hot.key.hex(), "hops": hot.count}
                for hot in found.hot_keys
                if hot.count
            ]
    return sorted(rows, key=lambda row: row["hops"], reverse=True)[:_HOT_MAX]


def _scripts(paths: Paths) -> list[dict[str, Any]]:
    try:
        request = StatusRequest("legacy", "monitor")
        status = event_socket.ask(paths.event_socket, request, timeout_s=PATIENCE_S).status
    except ClientError:
        return []
    return [
        {
            "script": script.name,
            "result": script.result,
            "seconds": script.end.time_s - script.begin.time_s,
        }
        for script in (status.scripts if status is not None else ())
    ]


def _events(connection: Connection) -> list[dict[str, Any]]:
    report = reasons_of(connection)
    entries = report.events.entries[-_EVENTS_MAX:] if report is not None else ()
    return [
        {
            "wall_s": each.wall_us / 1_000_000,
            "pnn": each.pnn,
            "kind": each.kind,
            "state": flag_names(NodeFlag(each.flags)),
            "text": each.text,
        }
        for each in entries
    ]
