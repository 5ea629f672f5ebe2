# SPDX-License-Identifier: GPL-3.0-or-later
"""Which public addresses this node has right now, and who listens on them, from files of the kernel.

The kernel is asked and not the daemon: a check has to know what clients meet here at this moment, it costs a
millisecond, and it is the same on whichever daemon runs the script.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from pathlib import Path
from typing import Final

from ctdbpy.services import configured
from ctdbpy.services.event import Event

_LISTENS: Final = "0A"
_NET: Final = Path("/proc/net")


def public(event: Event) -> list[str]:
    """The public addresses that this node may have, in the order of the file. Raises ServiceError."""
    if configured.has_cluster_file(event):
        return [each.address for each in configured.public_addresses(event)]
    try:
        text = (event.base / "public_addresses").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        word = line.strip().partition("/")[0]
        try:
            found.append(str(ipaddress.ip_address(word)))
        except ValueError:
            pass  # A comment, or a line that the daemon has complained about.
    return found


def hosted(event: Event, net: Path = _NET) -> list[str]:
    """The public addresses that this node has on its interfaces."""
    here = local(net)
    return [address for address in public(event) if address in here]


def local(net: Path = _NET) -> set[str]:
    """Every address of this machine, as text."""
    found = set()
    # "|-- 192.0.2.1" and, below it, "/32 host LOCAL".
    pairs = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", _read(net / "fib_trie"))
    found.update(pairs)
    for line in _read(net / "if_inet6").splitlines():
        found.add(str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))))
    return found


def listeners(port: int, net: Path = _NET) -> list[str]:
    """The addresses on which somebody listens at this TCP port; "0.0.0.0" and "::" are all of a family."""
    found: list[str] = []
    for name in ("tcp", "tcp6"):
        # Not line by line: a file server has many connections.
        found += map(
            _text, re.findall(rf": ([0-9A-F]+):{port:04X} [0-9A-F]+:0000 {_LISTENS} ", _read(net / name))
        )
    return found


def is_listener(pid: int, net: Path = _NET) -> bool:
    """Whether a process listens on a TCP port; one that is gone does not."""
    listening = set()
    for name in ("tcp", "tcp6"):
        # sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
        rows = (line.split() for line in _read(net / name).splitlines())
        listening |= {f"socket:[{row[9]}]" for row in rows if len(row) > 9 and row[3] == _LISTENS}
    try:
        files = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    return any(_target(f"/proc/{pid}/fd/{file}") in listening for file in files)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # closed meanwhile


def _text(words: str) -> str:
    """An address as the kernel prints it there: each group of 4 bytes in the machine's own order."""
    raw = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    return str(ipaddress.ip_address(raw))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""  # a kernel without IPv6
