# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling the service manager how the daemon is: sd_notify(3), without the library."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

ADDRESS_BYTES_MAX = 107


class Notifier:
    """Speaks to the socket of NOTIFY_SOCKET; silent where there is none.

    Sending never blocks and never raises: a service manager that does not listen must not stop the daemon.
    Each method returns whether the message was handed over.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        """The manager takes silence of this length for a hang; call `alive()` at half of it. None: never."""
        self._address = _kernel_address(address)

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Make one from the environment and remove it there, so that no child can speak for the daemon."""
        notifier = cls(environ.get("NOTIFY_SOCKET"), _watchdog_s(environ))
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            environ.pop(name, None)
        return notifier

    def ready(self, status: str) -> bool:
        """Start-up is over; dependent services may start."""
        return self._send(f"READY=1\nSTATUS={_one_line(status)}\nMAINPID={os.getpid()}")

    def status(self, status: str) -> bool:
        """A line for `systemctl status`."""
        return self._send(f"STATUS={_one_line(status)}")

    def stopping(self, status: str) -> bool:
        """Shutdown has begun."""
        return self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def extend_timeout(self, seconds: float) -> bool:
        """Ask for more time to start or stop, counted from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def alive(self) -> bool:
        """Pat the watchdog."""
        return self._send("WATCHDOG=1")

    def _send(self, message: str) -> bool:
        if self._address is None:
            return False
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


def _kernel_address(address: str | None) -> bytes | None:
    """Return the socket's address, `@` for an abstract one; None for what sd_notify(3) does not define."""
    if not address or address[0] not in "/@":
        return None
    encoded = os.fsencode(address)
    if len(encoded) > ADDRESS_BYTES_MAX:
        return None
    return b"\0" + encoded[1:] if address[0] == "@" else encoded


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    try:
        microseconds = int(environ["WATCHDOG_USEC"])
        meant_for = int(environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return microseconds / 1e6 if microseconds > 0 and meant_for == os.getpid() else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
