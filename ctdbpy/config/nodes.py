# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes file: which addresses form the cluster, in the order that gives each node its pnn.

Source: ctdb(7) "PRIVATE ADDRESSES"; checked against `ctdb listnodes` of 4.17.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ctdbpy.config.addresses import parse_address, why_not_an_address
from ctdbpy.config.files import read_text
from ctdbpy.errors import ConfigError

PORT_DEFAULT = 4379
DELETED_ADDRESS = "0.0.0.0"
NODES_COMMAND_TIMEOUT_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """One node: its pnn is its place in the file. A deleted node keeps it, with the address 0.0.0.0."""

    pnn: int
    address: str
    deleted: bool = False
    line: int = field(default=0, compare=False)
    """Where it stands in its file; 0 nowhere."""
    name: str = field(default="", compare=False)
    """What administrators call it; the nodes file has none."""


def load_nodes(source: str | Path) -> tuple[NodeAddress, ...]:
    """Read the nodes file, or run `!command args` and read what it prints.

    A command may take up to NODES_COMMAND_TIMEOUT_S: call this from an executor once the daemon serves.
    Raises ConfigError: file or command missing, no node left, an address wrong or there twice.
    """
    name = str(source)
    if name.startswith("!"):
        return parse_nodes(_output_of(name[1:]), name)
    text = read_text(Path(name))
    if text is None:
        raise ConfigError(
            f"cannot load the nodes from '{name}': there is no such file; "
            "write it with the private address of every node, one on a line, the same on all nodes"
        )
    return parse_nodes(text, name)


def parse_nodes(text: str, source: str) -> tuple[NodeAddress, ...]:
    """Read the text of a nodes file, called `source` in errors. Raises ConfigError for all wrong lines."""
    nodes: list[NodeAddress] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(" \t\r")
        if not line:
            continue
        pnn = len(nodes)
        if line.startswith("#"):
            nodes.append(NodeAddress(pnn, DELETED_ADDRESS, deleted=True, line=number))
            continue
        address = parse_address(line)
        if address is None:
            problems.append(f"{source}:{number}: '{line}' is not valid: {why_not_an_address(line)}")
        elif address in seen:
            problems.append(
                f"{source}:{number}: '{address}' stands on line {seen[address]} already; "
                "each node has its own address"
            )
        else:
            seen[address] = number
        # A wrong line still takes its pnn, so that later lines are judged as they count once it is mended.
        nodes.append(NodeAddress(pnn, address or line, line=number))
    if not problems and not seen:
        problems.append(
            f"{source}:1: it names no node; write the private address of every node, one on a line"
        )
    if problems:
        raise ConfigError("cannot load the nodes: " + "\n".join(problems))
    return tuple(nodes)


def find_own_node(
    nodes: tuple[NodeAddress, ...], node_address: str | None, bind: Callable[[NodeAddress], T]
) -> tuple[NodeAddress, T]:
    """Return which node this host is and what `bind` returned for it (the listening socket).

    With `node_address` only that node is tried; otherwise the first that `bind` does not refuse with OSError.
    Raises ConfigError that says for each address why it is not ours.
    """
    candidates = [node for node in nodes if not node.deleted and node_address in (None, node.address)]
    if not candidates:
        raise ConfigError(address_not_listed(node_address, nodes))
    refusals: list[str] = []
    for node in candidates:
        try:
            return node, bind(node)
        except OSError as error:
            refusals.append(f"'{node.address}' (pnn {node.pnn}): {error.strerror or error}")
    raise ConfigError(
        "cannot find this node's own address: none of the nodes file can be bound: "
        + "; ".join(refusals)
        + "; is the private network up, is the nodes file the right one, does another daemon use the port?"
    )


def address_not_listed(node_address: str | None, nodes: tuple[NodeAddress, ...]) -> str:
    """Say that the setting `node address` names no node of the nodes file."""
    listed = ", ".join(node.address for node in nodes if not node.deleted)
    return (
        f"cannot use node address '{node_address}': the nodes file has only {listed}; "
        "mend '[cluster] node address' in ctdb.conf or the nodes file"
    )


def node_port(port: int | None) -> int:
    """Return the TCP port of node links: the one set, else that of service `ctdb`, else 4379."""
    if port is not None:
        return port
    try:
        return socket.getservbyname("ctdb", "tcp")
    except OSError:
        return PORT_DEFAULT


def _output_of(command: str) -> str:
    """Run a nodes command and return what it prints; arguments are divided by blanks, nothing is quoted."""
    argv = command.split()
    if not argv:
        raise ConfigError(
            "cannot load the nodes: '!' has no command after it; name it in '[cluster] nodes list'"
        )
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=NODES_COMMAND_TIMEOUT_S, check=False
        )
        output = done.stdout.decode()
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"cannot load the nodes from '!{command}': it did not end within {NODES_COMMAND_TIMEOUT_S:g} s"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot load the nodes from '!{command}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"cannot load the nodes from '!{command}': it prints bytes that are not UTF-8"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(
            f"cannot load the nodes from '!{command}': it ended with status {done.returncode}"
            + (f" and said '{said}'" if said else "")
        )
    return output
