# SPDX-License-Identifier: GPL-3.0-or-later
"""The event protocol from the client's side: have event scripts run, and ask how they ended."""

from __future__ import annotations

import os
import socket

from ctdbpy.client.connection import NoDaemon, TimeUp
from ctdbpy.wire.events import Reply, Request, decode_reply, encode_request, peek_length


def ask(path: str | os.PathLike[str], request: Request, *, timeout_s: float | None) -> Reply:
    """Send a request and wait for its answer. Raises NoDaemon, TimeUp."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(path))
            connection.sendall(encode_request(1, request))
            received = bytearray()
            while (length := peek_length(received)) is None or len(received) < length:
                data = connection.recv(1 << 20)
                if not data:
                    raise NoDaemon(f"cannot ask about event scripts at '{path}': the connection was closed")
                received += data
        except TimeoutError:
            raise TimeUp(f"cannot ask about event scripts at '{path}': time is up") from None
        except OSError as error:
            raise NoDaemon(
                f"cannot ask about event scripts at '{path}': {error.strerror}; is ctdbpyd running?"
            ) from error
    return decode_reply(bytes(received[:length]))[1]
