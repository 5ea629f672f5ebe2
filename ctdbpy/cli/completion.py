# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl completion`: the lines that a shell's start file evaluates."""

from __future__ import annotations

import click

from ctdbpy.errors import ClientError

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what SHELL evaluates to complete ctdbctl's commands and options.

    \b
    bash: eval "$(ctdbctl completion bash)"
    zsh:  eval "$(ctdbctl completion zsh)"
    fish: ctdbctl completion fish | source
    """
    from click.shell_completion import get_completion_class

    from ctdbpy.cli.ctdbctl import ctdbctl

    kind = get_completion_class(shell)
    if kind is None:
        raise ClientError(f"cannot complete for '{shell}': it is unknown; there are {', '.join(_SHELLS)}")
    click.echo(kind(ctdbctl, {}, "ctdbctl", "_CTDBCTL_COMPLETE").source())
