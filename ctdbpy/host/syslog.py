# SPDX-License-Identifier: GPL-3.0-or-later
"""Syslog in the ways ctdb.conf(5) names: to /dev/log, or by UDP to this host, in either of two formats.

Source: RFC 3164 without a header of its own (the receiver stamps the time better), RFC 5424.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from datetime import datetime

SYSLOG_METHODS = ("nonblocking", "udp", "udp-rfc5424")
DEV_LOG = "/dev/log"
UDP_ADDRESS = ("127.0.0.1", 514)
LINE_BYTES_MAX = 1024
"""RFC 3164: a receiver may cut or refuse longer lines."""

SEND_TIMEOUT_S = 1.0

_FACILITY_DAEMON = 3 << 3


class SyslogHandler(logging.Handler):
    """Sends each line as one datagram; one that cannot be sent goes to stderr, and the next tries again."""

    def __init__(
        self,
        method: str,
        program: str,
        *,
        dev_log: str = DEV_LOG,
        udp_address: tuple[str, int] = UDP_ADDRESS,
    ) -> None:
        super().__init__()
        self._is_udp = method.startswith("udp")
        self._is_rfc5424 = method == "udp-rfc5424"
        self._timeout_s = 0.0 if method else SEND_TIMEOUT_S
        self._address: str | tuple[str, int] = udp_address if self._is_udp else dev_log
        self._program = program
        self._host = socket.gethostname()
        self._socket: socket.socket | None = None

    def connect(self) -> str | None:
        """Connect; return None, or the line that says that syslog is not there."""
        sender = socket.socket(socket.AF_INET if self._is_udp else socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.settimeout(self._timeout_s)
        try:
            sender.connect(self._address)
        except OSError as error:
            sender.close()
            return f"cannot log to syslog at '{self._address}': {error.strerror}; lines go to standard error"
        self._socket = sender
        return None

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; after a syslog daemon's restart the second try reaches the new one."""
        line = self._line(record)
        if not (self._try_send(line) or self._try_send(line)):
            sys.stderr.write(record.getMessage() + "\n")

    def close(self) -> None:
        """Close the socket too."""
        self._disconnect()
        super().close()

    def _try_send(self, line: bytes) -> bool:
        if self._socket is None and self.connect() is not None:
            return False
        assert self._socket is not None
        try:
            self._socket.send(line)
        except OSError:
            self._disconnect()
            return False
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _line(self, record: logging.LogRecord) -> bytes:
        priority = _FACILITY_DAEMON | _severity(record.levelno)
        head = f"<{priority}>{self._program}[{os.getpid()}]: "
        if self._is_rfc5424:
            when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="microseconds")
            head = f"<{priority}>1 {when} {self._host} {self._program} {os.getpid()} - - "
        return (head + record.getMessage()).encode(errors="replace")[:LINE_BYTES_MAX]


def _severity(level: int) -> int:
    """Return syslog's severity for one of Python's levels, NOTICE (25) among them."""
    for least, severity in ((logging.ERROR, 3), (logging.WARNING, 4), (25, 5), (logging.INFO, 6)):
        if level >= least:
            return severity
    return 7
