# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an SMB server answers: a real negotiate, an anonymous session and a tree connect to IPC$.

The one place that knows impacket. Its import takes 70 ms: only a monitor event that gets so far pays for it.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from impacket import nmb, nt_errors, smb3

from ctdbpy.services import addresses

#: Any name but "*SMBSERVER", for which impacket would ask a NetBIOS name server.
_NAME: Final = "LOCALHOST"
_WORKERS_MAX: Final = 16
#: smbd's decision about who asks. It has thought about it, so it is well.
_REFUSALS: Final = frozenset(
    {
        nt_errors.STATUS_ACCESS_DENIED,
        nt_errors.STATUS_ACCOUNT_DISABLED,
        nt_errors.STATUS_ACCOUNT_RESTRICTION,
        nt_errors.STATUS_INVALID_ACCOUNT_NAME,
        nt_errors.STATUS_LOGON_FAILURE,
        nt_errors.STATUS_LOGON_TYPE_NOT_GRANTED,
        nt_errors.STATUS_NO_SUCH_USER,
        nt_errors.STATUS_NTLM_BLOCKED,
        nt_errors.STATUS_WRONG_PASSWORD,
    }
)


@dataclass(slots=True)
class _Attempt:
    """One address, what is asked of it at present, and what was wrong (None: nothing)."""

    address: str
    stage: str = "connection"
    trouble: str | None = None


def check(asked: Sequence[str], port: int, *, timeout_s: float) -> dict[str, str]:
    """Ask the server of this machine at each address; what is wrong by address, after `timeout_s` at most."""
    deadline_s = time.monotonic() + timeout_s
    waiting: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
    done: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
    attempts = {address: _Attempt(address) for address in asked}
    for attempt in attempts.values():
        waiting.put(attempt)

    def work() -> None:
        while True:
            try:
                attempt = waiting.get_nowait()
            except queue.Empty:
                return
            attempt.trouble = _trouble(attempt, port, max(0.1, deadline_s - time.monotonic()))
            done.put(attempt)

    for _ in range(min(len(attempts), _WORKERS_MAX)):
        # They are left where they hang: the event ends without them.
        threading.Thread(target=work, daemon=True).start()
    troubles = {}
    while attempts:
        try:
            attempt = done.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            break
        del attempts[attempt.address]
        if attempt.trouble is not None:
            troubles[attempt.address] = attempt.trouble
    for attempt in attempts.values():
        troubles[attempt.address] = f"no answer to {attempt.stage} within {timeout_s:g} s"
    return troubles


class _Denied(Exception):
    """smbd wants nothing from this address: "hosts deny"."""


class _Transport(nmb.NetBIOSTCPSession):  # type: ignore[misc] # impacket has no types
    """impacket's frames; it does not expect that smbd refuses a peer where an answer is due."""

    def recv_packet(self, timeout: float | None = None) -> object:
        packet = super().recv_packet(timeout)
        if packet.get_type() == nmb.NETBIOS_SESSION_NEGATIVE_RESPONSE:
            raise _Denied
        return packet


class _Session(smb3.SMB3):  # type: ignore[misc]
    """impacket's session on a connection of our own."""

    def negotiateSession(self, *arguments: object) -> None:
        # impacket believes that whoever brings a connection has negotiated on it before.
        self._Connection["SequenceWindow"] = 0
        super().negotiateSession(*arguments)


def _trouble(attempt: _Attempt, port: int, limit_s: float) -> str | None:
    """Ask at one address; what is wrong, None if it answers."""
    # From loopback: it reaches no other machine, whatever becomes of the address meanwhile, and smbd lets it
    # in whatever "hosts allow" says.
    loopback = "::1" if ":" in attempt.address else "127.0.0.1"
    source = (loopback, 0) if loopback in addresses.local() else None
    try:
        with socket.create_connection((attempt.address, port), limit_s, source) as connection:
            _talk(attempt, connection, port, limit_s)
    except smb3.SessionError as error:
        code = error.get_error_code()
        if attempt.stage != "negotiate" and code in _REFUSALS:
            return None
        name = nt_errors.ERROR_MESSAGES.get(code, (f"status 0x{code:08x}",))[0]
        return f"{attempt.stage} fails: {name}"
    except _Denied:
        return None
    except (TimeoutError, nmb.NetBIOSTimeout):
        return f"no answer to {attempt.stage} within {limit_s:.0f} s"
    except (ConnectionError, nmb.NetBIOSError) as error:
        reason = getattr(error, "strerror", None) or "closed by the server"
        return f"{attempt.stage} fails: {reason}"
    except OSError as error:
        return f"{attempt.stage} fails: {error.strerror or error}"
    except Exception as error:  # impacket raises what it likes about bytes that it cannot read
        return f"the answer to {attempt.stage} cannot be read ({type(error).__name__})"
    return None


def _talk(attempt: _Attempt, connection: socket.socket, port: int, limit_s: float) -> None:
    attempt.stage = "NetBIOS session" if port == 139 else "negotiate"
    transport = _Transport("CTDBPY", _NAME, attempt.address, sess_port=port, timeout=limit_s, sock=connection)
    attempt.stage = "negotiate"
    session = _Session(_NAME, attempt.address, "CTDBPY", sess_port=port, timeout=limit_s, session=transport)
    attempt.stage = "session setup"
    session.login("", "")
    attempt.stage = "tree connect"
    session.connectTree("IPC$")
    attempt.stage = "logoff"
    session.logoff()
