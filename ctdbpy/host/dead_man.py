# SPDX-License-Identifier: GPL-3.0-or-later
"""A dead man's switch: the kernel uses public addresses only while whoever holds them shows that it lives.

A host whose processes all stand still (no memory left, a disk that hangs) has a kernel that goes on: it
answers ARP for its addresses and acknowledges what clients send, while another node serves them. So rules
drop what comes for held addresses and what goes out from them, unless a set has an element; and that
element's time runs out with the lease unless it is renewed.

The tables stay when this process is killed: should its daemon have died with it, nobody removes the
addresses, and the kernel uses them no more. Whoever holds addresses here next removes the tables first.

Source: nft(8), libnftables(3).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from ctdbpy.errors import HostError
from ctdbpy.host.announcements import text_of

_LIBRARY: Final = "libnftables.so.1"
#: Renewed when so much of the time is over: a few renewals may come late.
_RENEW_PART: Final = 0.25
#: A lease counts as shortened by more than this: two clocks are read, one after the other.
_SHORTER_S: Final = 0.01
#: After a failure there is no switch for so long; rules that could not be removed are tried again sooner, for
#: they make the addresses of a healthy host silent.
_AGAIN_S: Final = 60.0
_SOON_S: Final = 0.1
_WITHOUT: Final = "should this host hang, its addresses are answered for here and elsewhere"

#: Removed whether they are there or not.
_CLEAR: Final = """
table arp ctdbpy
delete table arp ctdbpy
table inet ctdbpy
delete table inet ctdbpy
"""
_TABLES: Final = """
table arp ctdbpy {
    set held4 { type ipv4_addr; }
    set alive { type ether_type; flags timeout; }
    chain out {
        type filter hook output priority 0; policy accept;
        arp saddr ip @held4 meta protocol != @alive drop
    }
}
table inet ctdbpy {
    set held4 { type ipv4_addr; }
    set held6 { type ipv6_addr; }
    set alive { type ether_type; flags timeout; }
    chain in {
        type filter hook input priority -400; policy accept;
        ip daddr @held4 meta protocol != @alive drop
        ip6 daddr @held6 meta protocol != @alive drop
    }
    chain out {
        type filter hook output priority -400; policy accept;
        ip saddr @held4 meta protocol != @alive drop
        ip6 saddr @held6 meta protocol != @alive drop
    }
}
"""
#: In one transaction: kernels before 6.12 do not change the time of an element that is there.
_RENEW: Final = """
flush set arp ctdbpy alive
add element arp ctdbpy alive {{ arp timeout {ms}ms }}
flush set inet ctdbpy alive
add element inet ctdbpy alive {{ ip timeout {ms}ms, ip6 timeout {ms}ms }}
"""
#: Where addresses of a length are held.
_SETS: Final = {4: ("arp ctdbpy held4", "inet ctdbpy held4"), 16: ("inet ctdbpy held6",)}


class DeadMan:
    """Tell it often what is held and for how long; `deadline_s` says when at the latest."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._nft: _Nft | None = None
        #: Nothing is left of who held addresses before.
        self._is_clear = False
        self._has_rules = False
        self._again_s = 0.0
        self._watched: frozenset[bytes] = frozenset()
        self._until_s = 0.0
        self._trouble = ""
        #: When to renew, by the monotonic clock; None while nothing runs out.
        self.deadline_s: float | None = None

    def close(self) -> bool:
        """No rules any more; whether that is so."""
        try:
            if self._has_rules:
                self._nft = self._nft or _Nft()
                self._nft.run(_CLEAR)
                self._has_rules = False
        except HostError:
            pass
        self._let_go()
        return not self._has_rules

    def _let_go(self) -> None:
        if self._nft is not None:
            self._nft.close()
            self._nft = None
        self._watched, self.deadline_s = frozenset(), None

    def watch(self, held: Collection[bytes], left_s: float | None) -> None:
        """Have these addresses used for so long from now and no longer; with None, without end."""
        if held and left_s is None and not self._is_clear:
            self._clear()
        now_s = time.monotonic()
        if now_s < self._again_s:
            return
        if left_s is None and not self._watched:
            self.close()
            return
        wanted = frozenset(held) if left_s is not None else frozenset()
        time_s = left_s if wanted and left_s is not None and left_s > 0 else None
        # A lease may have become shorter, too.
        is_due = time_s is not None and (
            self.deadline_s is None or now_s >= self.deadline_s or now_s + time_s < self._until_s
        )
        if self._nft is not None and wanted == self._watched and not is_due:
            if time_s is None:
                self.deadline_s = None
            return
        try:
            try:
                self._change(wanted, time_s)
            except HostError:
                if self._nft is None or not self._is_clear:
                    raise
                # Somebody has flushed all rules, as firewalls do: ours are made anew.
                self._let_go()
                self._change(wanted, time_s)
        except HostError as error:
            self._again_s = now_s + (_AGAIN_S if self.close() else _SOON_S)
            self.deadline_s = self._again_s if self._has_rules else None
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._log(
                    f"{error}; should this host hang, its addresses are answered for here and elsewhere"
                )
        else:
            self._trouble = ""
            self.deadline_s = now_s + time_s * _RENEW_PART if time_s is not None else None
            self._until_s = now_s + (time_s or 0) - _SHORTER_S

    def _change(self, wanted: frozenset[bytes], time_s: float | None) -> None:
        if self._nft is None:
            # Before there are addresses: it takes longer than to put some.
            self._nft = _Nft()
            self._nft.run(_CLEAR + _TABLES)
            self._is_clear = self._has_rules = True
        commands = _RENEW.format(ms=max(1, int(time_s * 1000))) if time_s is not None else ""
        commands += _elements("add", wanted - self._watched) + _elements("delete", self._watched - wanted)
        if commands:
            self._nft.run(commands)
        self._watched = wanted

    def _clear(self) -> None:
        """Remove what a helper has left that was killed."""
        self._is_clear = True
        # Without the library there was never anything.
        with contextlib.suppress(HostError):
            nft = _Nft()
            try:
                nft.run(_CLEAR)
            finally:
                nft.close()


class _Nft:
    """The library, with a socket of its own. Raises HostError when there is none."""

    def __init__(self) -> None:
        # Not at the top: only where there is a lease to watch over, and it takes a while.
        import ctypes

        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise HostError(f"cannot load '{_LIBRARY}' (package libnftables1): {error}") from None
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library: Any = library
        context = library.nft_ctx_new(ctypes.c_uint32(0))
        if context is None:
            raise HostError("cannot begin with nftables: no memory, or no netlink")
        self._context = ctypes.c_void_p(context)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Let go of the socket."""
        self._library.nft_ctx_free(self._context)

    def run(self, commands: str) -> None:
        """Do all of these, or none. Raises HostError."""
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()):
            said = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
            raise HostError(
                f"cannot set up nftables: {said.strip().partition(chr(10))[0] or 'it does not say why'}"
            )


def _elements(verb: str, addresses: Collection[bytes]) -> str:
    lines = ""
    for length, sets in _SETS.items():
        names = ", ".join(sorted(text_of(address) for address in addresses if len(address) == length))
        if names:
            lines += "".join(f"{verb} element {each} {{ {names} }}\n" for each in sets)
    return lines
