# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `onnode` for scripts written for upstream's; people have `ctdbctl node exec`.

Checked by upstream's own tests of it (docs/upstream-tests.md).
"""

from __future__ import annotations

import getopt
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_USAGE: Final = """\
Usage: onnode [OPTION] ... <NODES> <COMMAND> ...
    -c       run it in the directory of the same name
    -f FILE  read the nodes from there
    -i       leave standard input open
    -n       nodes may be named by host names
    -p       run it on all nodes at a time
    -P       copy files to the nodes by rsync, and run nothing
    -q       do not print which node says what
    -v       print that for one node, too
    NODES    all, any, ok (healthy), con (connected), a number, a range such as 1-3, or a list with commas
"""
_DEAD: Final = ""
_GROUPS: Final = ("all", "any", "ok", "healthy", "con", "connected")


class _Failed(Exception):
    """The program ends with exit code 1, saying this."""


@dataclass(frozen=True, slots=True)
class _Options:
    flags: frozenset[str]
    nodes_file: str
    which: str
    command: tuple[str, ...]

    def has(self, letter: str) -> bool:
        return f"-{letter}" in self.flags


def start() -> int:
    """Be the program."""
    return main(sys.argv[1:])


def main(argv: Sequence[str]) -> int:
    """Run a command on nodes; the exit code of the last node where it failed."""
    try:
        options = _parse(argv)
        nodes = _select(options)
        return _push_all(options, nodes) if options.has("P") else _run_all(options, nodes)
    except _Failed as failed:
        sys.stdout.flush()
        sys.stderr.write(f"{failed}\n" if str(failed) else _USAGE)
        return 1


def _parse(argv: Sequence[str]) -> _Options:
    try:
        found, words = getopt.getopt(list(argv), "cf:hnpqvPi?")
    except getopt.GetoptError:
        raise _Failed from None
    options = dict(found)
    if len(words) < 2 or "-h" in options or "-?" in options:
        raise _Failed
    return _Options(frozenset(options), options.get("-f", ""), words[0], tuple(words[1:]))


# -- nodes --------------------------------------------------------------------------------------------


def _base() -> Path:
    return Path(os.environ.get("CTDB_BASE") or "/etc/ctdb")


def _read_nodes(options: _Options) -> list[str]:
    """The addresses; a line without one keeps its number."""
    path = Path(options.nodes_file or _base() / "nodes")
    if options.nodes_file and not path.exists() and not path.is_absolute():
        path = _base() / path
    try:
        lines = path.read_text().splitlines()
    except OSError:
        raise _Failed(f'onnode: unable to open nodes file  "{path}"') from None
    return [line.split("#", 1)[0].replace(" ", "") for line in lines]


def _select(options: _Options) -> list[str]:
    nodes = _read_nodes(options)
    selected: list[str] = []
    for word in _words(options):
        if word == "all":
            selected += [node for node in nodes if node != _DEAD]
        elif word == "any":
            selected.append(_any(options, nodes))
        elif word in ("ok", "healthy", "con", "connected"):
            selected += [_nth(nodes, pnn) for pnn in _with_status(is_well=word in ("ok", "healthy"))]
        elif word.isdecimal() and len(word) <= 3:
            selected.append(_nth(nodes, int(word)))
        else:
            selected.append(word)
    return selected


def _words(options: _Options) -> list[str]:
    """The parts of NODES, ranges as their numbers. Raises _Failed for what is none."""
    words: list[str] = []
    for part in options.which.split(","):
        first, dash, last = part.partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            words += [str(number) for number in range(int(first), int(last) + 1)]
        elif dash and not options.has("n"):
            raise _Failed(f"Invalid <nodespec>\n\n{_USAGE.rstrip()}")
        elif (
            part in ("all", "any", "ok", "healthy", "con", "connected")
            or part.isdecimal()
            or options.has("n")
        ):
            words.append(part)
        else:
            raise _Failed(f"Invalid <nodespec>\n\n{_USAGE.rstrip()}")
    return words


def _nth(nodes: list[str], number: int) -> str:
    if number >= len(nodes) or nodes[number] == _DEAD:
        raise _Failed(f'onnode: "node {number}" does not exist')
    return nodes[number]


def _with_status(*, is_well: bool) -> list[int]:
    """The nodes that are well, or connected, as `ctdb` says."""
    try:
        done = subprocess.run(
            ["ctdb", "-X", "status"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError as error:
        raise _Failed(f"onnode: unable to get status of CTDB nodes\nctdb: {error.strerror}") from None
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        raise _Failed(f"onnode: unable to get status of CTDB nodes\n{said.rstrip()}")
    found = []
    for line in said.splitlines()[1:]:
        _empty, pnn, _address, *bits = line.split("|")
        if "1" not in bits if is_well else bits[0] == "0":
            found.append(int(pnn))
    return found


def _any(options: _Options, nodes: list[str]) -> str:
    """The first node whose daemon answers."""
    runs = [_start(_carrier(), node, "ctdb pnn", merged=True) for node in nodes if node != _DEAD]
    said = [run.communicate()[0].decode(errors="replace") for run in runs]
    for line in "\n".join(said).splitlines():
        if line.isdecimal():
            return _nth(nodes, int(line))
    raise _Failed("onnode: no node answers")


# -- running ------------------------------------------------------------------------------------------


def _carrier() -> list[str]:
    """What carries commands, and -n, which closes its standard input."""
    conf = _base() / "onnode.conf"
    chosen = os.environ.get("ONNODE_SSH") or ""
    if os.access(conf, os.R_OK):
        script = '. "$0"; printf %s "$ONNODE_SSH"'
        done = subprocess.run(["sh", "-c", script, str(conf)], stdout=subprocess.PIPE, check=False)
        chosen = done.stdout.decode(errors="replace")
    return [*shlex.split(chosen or "ssh"), "-n"]


def _start(carrier: list[str], node: str, command: str, *, merged: bool = False) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [*carrier, node, command],
            stdout=subprocess.PIPE if merged else None,
            stderr=subprocess.STDOUT if merged else None,
        )
    except OSError as error:
        raise _Failed(f"onnode: {carrier[0]}: {error.strerror}") from None


def _run_all(options: _Options, nodes: list[str]) -> int:
    command = " ".join(options.command)
    if options.has("c"):
        command = f"cd {os.getcwd()} && {command}"
    carrier = _carrier()
    if options.has("i") and not options.has("p"):
        carrier.remove("-n")
    is_verbose = _is_verbose(options, nodes)
    if options.has("p"):
        return _run_together(carrier, nodes, command, is_verbose=is_verbose)
    code = 0
    for node in nodes:
        _head(node, is_verbose)
        code = _start(carrier, node, command).wait() or code
    return code


def _run_together(carrier: list[str], nodes: list[str], command: str, *, is_verbose: bool) -> int:
    runs = [(node, _start(carrier, node, command, merged=is_verbose)) for node in nodes]
    readers = []
    if is_verbose:
        for node, run in runs:
            reader = threading.Thread(target=_repeat, args=(node, run), daemon=True)
            reader.start()
            readers.append(reader)
    code = 0
    for _node, run in runs:
        code = run.wait() or code
    for reader in readers:
        reader.join()
    return code


def _repeat(node: str, run: subprocess.Popen[bytes]) -> None:
    """Print what it says, each line with its node."""
    assert run.stdout is not None
    for line in run.stdout:
        sys.stdout.buffer.write(b"[" + node.encode() + b"] " + line)
        sys.stdout.buffer.flush()


def _push_all(options: _Options, nodes: list[str]) -> int:
    environ = dict(os.environ)
    if environ.get("ONNODE_SSH"):
        environ["RSYNC_RSH"] = environ["ONNODE_SSH"]
    is_verbose = _is_verbose(options, nodes)
    code = 0
    for node in nodes:
        _head(node, is_verbose)
        for name in options.command:
            path = os.path.join(os.getcwd(), name)
            if is_verbose:
                print(f"Pushing {name}", flush=True)
            done = subprocess.run(["rsync", path, f"[{node}]:{path}"], env=environ, check=False)
            code = done.returncode or code
    return code


def _is_verbose(options: _Options, nodes: list[str]) -> bool:
    return not options.has("q") and (options.has("v") or len(nodes) > 1)


def _head(node: str, is_verbose: bool) -> None:
    if is_verbose:
        sys.stdout.flush()
        sys.stderr.write(f"\n>> NODE: {node} <<\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(start())
