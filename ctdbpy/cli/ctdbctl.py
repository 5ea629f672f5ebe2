# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl`: ask the daemon of this node. Each group of commands has a module of its own.

Exit codes: 0 done, 1 it could not be done (one line on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

import ctdbpy
from ctdbpy.cli import config, why
from ctdbpy.cli.session import TIMEOUT_S, Session
from ctdbpy.config.paths import Paths
from ctdbpy.errors import CtdbpyError

EXIT_FAILED = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    path = socket or str(Paths.from_environment(os.environ).socket)
    context.obj = Session(path, timeout, as_json)


for command in why.COMMANDS:
    ctdbctl.add_command(command)
ctdbctl.add_command(config.config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        code = ctdbctl.main(argv, prog_name="ctdbctl", standalone_mode=False)
    except CtdbpyError as error:
        sys.stderr.write(f"ctdbctl: {error}\n")
        return EXIT_FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_FAILED
    return code if isinstance(code, int) else 0
