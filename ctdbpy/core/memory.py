# SPDX-License-Identifier: GPL-3.0-or-later
"""What this node's brain keeps in memory, as text in the shape of upstream's reports.

The numbers are those of our own tables: how many entries, and an estimate of their bytes. Lines look like a
report of the memory allocator that upstream uses, because tools and tests that read such reports exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Final

from ctdbpy.core.state import Client, Database, State

#: What a Python object with a handful of attributes takes, dictionary slot included.
_OBJECT: Final = 200
_NUMBER: Final = 32


class MemoryReport:
    """Tables by name with the size of each entry; `text` is the report."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[int, str, int, int]] = []
        self._address = 0x1000

    def table(self, name: str, entries: Iterable[tuple[str, int]]) -> None:
        """A table and what is in it: (name, bytes) of each."""
        listed = list(entries)
        self._rows.append((1, name, _OBJECT + sum(size for _, size in listed), 1 + len(listed)))
        self._rows.extend((2, entry, size, 1) for entry, size in listed)

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return _OBJECT + sum(size for level, _, size, _ in self._rows if level == 1)

    @property
    def text(self) -> str:
        """One line each, as a talloc report has them."""
        blocks = 1 + sum(blocks for level, _, _, blocks in self._rows if level == 1)
        lines = [f"full talloc report on '{self._title}' (total {self.total} bytes in {blocks} blocks)"]
        for number, (level, name, size, count) in enumerate(self._rows):
            lines.append(
                f"{'    ' * level}{_plain(name):<30} contains {size:6d} bytes in {count:3d} blocks (ref 0) "
                f"{self._address + number * 16:#x}"
            )
        return "\n".join(lines) + "\n"


def report(state: State, tables: Mapping[str, Sized | int]) -> MemoryReport:
    """The report of a node: its facts, and how full the tables of its rooms are."""
    result = MemoryReport("ctdbpy")
    result.table("nodes", ((f"node {node.pnn} {node.address}", _OBJECT) for node in state.nodes))
    result.table("databases", ((database.name, _database(database)) for database in state.databases.values()))
    result.table("clients", ((f"client {each.pid}", _client(each)) for each in state.clients.values()))
    for name, size in tables.items():
        number = size if isinstance(size, int) else len(size)
        result.table(name, [(f"{number} entries", number * _OBJECT)])
    counters = state.records.counters()
    result.table("record engine counters", ((name, _NUMBER) for name in sorted(counters)))
    return result


def _database(database: Database) -> int:
    return _OBJECT + len(database.name) + len(database.unhealthy)


def _client(client: Client) -> int:
    kept = sum(len(data) + _NUMBER for data in client.notifications.values())
    return _OBJECT + kept + len(client.connections) * _OBJECT


def _plain(name: str) -> str:
    return name if name.isprintable() else ascii(name)
