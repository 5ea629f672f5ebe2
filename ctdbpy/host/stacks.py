# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the processes of a group are in the kernel: run as a program, for files in /proc may hang with them.

    python -m ctdbpy.host.stacks GROUP

prints each process of the group, and what these started outside it, with the kernel function it waits in
and its stack as far as the kernel shows it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROCESSES_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    name: str
    state: str
    parent: int
    group: int


def main() -> int:
    """Print what is known of the group named on the command line."""
    sys.stdout.write("".join(f"{line}\n" for line in describe_group(int(sys.argv[1]))))
    return 0


def describe_group(group: int) -> Iterator[str]:
    """A line for each process, indented as deep as it descends from the group's first; then its stack."""
    found = {process.pid: process for process in _processes()}
    members = [process for process in found.values() if process.group == group]
    inside = {process.pid for process in members}
    roots = [process for process in members if process.parent not in inside]
    shown = 0
    left = [(0, process) for process in reversed(roots)]
    while left and shown < PROCESSES_MAX:
        depth, process = left.pop()
        shown += 1
        yield from _describe(depth, process)
        below = [each for each in found.values() if each.parent == process.pid]
        left += [(depth + 1, each) for each in reversed(below)]


def _describe(depth: int, process: _Process) -> Iterator[str]:
    indent = "  " * depth
    place = _read(process.pid, "wchan")
    where = f", waits in {place}" if place not in ("", "0") else ""
    yield f"{indent}process {process.pid} ({process.name}), state {process.state}{where}"
    for line in _read(process.pid, "stack").splitlines():
        yield f"{indent}    {line}"


def _processes() -> Iterator[_Process]:
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            head, _, tail = _read(int(directory.name), "stat").rpartition(")")
            fields = tail.split()
            if len(fields) > 2:
                name = head.partition("(")[2]
                yield _Process(int(directory.name), name, fields[0], int(fields[1]), int(fields[2]))


def _read(pid: int, file: str) -> str:
    """A file of /proc; nothing if the process is gone or the kernel does not show it to us."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text(errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    raise SystemExit(main())
