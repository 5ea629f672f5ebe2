# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual pages of ctdbctl and ctdb, from the commands themselves.

python -m ctdbpy.cli.manual ctdbctl >docs/man/ctdbctl.8
python -m ctdbpy.cli.manual ctdb >docs/man/ctdb.1
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator

import click

from ctdbpy.cli.ctdb.program import OPTION_LINES
from ctdbpy.cli.ctdb.table import COMMANDS
from ctdbpy.cli.ctdbctl import ctdbctl

_LICENCE = '.\\" SPDX-License-Identifier: GPL-3.0-or-later'

_DESCRIPTION = """
talks to the daemon of the node it runs on, ctdbpyd(8). Questions are answered from what that daemon knows: of
a node that is silent the last known state is shown, since when, and why; nothing waits for it. What changes
something is waited for, unless --no-wait is given. What takes service or records away says so and asks; where
nobody sits at a terminal it wants --yes.

Options that every command has, such as --json, may stand in front of the command or behind it. In JSON
moments are in universal time, in text they are in local time. Tables are cut to the width of the terminal,
and have colours there unless NO_COLOR is set.

Reasons, as `why` shows them, are a node's own words. Of a node that cannot be reached, the last ones are
shown, and what the link to it broke from. Nodes that run upstream's daemon tell no reasons.
"""
_EXIT = """
0: Done.
1: It could not be done, and one line on standard error says why; or the answer to a question is no.
2: Wrong usage.
others: `node status` ends with the flags of the nodes, `node exec` with the exit code of the command.
"""
_ENVIRONMENT = """
CTDB_SOCKET: The client socket, in place of /run/ctdb/ctdbd.socket.
CTDB_TEST_MODE, CTDB_BASE: For tests: with both set, everything is below the directory CTDB_BASE.
ONNODE_SSH: What carries commands to nodes, in place of ssh.
NO_COLOR: When it is set there are no colours.
"""
_CTDB = """
does what scripts written for upstream's program expect: the same arguments, texts and exit codes. People find
more in ctdbctl(8).

Where a command can be about another node than this one, -n names it. Exit codes are 0 for success, 1 or an
error number otherwise; nodestatus ends with the flags of the nodes.
"""
_CTDB_ENVIRONMENT = """
CTDB_SOCKET: The client socket, in place of /run/ctdb/ctdbd.socket.
CTDB_TIMEOUT: Seconds after which the program gives up, as -T.
CTDB_TEST_MODE, CTDB_BASE: For tests: everything is below the directory CTDB_BASE.
CTDB_NATGW_HELPER, CTDB_LVS_HELPER, CTDB_EVENT_HELPER: Programs to run for these commands.
"""
_EXAMPLE = """\
# ctdbctl why 2
node 2 10.77.0.3: BANNED
    BANNED since 2026-03-02 09:14:07.512: banned for 300 s: asked for by node 0:
    6 ban credits, the last for: a recovery failed: DB_FREEZE on node 2: ctdb_control timed out
"""


def ctdbctl_page() -> str:
    """The page of ctdbctl."""
    lines = [
        _LICENCE,
        '.TH CTDBCTL 8 "" ctdbpy "System administration"',
        ".SH NAME",
        "ctdbctl \\- look after a cluster of ctdbpyd",
        ".SH SYNOPSIS",
        ".B ctdbctl",
        "[OPTIONS] COMMAND [ARGUMENTS]",
        ".SH DESCRIPTION",
        ".B ctdbctl",
        *_paragraphs(_DESCRIPTION),
        ".SH OPTIONS",
        *_options(ctdbctl),
        ".SH COMMANDS",
        *_commands(ctdbctl, ()),
        '.SH "EXIT STATUS"',
        *_entries(_listed(_EXIT)),
        ".SH ENVIRONMENT",
        *_entries(_listed(_ENVIRONMENT)),
        ".SH EXAMPLE",
        ".nf",
        *(_troff(line) for line in _EXAMPLE.splitlines()),
        ".fi",
        '.SH "SEE ALSO"',
        ".BR ctdbpyd (8),",
        ".BR ctdb (1)",
    ]
    return "\n".join(lines) + "\n"


def ctdb_page() -> str:
    """The page of ctdb."""
    lines = [
        _LICENCE,
        '.TH CTDB 1 "" ctdbpy "User commands"',
        ".SH NAME",
        "ctdb \\- ask the cluster daemon, for scripts written for upstream's program",
        ".SH SYNOPSIS",
        ".B ctdb",
        "[OPTIONS] COMMAND [ARGUMENTS]",
        ".SH DESCRIPTION",
        ".B ctdb",
        *_paragraphs(_CTDB),
        ".SH OPTIONS",
        *_entries((name.strip(), f"{words.capitalize()}.") for name, words in OPTION_LINES),
        ".SH COMMANDS",
        *_entries(
            (f"{row.name} {row.arguments}".strip(), f"{row.text.capitalize()}.") for row in COMMANDS.values()
        ),
        ".SH ENVIRONMENT",
        *_entries(_listed(_CTDB_ENVIRONMENT)),
        '.SH "SEE ALSO"',
        ".BR ctdbctl (8),",
        ".BR ctdbpyd (8)",
    ]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, words: tuple[str, ...]) -> Iterator[str]:
    context = click.Context(group, info_name=" ".join(words))
    single: list[tuple[str, click.Command]] = []
    groups: list[tuple[str, click.Group]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            groups.append((name, command))
        else:
            single.append((name, command))
    for name, command in single:
        yield from _command(command, (*words, name))
    for name, each in groups:
        yield f".SS {name}"
        yield from _prose(each.help or "")
        yield from _commands(each, (*words, name))


def _command(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
    context = click.Context(command)
    arguments = [param.make_metavar(context) for param in command.params if isinstance(param, click.Argument)]
    yield ".TP"
    yield f".B {_troff(' '.join(words))}" + (f" {_troff(' '.join(arguments))}" if arguments else "")
    yield from _prose(command.help or "")
    # What all have in common stands in DESCRIPTION.
    named = [(name, text) for name, text in _named(command) if name not in ("--json", "--help", "-h, --help")]
    if named:
        yield ".RS"
        yield from _entries(named)
        yield ".RE"


def _named(command: click.Command) -> Iterator[tuple[str, str]]:
    context = click.Context(command)
    for param in command.params:
        record = param.get_help_record(context) if isinstance(param, click.Option) else None
        if record is not None:
            yield record


def _options(command: click.Command) -> Iterator[str]:
    yield from _entries(_named(command))
    yield from _entries([("-h, --help", "Say how it is used; behind a command, how that command is.")])


def _entries(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in entries:
        yield ".TP"
        yield f".B {_troff(name)}"
        yield _troff(text)


def _prose(text: str) -> Iterator[str]:
    """The paragraphs of a docstring; one that begins with \\b keeps its lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".IP"
        if paragraph.startswith("\b"):
            yield ".nf"
            yield from (_troff(line) for line in paragraph.splitlines()[1:])
            yield ".fi"
        else:
            yield _troff(" ".join(paragraph.split()))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield ".PP"
        yield _troff(" ".join(paragraph.split()))


def _listed(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a list, each a name and what it means."""
    for line in text.strip().splitlines():
        name, _colon, meaning = line.partition(": ")
        yield name, meaning


def _troff(text: str) -> str:
    """Text in which nothing means something to troff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


PAGES = {"ctdbctl": ctdbctl_page, "ctdb": ctdb_page}

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
