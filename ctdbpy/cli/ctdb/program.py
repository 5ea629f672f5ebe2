# SPDX-License-Identifier: GPL-3.0-or-later
"""The program: its options, which may stand anywhere, the connection, the command, the exit code.

Source: reference tables of docs/coming-from-ctdb.md; checked against Debian's program on the same daemon.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ctdbpy.cli.ctdb.table import COMMANDS, Command
from ctdbpy.cli.ctdb.tool import BadUsage, Failed, Options, Tool, code_of, flags_text, parse_number, warn
from ctdbpy.client.connection import Connection, NoDaemon
from ctdbpy.config.paths import Paths
from ctdbpy.errors import CtdbpyError
from ctdbpy.wire.constants import NodeFlag

MAXRUNTIME_S: Final = 120

#: Options with a value: the field of Options, and whether it is a number.
_VALUED: Final = {
    "debug": ("debug", False),
    "timelimit": ("timelimit_s", True),
    "node": ("node", True),
    "separator": ("separator", False),
    "maxruntime": ("maxruntime_s", True),
}
_FLAGS: Final = {"verbose": "is_verbose", "json": "is_json"}
_SHORT: Final = {
    "d": "debug",
    "t": "timelimit",
    "n": "node",
    "x": "separator",
    "T": "maxruntime",
    "v": "verbose",
    "j": "json",
    "Y": "machine",
    "X": "machine",
    "?": "help",
}
OPTION_LINES: Final = (
    ("-d, --debug=STRING", "log level of this program"),
    ("-t, --timelimit=INT", "seconds to wait for each answer"),
    ("-n, --node=INT", "the node to ask"),
    ("-Y", "machine readable output"),
    ("-x, --separator=CHAR", "what divides its fields"),
    ("-X", "machine readable output with separator |"),
    ("-j, --json", "JSON (status and version)"),
    ("-v, --verbose", "more output"),
    ("-T, --maxruntime=INT", "seconds after which the program gives up"),
    ("-?, --help", "show this help"),
    ("    --usage", "show the options in short"),
)


class _Help(Exception):
    """Help is wanted; the name of the option says which."""


def start() -> int:
    """Be the program."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return main(sys.argv[1:])


def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code."""
    try:
        options, words = parse(argv)
        code = _run(options, words)
    except _Help as asked:
        print_help(brief=str(asked) == "usage")
        code = 0
    except BadUsage:
        code = 1
    except Failed as failed:
        if failed.text:
            warn(failed.text)
        code = failed.code
    sys.stdout.flush()
    return code & 0xFF


# -- options ----------------------------------------------------------------------------------------


def parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """Options and the words between them. Raises Failed."""
    values: dict[str, Any] = {}
    words: list[str] = []
    left = list(argv)
    while left:
        word = left.pop(0)
        if word == "--":
            words += left
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            _take(values, word, name, value if equals else None, left)
        elif word.startswith("-") and len(word) > 1:
            _parse_short(values, word, left)
        else:
            words.append(word)
    return replace(Options(), **values), words


def _parse_short(values: dict[str, Any], word: str, left: list[str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _SHORT.get(letter)
        if name is None:
            raise Failed(1, f"Invalid option -{letter}: unknown option")
        if name in _VALUED:
            _take(values, f"-{letter}", name, letters.removeprefix("=") if letters else None, left)
            return
        _take(values, f"-{letter}", name, None, left)


def _take(values: dict[str, Any], shown: str, name: str, value: str | None, left: list[str]) -> None:
    if name in ("help", "usage"):
        raise _Help(name)
    if name == "machine" and shown in ("-X", "-Y"):
        values["is_machine"] = True
        return
    if name in _FLAGS:
        values[_FLAGS[name]] = True
        return
    if name not in _VALUED:
        raise Failed(1, f"Invalid option {shown}: unknown option")
    field, is_number = _VALUED[name]
    if value is None:
        if not left:
            raise Failed(1, f"Invalid option {shown}: missing argument")
        value = shown = left.pop(0)
    if not is_number:
        values[field] = value
        return
    number = parse_number(value)
    if number is None:
        raise Failed(1, f"Invalid option {shown}: invalid numeric value")
    values[field] = number


# -- running ------------------------------------------------------------------------------------------


def _run(options: Options, words: list[str]) -> int:
    limit_s = _maxruntime(options)
    if not words:
        print_help()
        return 1
    name, arguments = words[0], words[1:]
    command = COMMANDS.get(name)
    if command is None:
        raise Failed(1, f"Unknown command '{name}'")
    if options.is_json:
        if options.is_machine:
            raise Failed(1, "Machine readable output and JSON cannot be asked for at the same time")
        if name not in ("status", "version"):
            raise Failed(1, f"--json not supported by the {name} subcommand")
    with _limited_runtime(limit_s):
        return _run_command(options, command, arguments)


def _run_command(options: Options, command: Command, arguments: list[str]) -> int:
    name = command.name
    if not command.needs_daemon:
        if options.node != -1:
            raise Failed(1, f"Cannot specify node for command {name}")
        return _perform(command, Tool(options, None), arguments)
    with _connect(options) as connection:
        tool = Tool(options, connection)
        if options.node != -1:
            _check_node(tool)
        if not command.is_remote and tool.cmd_pnn != tool.pnn:
            raise Failed(1, f"Node cannot be specified for command {name}")
        try:
            tool.all_nodes.listen_for_leader()
        except CtdbpyError:
            raise Failed(1, "Failed to setup leader handler") from None
        return _perform(command, tool, arguments)


def _perform(command: Command, tool: Tool, arguments: list[str]) -> int:
    least, most = command.counts
    try:
        if not least <= len(arguments) <= most:
            raise BadUsage
        module = importlib.import_module(f"ctdbpy.cli.ctdb.{command.module}")
        code: int | None = getattr(module, command.function)(tool, *arguments)
    except BadUsage:
        print_usage(command)
        return 1
    except CtdbpyError as error:
        if tool.options.debug.upper() != "ERROR":
            warn(f"ctdb: {error}")
        return code_of(error)
    return code or 0


def _connect(options: Options) -> Connection:
    path = str(Paths.from_environment(os.environ).socket)
    try:
        return Connection(path, timeout_s=max(1, options.timelimit_s))
    except NoDaemon as error:
        if isinstance(error.__cause__, OSError):
            warn(f"connect() failed, errno={error.__cause__.errno}")
        warn(f"Failed to connect to CTDB daemon ({path})")
    except CtdbpyError as error:
        raise Failed(code_of(error), f"ctdb: {error}") from None
    from ctdbpy.cli.ctdb.nodes import is_own_address_listed

    raise Failed(1, "" if is_own_address_listed() else "Is this node part of CTDB cluster?")


def _check_node(tool: Tool) -> None:
    node = tool.find_node(tool.options.node)
    if node.flags & (NodeFlag.DISCONNECTED | NodeFlag.DELETED):
        raise Failed(1, f"Node {node.pnn} has status {flags_text(node.flags)}")


def _maxruntime(options: Options) -> int:
    if options.maxruntime_s:
        return options.maxruntime_s
    text = os.environ.get("CTDB_TIMEOUT")
    if text is None:
        return MAXRUNTIME_S
    limit_s = parse_number(text)
    if limit_s is None:
        raise Failed(1, "Invalid value CTDB_TIMEOUT")
    return limit_s


@contextmanager
def _limited_runtime(limit_s: int) -> Iterator[None]:
    # A thread, as a signal's handler would wait for what the main thread waits for, such as a lock of libtdb.
    watchdog = threading.Timer(limit_s, _give_up)
    watchdog.daemon = True
    if limit_s > 0:
        watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _give_up() -> None:
    """End the helpers that this program started, and then itself."""
    sys.stderr.write("Maximum runtime exceeded - exiting\n")
    sys.stderr.flush()
    for pid in _descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    os._exit(1)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found += [child, *_descendants(child)]
    return found


# -- help ---------------------------------------------------------------------------------------------


def print_help(*, brief: bool = False) -> None:
    """The options, and unless `brief` every command."""
    if brief:
        print("Usage: ctdb " + " ".join(f"[{name.strip().split(', ')[0]}]" for name, _text in OPTION_LINES))
        return
    print("Usage: ctdb [OPTION...] COMMAND [ARGUMENT...]")
    for name, text in OPTION_LINES:
        print(f"  {name:<27} {text}")
    print("\nCommands:")
    for row in COMMANDS.values():
        print(_help_line(row))


def print_usage(command: Command) -> None:
    """How one command is used."""
    print_help(brief=True)
    print("\nCommands:")
    print(_help_line(command))


def _help_line(row: Command) -> str:
    return f"  {row.name:<15} {row.arguments:<27}  {row.text}"
