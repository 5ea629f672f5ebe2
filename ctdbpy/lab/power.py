# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence command of a lab's nodes: asks the lab's power switch to take a node's power.

    power.py off 1 10.77.0.2      as [cluster] fence command runs it; "on" and "status" work as well

It has its status 0 only when the switch has said that the host is off (or on), and says why not otherwise. A
program by itself that imports next to nothing, so that it runs some 10 ms after it was started.
"""

from __future__ import annotations

import socket
import sys

#: The switch's socket as nodes see it; clients do not have it.
SOCKET = "/power/switch"
DEEDS = ("off", "on", "status")
#: It boots a host within 20 s.
ANSWER_LIMIT_S = 30.0
MESSAGE_BYTES_MAX = 4096


def main() -> int:
    """Do as the command line says."""
    if len(sys.argv) != 4 or sys.argv[1] not in DEEDS:
        print(f"usage: power.py {'|'.join(DEEDS)} PNN ADDRESS", file=sys.stderr)
        return 2
    _program, deed, pnn, address = sys.argv
    try:
        answer = _ask(f"{deed} {address}")
    except OSError as error:
        answer = f"its power switch does not answer on '{SOCKET}': {error}"
    if deed == "status" and answer in ("on", "off"):
        print(answer)
        return 0
    if answer == deed:
        return 0
    reason = answer or "the switch hung up"
    print(f"cannot switch node {pnn} ({address}) {deed}: {reason}", file=sys.stderr)
    return 1


def _ask(request: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as switch:
        switch.settimeout(ANSWER_LIMIT_S)
        switch.connect(SOCKET)
        switch.send(request.encode())
        return switch.recv(MESSAGE_BYTES_MAX).decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
