# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a tgtd answers as an initiator would ask it: a discovery session in which it lists its targets.

Source: RFC 7143 11.10-11.13 (PDUs of text and login), 13 (keys).
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from ctdbpy.errors import ServiceError

INITIATOR: Final = "iqn.2026-11.ctdbpy:monitor"
#: A list of targets longer than this is none of ours.
DATA_BYTES_MAX: Final = 1 << 20

_HEAD_BYTES: Final = 48
_IMMEDIATE: Final = 0x40
_LOGIN: Final = 0x03
_TEXT: Final = 0x04
_LOGIN_ANSWER: Final = 0x23
_TEXT_ANSWER: Final = 0x24
_FINAL: Final = 0x80
#: From the operational stage to the full-feature phase, at once.
_STAGES: Final = 0x80 | 1 << 2 | 3
_NO_TAG: Final = 0xFFFFFFFF
#: An identifier of the session that is random, as its kind says (type 2).
_ISID: Final = bytes((0x80, 0, 0, 0, 0, 1))


def discover(address: str, port: int, *, timeout_s: float) -> None:
    """Log in and have the targets listed. Raises ServiceError when that does not come about in time."""
    deadline_s = time.monotonic() + timeout_s
    try:
        with socket.create_connection((address, port), timeout_s) as connection:
            talk = _Talk(connection, deadline_s)
            keys = {"InitiatorName": INITIATOR, "SessionType": "Discovery", "AuthMethod": "None"}
            head = struct.pack("!BBH", _IMMEDIATE | _LOGIN, _STAGES, 0)
            answer = talk.ask(_LOGIN_ANSWER, head, _ISID + bytes(2), keys)
            if answer[36]:
                raise ServiceError(f"cannot log in to '{address}:{port}': status {answer[36]}.{answer[37]}")
            head = struct.pack("!BBH", _TEXT, _FINAL, 0)
            talk.ask(_TEXT_ANSWER, head, bytes(8), {"SendTargets": "All"}, tag=_NO_TAG)
    except TimeoutError:
        raise ServiceError(
            f"cannot reach the tgtd of '{address}:{port}': no answer within {timeout_s:g} s"
        ) from None
    except OSError as error:
        raise ServiceError(f"cannot reach the tgtd of '{address}:{port}': {error.strerror}") from None


class _Talk:
    """One request at a time, with the numbers that count them."""

    def __init__(self, connection: socket.socket, deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._command = 1
        self._status = 0

    def ask(self, opcode: int, head: bytes, place: bytes, keys: dict[str, str], tag: int = 0) -> bytes:
        """The head of the answer; `place` is what stands where other requests have their LUN."""
        data = "".join(f"{key}={value}\0" for key, value in keys.items()).encode()
        length = len(data).to_bytes(4, "big")
        # A login has an identifier of the connection where text has a tag to go on with; 0 is right for it.
        numbers = struct.pack("!IIII", self._command, tag, self._command, self._status)
        self._connection.settimeout(self._left_s())
        self._connection.sendall(
            (head + length + place + numbers).ljust(_HEAD_BYTES, b"\0") + data + bytes(-len(data) % 4)
        )
        answer = self._read(_HEAD_BYTES)
        length_got = int.from_bytes(answer[5:8], "big")
        if answer[0] & 0x3F != opcode or length_got > DATA_BYTES_MAX:
            raise ServiceError(f"cannot use what a tgtd answers: kind 0x{answer[0]:02x}, {length_got} bytes")
        self._read(length_got + -length_got % 4 + 4 * answer[4])
        self._status = int.from_bytes(answer[24:28], "big") + 1
        return answer

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            self._connection.settimeout(self._left_s())
            part = self._connection.recv(count - len(found))
            if not part:
                raise ConnectionResetError(104, "it closed the connection")
            found += part
        return found

    def _left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s
