# SPDX-License-Identifier: GPL-3.0-or-later
"""What a recovery asks of nodes: all must say yes, in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from ctdbpy.core.effects import Unlisten
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import DISCONNECTED, NOT_CONNECTED, TIMED_OUT, Routing
from ctdbpy.core.state import State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import Codec
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import srvid_of_recovery

N = TypeVar("N")
#: A control and its data.
Step = tuple[Control, bytes]
_GONE: Final = (DISCONNECTED, NOT_CONNECTED)


class Failed(Exception):
    """A step of a recovery did not work; the recovery is repeated.

    `pnn` is the node that spoilt it, if one did: by no answer in time (`is_late`), or by a refusal.
    """

    def __init__(self, text: str, pnn: int | None = None, *, is_late: bool = False) -> None:
        super().__init__(text)
        self.pnn = pnn
        self.is_late = is_late


class Asking:
    """The leader's questions during one recovery, and srvids that are its alone."""

    def __init__(self, state: State, runner: Runner, routing: Routing, generation: int) -> None:
        self.state = state
        self.runner = runner
        self._routing = routing
        # Each leader and each recovery has its own, so that late messages of another one find nobody.
        self._first_srvid = (state.pnn & 0xFF) << 24 | (generation & 0xFF) << 16
        self._last_srvid = 0

    @property
    def timeout_s(self) -> float:
        """How long one step may take."""
        return float(self.state.tunables.recover_timeout)

    async def all(
        self,
        nodes: Sequence[int],
        opcode: Control,
        data: bytes = b"",
        *,
        flags: int = 0,
        is_count: bool = False,
    ) -> Mapping[int, Reply]:
        """Ask every node the same; all must say yes (`is_count`: a status that counts something)."""
        answers = {pnn: self._call(pnn, opcode, data, flags) for pnn in nodes}
        replies = {pnn: await answer for pnn, answer in answers.items()}
        for pnn, reply in replies.items():
            if not (is_count and reply.status >= 0):
                _check(pnn, opcode, reply)
        return replies

    async def in_order(self, pnn: int, steps: Sequence[Step], *, at_once: bool) -> list[Reply]:
        """Ask one node several things that build on each other.

        `at_once`: it does them in the order asked, so no answer need be waited for (`Freezes.in_turn`).
        """
        replies = []
        asked = [self._call(pnn, *step) for step in steps] if at_once else []
        for number, step in enumerate(steps):
            reply = await (asked[number] if at_once else self._call(pnn, *step))
            _check(pnn, step[0], reply)
            replies.append(reply)
        return replies

    def listen(self, handler: Callable[[int, bytes], None]) -> int:
        """Take messages for a srvid nobody has had yet; returns it."""
        self._last_srvid += 1
        srvid = srvid_of_recovery(self._first_srvid + self._last_srvid)
        self.state.listen(srvid, handler)
        return srvid

    def end(self, srvid: int) -> None:
        """Take no more of them."""
        self.state.unlisten(srvid)
        self.state.emit(Unlisten(srvid))

    def new_srvid(self) -> int:
        """A srvid that others listen to."""
        self._last_srvid += 1
        return srvid_of_recovery(self._first_srvid + self._last_srvid)

    def _call(self, pnn: int, opcode: Control, data: bytes, flags: int = 0) -> Promise[Reply]:
        return self._routing.call(pnn, opcode, data, flags=flags, timeout_s=self.timeout_s)


def told(codec: Codec[N], reply: Reply, what: str, pnn: int) -> N:
    """What a reply carries. Raises Failed."""
    try:
        return codec.unpack(reply.data)
    except ProtocolError as error:
        raise Failed(f"node {pnn} does not tell {what}: {error}", pnn) from error


def _check(pnn: int, opcode: Control, reply: Reply) -> None:
    if not reply.is_good:
        text = f"{opcode.name} on node {pnn}: {reply.error or f'status {reply.status}'}"
        # Who is gone is left out next time.
        raise Failed(text, None if reply.error in _GONE else pnn, is_late=reply.error == TIMED_OUT)
