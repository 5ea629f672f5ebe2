# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl`: ask the daemon of this node. Each group of commands has a module of its own.

Exit codes: 0 done, 1 it could not be done (one line on stderr says why), 2 wrong usage.
`node status` and `node exec` have more of their own, which their help names.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

import ctdbpy
from ctdbpy.cli.commands import LazyGroup
from ctdbpy.cli.session import TIMEOUT_S, Session
from ctdbpy.config.paths import Paths
from ctdbpy.errors import CtdbpyError

EXIT_FAILED: Final = 1

_CANNOT_WRITE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

#: Commands and groups: module, attribute, and what the help says, which is not imported for that.
_ROWS: Final = {
    "status": ("ctdbpy.cli.status", "status", "Show the cluster at a glance."),
    "why": ("ctdbpy.cli.why", "why", "Say why a node or an address is as it is."),
    "events": ("ctdbpy.cli.why", "events", "Show what happened to nodes."),
    "top": ("ctdbpy.cli.top", "top", "Watch the cluster at work."),
    "node": ("ctdbpy.cli.node", "node", "Nodes: states, draining, roles, counters, running commands."),
    "ip": ("ctdbpy.cli.ip", "ip", "Public addresses, their interfaces and connections."),
    "db": ("ctdbpy.cli.db", "db", "Databases, their records, backups and modes."),
    "event": ("ctdbpy.cli.event", "event", "Event scripts: how they ended, running and enabling them."),
    "tunable": ("ctdbpy.cli.tunable", "tunable", "Settings that are changed while the daemon runs."),
    "cluster": ("ctdbpy.cli.cluster", "cluster", "Leader, recovery, lmasters, cluster lock."),
    "config": ("ctdbpy.cli.config", "config", "The configuration: show, check, import and apply it."),
    "log": ("ctdbpy.cli.log", "log", "The daemon's log."),
    "support-bundle": (
        "ctdbpy.cli.support_bundle",
        "support_bundle",
        "Write what somebody else needs to see what is wrong into one file.",
    ),
    "completion": ("ctdbpy.cli.completion", "completion", "What makes a shell complete commands."),
}


@click.group(
    cls=LazyGroup,
    rows=_ROWS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 it could not be done, 2 wrong usage.",
)
@click.option(
    "--socket", metavar="PATH", help="The daemon's socket; by default CTDB_SOCKET or the usual one."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for an answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.version_option(ctdbpy.__version__, prog_name="ctdbctl", message="%(prog)s %(version)s")
@click.pass_context
def ctdbctl(context: click.Context, socket: str | None, timeout: float, as_json: bool) -> None:
    """Ask the ctdbpy daemon of this node about the cluster."""
    if context.resilient_parsing:  # a shell completes a word
        return
    path = socket or str(Paths.from_environment(os.environ).socket)
    context.obj = Session(path, timeout, as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    if sys.stdout is None:  # closed by who started it: nobody reads, and that is no reason to do nothing
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = ctdbctl.main(argv, prog_name="ctdbctl", standalone_mode=False)
        sys.stdout.flush()
    except CtdbpyError as error:
        sys.stdout.flush()
        sys.stderr.write(f"ctdbctl: {error}\n")
        return EXIT_FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever reads has read enough. What is left in the buffer must not complain again at the end.
        _give_up_output()
        return EXIT_FAILED
    except OSError as error:
        # Commands name the files they fail on themselves; this is about where the answer goes.
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            raise
        _give_up_output()
        sys.stderr.write(f"ctdbctl: cannot write the answer: {error.strerror}\n")
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def _give_up_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
