# SPDX-License-Identifier: GPL-3.0-or-later
"""Names for processes in messages: a pid alone tells an administrator little."""

from __future__ import annotations

from pathlib import Path

COMMAND_CHARACTERS_MAX = 80


def describe_process(pid: int) -> str:
    """Return `process 123 ('ctdbd -i')`, or what is known of it. The pid 0 is another pid namespace's."""
    if pid <= 0:
        return "a process outside this pid namespace"
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return f"process {pid}"
    command = b" ".join(arguments).decode(errors="replace")[:COMMAND_CHARACTERS_MAX]
    return f"process {pid} ('{command}')" if command else f"process {pid}"


def is_running(pid: int) -> bool:
    """Whether a process with this pid exists; it need not be the one that wrote the pid down."""
    return pid > 0 and Path(f"/proc/{pid}").exists()
