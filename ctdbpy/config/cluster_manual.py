# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual page of cluster.yaml: `python -m ctdbpy.config.cluster_manual >docs/man/cluster.yaml.5`.

What there is to write is a table here, held by a test to what the reader takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Final

#: By title: names, and what is written there.
KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "KEYS": {
        "nodes": "A list of all nodes, those that have gone included; see NODES.",
        "cluster lock": "What only one side of a split cluster can hold: a file in the cluster file system, "
        "or !PROGRAM ARGUMENTS.",
        "quorum": "What a node needs to serve: auto, majority, lock or none.",
        "addresses": "A list of the public addresses; see ADDRESSES.",
        "settings": "By section, options as ctdbpy.conf(5) has them, for all nodes.",
        "tunables": "Numbers by name, as ctdbpy.conf(5) has them, for all nodes.",
        "services": "Variables for event scripts, by the name of a script such as 50.samba, or for all of "
        "them by the name all.",
    },
    "NODES": {
        "number": "The node's number. It stands in databases and logs, never changes, and is never given to "
        "another node.",
        "name": "A name to call it by; it may be left out.",
        "address": "Its private address. The host that has the address is the node.",
        "deleted": "yes for a node that has gone; nothing but its number stands beside it.",
        "settings": "As above, for this node alone. They count more than those for all.",
        "tunables": "As above, for this node alone.",
    },
    "ADDRESSES": {
        "address": "ADDRESS/BITS.",
        "interfaces": "A list of interfaces that it may stand at.",
        "nodes": "A list of the nodes that may host it, by number or name; any node if it is left out.",
        "home": "The node where the deterministic allocation puts it.",
    },
}

_ABOUT: Final = """\
One YAML file configures the whole cluster, the same on every node. Where it is there, upstream's files in
/etc/ctdb are not read. A file that cannot be read or is wrong stops the start; it never makes the daemon fall
back.

`ctdbctl config check` finds what is wrong with it, each mistake with its line and what to do. `ctdbctl config
apply` brings it to all nodes and has what can be used at once used; `ctdbctl config import` makes one from
upstream's files.

Values are read as ctdbpy.conf(5) says, from their text. Aliases are refused.
"""
_EXAMPLE: Final = """\
nodes:
  - {number: 0, name: alpha, address: 10.0.0.1}
  - {number: 1, name: beta, address: 10.0.0.2}
  - {number: 2, deleted: true}
addresses:
  - {address: 192.0.2.10/24, interfaces: [eth0], home: alpha}
settings:
  logging: {location: syslog}
tunables:
  MonitorInterval: 30
"""


def cluster_manual() -> str:
    """Return docs/man/cluster.yaml.5."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield '.\\" SPDX-License-Identifier: GPL-3.0-or-later'
    yield '.\\" Made by python -m ctdbpy.config.cluster_manual: change the table there, not this file.'
    yield '.TH CLUSTER.YAML 5 "" ctdbpy "File formats"'
    yield ".SH NAME"
    yield "cluster.yaml \\- configuration of a ctdbpy cluster"
    yield ".SH DESCRIPTION"
    for number, paragraph in enumerate(_ABOUT.strip().split("\n\n")):
        if number:
            yield ".PP"
        yield _roff(" ".join(paragraph.split()))
    for title, keys in KEYS.items():
        yield f".SH {title}"
        for name, meaning in keys.items():
            yield ".TP"
            yield f".B {name}"
            yield _roff(meaning)
    yield ".SH EXAMPLE"
    yield ".nf"
    yield from map(_roff, _EXAMPLE.splitlines())
    yield ".fi"
    yield ".SH FILES"
    yield ".TP"
    yield ".I /etc/ctdbpy/cluster.yaml"
    yield "The one that counts. The one before the last apply is beside it as cluster.yaml.old."
    yield ".TP"
    yield ".I /etc/ctdbpy/node"
    yield "Number or name of the node that this host is, where its addresses do not say it."
    yield '.SH "SEE ALSO"'
    yield ".BR ctdbpyd (8),"
    yield ".BR ctdbctl (8),"
    yield ".BR ctdbpy.conf (5)"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.stdout.write(cluster_manual())
