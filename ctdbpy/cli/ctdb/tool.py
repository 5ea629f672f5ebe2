# SPDX-License-Identifier: GPL-3.0-or-later
"""What every command of `ctdb` works with: its options, the connection, the nodes, and ways to fail."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from ctdbpy.client.connection import Connection, Refused, TimeUp
from ctdbpy.client.databases import Database, Unknown, find_database
from ctdbpy.client.nodes import Cluster
from ctdbpy.errors import ClientError, CtdbpyError
from ctdbpy.wire.constants import NodeFlag, flag_names
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import NodeEntry, NodeMap

#: Shown of nodes about which a daemon that has just started knows nothing yet; no daemon ever sets it.
UNKNOWN: Final = 0x40

_ENDLESS_S: Final = 10 * 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Options:
    """What stands before, between and behind the command's own arguments."""

    timelimit_s: int = 10
    node: int = -1
    is_machine: bool = False
    is_json: bool = False
    separator: str = "|"
    is_verbose: bool = False
    maxruntime_s: int = 0
    debug: str = "ERROR"


class Failed(Exception):
    """The command ends: `text` goes to stderr, `code` is the exit code."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class BadUsage(Exception):
    """The arguments are not what the command takes."""


class Tool:
    """One run of the program; `cmd_pnn` is the node that the command is about."""

    def __init__(self, options: Options, connection: Connection | None) -> None:
        self.options = options
        self._connection = connection
        self._nodes: tuple[NodeEntry, ...] | None = None
        # How long deeds may take is bounded by the program's own limit.
        self.cluster = Cluster(self.connection, limit_s=_ENDLESS_S) if connection is not None else None
        self.pnn = connection.pnn if connection is not None else -1
        self.cmd_pnn = self.pnn if options.node == -1 else options.node

    @property
    def connection(self) -> Connection:
        assert self._connection is not None, "a command without a daemon asked it something"
        return self._connection

    @property
    def all_nodes(self) -> Cluster:
        assert self.cluster is not None
        return self.cluster

    # -- asking --------------------------------------------------------------------------

    def ask(self, opcode: Control, value: object = None, *, pnn: int | None = None) -> Any:
        """Ask a node, by default the one that the command is about."""
        destnode = self.cmd_pnn if pnn is None else pnn
        try:
            return self.connection.ask(opcode, value, destnode=destnode)
        except Refused as error:
            warn(f"Control {opcode.name} failed, ret={error.status}")
            raise
        except TimeUp:
            warn(f"Control {opcode.name} failed to node {destnode}, ret={errno.ETIME}")
            raise

    def status(self, opcode: Control, value: object = None) -> int:
        """Ask it for what it answers as a status."""
        return self.connection.control(opcode, value, destnode=self.cmd_pnn).status

    @property
    def nodes(self) -> tuple[NodeEntry, ...]:
        """The nodes as this daemon knows them, or as another does when this node is banned."""
        if self._nodes is None:
            self._nodes = self._find_nodes()
        return self._nodes

    def _find_nodes(self) -> tuple[NodeEntry, ...]:
        pnn = self.pnn
        while True:
            with self.saying(f"Failed to get nodemap from node {pnn}", code=1):
                found: NodeMap = self.connection.ask(Control.GET_NODEMAP, destnode=pnn)
            nodes = found.nodes
            if not nodes[pnn].flags & NodeFlag.BANNED:
                return nodes
            others = [(pnn + step) % len(nodes) for step in range(1, len(nodes))]
            gone = NodeFlag.DELETED | NodeFlag.DISCONNECTED
            for other in others:
                if other == self.pnn:
                    break
                if not nodes[other].flags & gone:
                    pnn = other
                    break
            else:
                other = self.pnn
            if other == self.pnn:
                raise Failed(1, "Warning: All nodes are banned.")

    def find_node(self, pnn: int) -> NodeEntry:
        """A node by number."""
        for node in self.nodes:
            if node.pnn == pnn:
                return node
        raise Failed(1, f"Node {pnn} does not exist")

    def parse_nodes(self, text: str | None) -> list[NodeEntry]:
        """`all`, or numbers with commas; without a text the node that the command is about."""
        if text is None:
            return [node for node in self.nodes if node.pnn == self.cmd_pnn]
        if text == "all":
            return list(self.nodes)
        found = []
        for word in filter(None, text.split(",")):
            pnn = parse_number(word)
            if pnn is None:
                raise Failed(1, f"Invalid node {word}")
            found.append(self.find_node(pnn & 0xFFFFFFFF))
        return found

    def database(self, name: str) -> Database:
        """An attached database by name or number."""
        try:
            return find_database(self.connection, name)
        except Unknown:
            raise Failed(1, f"No database matching '{name}' found") from None
        except ClientError:
            raise Failed(1) from None

    # -- answering -----------------------------------------------------------------------

    def row(self, *fields: object) -> None:
        """One line of machine readable output."""
        separator = self.options.separator
        print(separator, separator.join(str(field) for field in fields), separator, sep="")

    @contextmanager
    def saying(self, text: str, *, code: int | None = None) -> Iterator[None]:
        """Fail with this text, and the daemon's status or `code`, when what is asked inside fails."""
        try:
            yield
        except CtdbpyError as error:
            raise Failed(code_of(error) if code is None else code, text) from None


def code_of(error: Exception) -> int:
    """The exit code that upstream's program ends with on such an error."""
    match error:
        case Refused(status=status):
            return 1 if status == -1 else status
        case TimeUp():
            return errno.ETIME
        case OSError(errno=int(number)):
            return number
        case _:
            return 1


def unknown_yet(nodes: Sequence[NodeEntry], own_pnn: int) -> list[NodeEntry]:
    """The nodes with those unknown that a daemon before its first recovery knows nothing about."""
    gone = NodeFlag.DELETED | NodeFlag.DISCONNECTED
    return [
        node if node.flags & gone or node.pnn == own_pnn else replace(node, flags=UNKNOWN) for node in nodes
    ]


def flags_text(flags: int) -> str:
    """Flags as they stand in the table of nodes."""
    if not flags:
        return "OK"
    names = [
        flag_names(NodeFlag(flag)) for flag in (0x01, UNKNOWN, 0x04, 0x08, 0x02, 0x10, 0x20) if flags & flag
    ]
    names = ["UNKNOWN" if name == "OK" else name for name in names]
    if flags & NodeFlag.INACTIVE:
        names.append("INACTIVE")
    return "|".join(names)


def parse_number(text: str) -> int | None:
    """A number as C programs read it: decimal, 0x hexadecimal or 0 octal; None if it is none."""
    try:
        digits = text.strip().lower()
        sign = -1 if digits.startswith("-") else 1
        digits = digits.lstrip("+-")
        if digits.startswith("0") and digits.isdigit() and len(digits) > 1:
            return sign * int(digits, 8)
        return sign * int(digits, 0)
    except ValueError:
        return None


def leading_number(text: str) -> int:
    """The decimal number a text begins with, as atoi reads it; 0 when there is none."""
    digits = text.strip()
    sign = -1 if digits[:1] == "-" else 1
    digits = digits[1:] if digits[:1] in ("+", "-") else digits
    end = 0
    while end < len(digits) and digits[end].isascii() and digits[end].isdigit():
        end += 1
    return sign * int(digits[:end] or 0)


def warn(text: str) -> None:
    """A line on stderr."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
