# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster as a client sees it: flags of nodes, the leader, and deeds that wait for one of these."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final, TypeVar

from ctdbpy.client.connection import Connection, Refused, TimeUp, answer_of
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import (
    BROADCAST_CONNECTED,
    INVALID_GENERATION,
    UNKNOWN_PNN,
    NodeFlag,
    RecoveryMode,
)
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.srvids import (
    SRVID_DISABLE_RECOVERIES,
    SRVID_DISABLE_TAKEOVER_RUNS,
    SRVID_LEADER,
    SRVID_RECONFIGURE,
    SRVID_SET_NODE_FLAGS,
    SRVID_TAKEOVER_RUN,
    SRVID_TOOL_RANGE,
)
from ctdbpy.wire.structures import DisableMessage, NodeEntry, NodeMap, SrvidMessage, VnnMap

#: How long one request for a takeover run is waited for before it is made again.
ROUND_S: Final = 10.0
#: What changes is told by messages; one that was lost costs no more than this.
LOOK_S: Final = 0.25

_U32: Final = struct.Struct("=I")
_I32: Final = struct.Struct("=i")

_T = TypeVar("_T")

#: Told what is waited for, whenever that has changed.
Progress = Callable[[str], None]


def silent(_what: str) -> None:
    """Tell nobody about progress."""


class Cluster:
    """Questions and deeds that concern more than one node, over one connection."""

    def __init__(
        self, connection: Connection, *, limit_s: float = 120.0, progress: Progress = silent
    ) -> None:
        self.connection = connection
        self.limit_s = limit_s
        self.progress = progress
        self._leader: int | None = None
        self._hears_leader = False
        self._srvid = SRVID_TOOL_RANGE | 1 << 48 | (os.getpid() & 0xFFFF) << 16
        self._has_flags = False

    # -- questions -------------------------------------------------------------------

    def nodes(self) -> tuple[NodeEntry, ...]:
        """Every node that this node's daemon knows, deleted ones included."""
        found: NodeMap = self.connection.ask(Control.GET_NODEMAP)
        return found.nodes

    def node(self, pnn: int) -> NodeEntry:
        """One node. Raises ClientError that names those there are."""
        nodes = [each for each in self.nodes() if not each.flags & NodeFlag.DELETED]
        for each in nodes:
            if each.pnn == pnn:
                return each
        known = ", ".join(str(each.pnn) for each in nodes)
        raise ClientError(f"cannot find node {pnn}: there is none; there are {known}")

    def listen_for_leader(self) -> None:
        """Hear the leader from now on, who tells everybody each second."""
        if not self._hears_leader:
            self.connection.listen(SRVID_LEADER)
            self._hears_leader = True

    def leader(self, wait_s: float) -> int | None:
        """The leader's pnn, None when nobody has claimed to be it in that time."""
        known = self._known_leader()
        if known is not None:
            return known
        self.listen_for_leader()
        deadline = time.monotonic() + wait_s
        while True:
            # What has come already is read without waiting: the newest word counts.
            left = deadline - time.monotonic() if self._leader is None else 0.0
            said = self.connection.message_to(SRVID_LEADER, timeout_s=max(0.0, left))
            if said is None:
                return self._leader
            if len(said.data) >= _U32.size:
                (pnn,) = _U32.unpack_from(said.data)
                self._leader = None if pnn == UNKNOWN_PNN else pnn

    def _known_leader(self) -> int | None:
        """Whom this node's daemon follows; upstream's does not say."""
        reply = self.connection.control(Control.GET_LEADER)
        if reply.status != 0:
            return None
        pnn: int = decode_reply(Control.GET_LEADER, reply.data)
        return None if pnn == UNKNOWN_PNN else pnn

    def generation(self) -> int:
        """The generation, once no recovery is under way. Raises TimeUp."""
        return self._until("recovery is over", self._settled_generation)

    def _settled_generation(self) -> int | None:
        leader = self.leader(LOOK_S)
        if leader is None:
            return None
        replies = self.connection.controls(Control.GET_RECMODE, nodes=[leader])
        if leader not in replies or replies[leader].status != RecoveryMode.NORMAL:
            return None
        vnnmap: VnnMap = self.connection.ask(Control.GETVNNMAP, destnode=leader)
        return None if vnnmap.generation == INVALID_GENERATION else vnnmap.generation

    # -- deeds -----------------------------------------------------------------------

    def wait_for_flags(self, pnn: int, flags: NodeFlag, *, are_set: bool) -> None:
        """Until this node's daemon sees the flags of a node so. Raises TimeUp."""

        def is_so() -> bool | None:
            return bool(self.node(pnn).flags & flags) is are_set or None

        what = f"node {pnn} is {'' if are_set else 'no longer '}{_spoken(flags)}"
        self._until(what, is_so)

    def recover(self, destnode: int) -> None:
        """Have the databases recovered, and wait for the end of it. Raises TimeUp, Refused."""
        before = self.generation()
        self.connection.ask(Control.SET_RECMODE, RecoveryMode.ACTIVE, destnode=destnode)

        def is_over() -> bool | None:
            after = self._settled_generation()
            return None if after is None or after == before else True

        self._until("the recovery is over", is_over)

    def take_over(self) -> None:
        """Have the leader distribute the public addresses anew, and wait until it has. Raises TimeUp."""
        srvid = self.next_srvid()
        self.connection.listen(srvid)
        asked = SrvidMessage(self.connection.pnn, srvid).pack()
        deadline = time.monotonic() + self.limit_s
        self.progress("the addresses are distributed")
        while True:
            self.connection.message(BROADCAST_CONNECTED, SRVID_TAKEOVER_RUN, asked)
            left = deadline - time.monotonic()
            done = self.connection.message_to(srvid, timeout_s=min(left, ROUND_S))
            if done is not None and len(done.data) == _I32.size:
                (status,) = _I32.unpack(done.data)
                if status < 0:
                    raise ClientError("cannot distribute the addresses: the takeover run failed")
                return
            if time.monotonic() >= deadline:
                raise TimeUp("cannot distribute the addresses: no leader has done so in time")

    def hold_up(self, kind: int, nodes: Collection[int], seconds: int) -> None:
        """Have no recoveries or takeover runs (SRVID_DISABLE_…) for some seconds; 0 allows them again.

        Raises ClientError when a node refuses or does not answer in time.
        """
        assert kind in (SRVID_DISABLE_RECOVERIES, SRVID_DISABLE_TAKEOVER_RUNS)
        what = "recoveries" if kind == SRVID_DISABLE_RECOVERIES else "takeover runs"
        verb = "disable" if seconds else "enable"
        srvid = self.next_srvid()
        self.connection.listen(srvid)
        wish = DisableMessage(self.connection.pnn, srvid, seconds).pack()
        for pnn in nodes:
            self.connection.message(pnn, kind, wish)
        waiting = set(nodes)
        deadline = time.monotonic() + self.connection.timeout_s
        while waiting:
            left = deadline - time.monotonic()
            done = self.connection.message_to(srvid, timeout_s=max(0.0, left))
            if done is None:
                raise TimeUp(f"cannot {verb} {what}: no answer from node {_listed(waiting)}")
            if len(done.data) != _I32.size:
                continue
            (pnn,) = _I32.unpack(done.data)
            if pnn < 0:
                raise ClientError(f"cannot {verb} {what}: a node refuses, error {-pnn}")
            waiting.discard(pnn)

    def everywhere(self, opcode: Control, value: object, nodes: Collection[int]) -> dict[int, object]:
        """Have several nodes do something; what each answers. Raises ClientError that names who did not."""
        replies = self.connection.controls(opcode, value, nodes=nodes)
        silent_nodes = set(nodes) - set(replies)
        if silent_nodes:
            raise TimeUp(f"cannot do {opcode.name} on node {_listed(silent_nodes)}: no answer in time")
        answers: dict[int, object] = {}
        refusals: dict[str, list[int]] = {}
        status = 0
        for pnn, reply in replies.items():
            try:
                answers[pnn] = answer_of(opcode, reply)
            except Refused as error:
                refusals.setdefault(reply.error or f"status {reply.status}", []).append(pnn)
                status = error.status
        if refusals:
            said = "; ".join(f"node {_listed(pnns)}: {reason}" for reason, pnns in refusals.items())
            raise Refused(f"cannot do {opcode.name}: {said}", status)
        return answers

    def next_srvid(self) -> int:
        """A number for answers to one request."""
        self._srvid += 1
        return self._srvid

    def _until(self, what: str, look: Callable[[], _T | None]) -> _T:
        """Look, and again whenever something has been told, until there is an answer."""
        if not self._has_flags:
            for srvid in (SRVID_SET_NODE_FLAGS, SRVID_RECONFIGURE):
                self.connection.listen(srvid)
            self._has_flags = True
        deadline = time.monotonic() + self.limit_s
        self.progress(what)
        while (found := look()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeUp(f"cannot wait any longer until {what}: {self.limit_s:g} s are over")
            self.connection.message_to(SRVID_SET_NODE_FLAGS, SRVID_RECONFIGURE, timeout_s=min(left, LOOK_S))
        return found


def connected(nodes: Iterable[NodeEntry]) -> list[int]:
    """Who can be talked to."""
    return [each.pnn for each in nodes if not each.flags & (NodeFlag.DISCONNECTED | NodeFlag.DELETED)]


def active(nodes: Iterable[NodeEntry], *, without: int = UNKNOWN_PNN) -> list[int]:
    """Who takes part: neither gone nor banned nor stopped."""
    return [each.pnn for each in nodes if not each.flags & NodeFlag.INACTIVE and each.pnn != without]


def _spoken(flags: NodeFlag) -> str:
    words = {
        NodeFlag.PERMANENTLY_DISABLED: "disabled",
        NodeFlag.STOPPED: "stopped",
        NodeFlag.BANNED: "banned",
    }
    return " or ".join(word for flag, word in words.items() if flags & flag)


def _listed(nodes: Iterable[int]) -> str:
    return ", ".join(str(pnn) for pnn in sorted(nodes))
