# SPDX-License-Identifier: GPL-3.0-or-later
"""Several nodes with one clock and links: every effect for another node becomes its input, in order."""

from __future__ import annotations

from collections import deque
from typing import Any

from ctdbpy.core.effects import (
    Disconnect,
    Effect,
    ReplyToNode,
    SendControl,
    SendKeepalive,
    SendMessage,
    TellGuard,
)
from ctdbpy.core.inputs import (
    Input,
    KeepaliveArrived,
    LeaseHeld,
    LeaseLost,
    LinkDown,
    LinkUp,
    MessageArrived,
    NodeControlArrived,
    NodeSeen,
    ReplyArrived,
    Sight,
    TimeElapsed,
)
from ctdbpy.core.state import NOBODY
from ctdbpy.wire.packets import ReplyControl, ReqControl
from tests.unit.core.fakes import Harness, several_nodes


class Cluster:
    """`count` nodes, started and linked. `dead` ones take no input and send nothing.

    Guards are perfect: a lease ends with the link, and is there again with it.
    """

    def __init__(self, count: int, **changes: Any) -> None:
        self.nodes = [Harness(several_nodes(count, pnn, **changes)) for pnn in range(count)]
        self._told: dict[int, TellGuard] = {}
        self._leases: dict[int, bool] = {}
        self.links: set[tuple[int, int]] = set()
        self.dead: set[int] = set()
        self._queue: deque[tuple[int, Input]] = deque()
        for harness in self.nodes:
            self._send_all(harness, harness.effects)
        self._deliver()
        for a in range(count):
            for b in range(a):
                self.link(a, b)

    def link(self, a: int, b: int) -> None:
        """The link between two nodes stands."""
        self.links |= {(a, b), (b, a)}
        self._queue += [(a, LinkUp(b)), (b, LinkUp(a))]
        for one, other in ((a, b), (b, a)):
            self._queue.append((one, self._heard(other)))
        self._deliver()

    def cut(self, a: int, b: int) -> None:
        """It breaks; both notice."""
        self.links -= {(a, b), (b, a)}
        self._queue += [(a, LinkDown(b, "cut")), (b, LinkDown(a, "cut"))]
        self._deliver()

    def kill(self, pnn: int) -> None:
        """A node is gone; the others notice."""
        self.dead.add(pnn)
        for other in range(len(self.nodes)):
            self._queue.append((other, NodeSeen(pnn, Sight.GONE, "its daemon has ended")))
            if (pnn, other) in self.links:
                self.links -= {(pnn, other), (other, pnn)}
                self._queue.append((other, LinkDown(pnn, "reset")))
        self._deliver()

    def restart(self, pnn: int) -> None:
        """A dead node starts again, with what it has on disk, and is linked with all that live."""
        old = self.nodes[pnn]
        harness = self.nodes[pnn] = Harness(old.config, start=False)
        harness.now_s = old.now_s
        self.dead.discard(pnn)
        harness.begin()
        self._send_all(harness, harness.effects)
        self._deliver()
        for other in range(len(self.nodes)):
            if other != pnn and other not in self.dead:
                self.link(pnn, other)

    def advance(self, seconds: float) -> None:
        """Let time pass for all."""
        now_s = self.nodes[0].now_s
        end_s = now_s + seconds
        while True:
            due = [
                (harness.node.deadline_s, pnn)
                for pnn, harness in enumerate(self.nodes)
                if pnn not in self.dead and harness.node.deadline_s is not None
            ]
            due_s, pnn = min(due, key=lambda each: (each[0] or 0.0, each[1]))
            assert due_s is not None
            if due_s > end_s:
                break
            for harness in self.nodes:
                harness.now_s = max(harness.now_s, due_s)
            self._queue.append((pnn, TimeElapsed()))
            self._deliver()
        for harness in self.nodes:
            harness.now_s = end_s

    def give(self, pnn: int, happened: Input) -> None:
        """One input of one node and everything that follows from it."""
        self._queue.append((pnn, happened))
        self._deliver()

    def send(self, pnn: int, opcode: int, data: bytes = b"", **where: int) -> int:
        """A control of a client, to its node or `dest`; its reqid: the node's effects may have the answer."""
        harness = self.nodes[pnn]
        client_id = next(iter(harness.node.state.clients), None) or harness.connect()
        reqid, effects = harness.send(client_id, opcode, data, **where)
        self._send_all(harness, effects)
        self._deliver()
        return reqid

    def ask(self, pnn: int, opcode: int, data: bytes = b"", **where: int) -> tuple[int, bytes]:
        """A control of a client of one node: (status, data) of its reply."""
        reqid = self.send(pnn, opcode, data, **where)
        harness = self.nodes[pnn]
        (reply,) = harness.replies(harness.effects, reqid)
        return reply.status, reply.data

    def release(self, pnn: int) -> None:
        """Let a node's workers do what they were held back from."""
        harness = self.nodes[pnn]
        self._send_all(harness, harness.release_jobs())
        self._deliver()

    def _heard(self, pnn: int) -> NodeSeen:
        is_still = pnn in self._told and self._told[pnn].still
        return NodeSeen(pnn, Sight.STILL if is_still else Sight.LIVE, "it is heard")

    def _deliver(self) -> None:
        while self._queue:
            pnn, happened = self._queue.popleft()
            if pnn not in self.dead:
                harness = self.nodes[pnn]
                self._send_all(harness, harness.give(happened))
            self._look_at_leases()

    def _look_at_leases(self) -> None:
        for pnn, told in self._told.items():
            near = [other for one, other in self.links if one == pnn and other not in self.dead]
            holds = len(near) >= told.needed and (told.leader == NOBODY or told.leader in near)
            if self._leases.get(pnn, False) is not holds:
                self._leases[pnn] = holds
                self._queue.append((pnn, LeaseHeld() if holds else LeaseLost(f"only {near} are left")))

    def _send_all(self, harness: Harness, effects: list[Effect]) -> None:
        own = harness.config.pnn
        for effect in effects:
            match effect:
                case SendControl(pnn, reqid, opcode, srvid, client_id, flags, data):
                    control = ReqControl(
                        generation=0,
                        destnode=pnn,
                        srcnode=own,
                        reqid=reqid,
                        opcode=opcode,
                        srvid=srvid,
                        client_id=client_id,
                        flags=flags,
                        data=data,
                    )
                    self._to(own, pnn, NodeControlArrived(own, control))
                case ReplyToNode(pnn, reqid, status, data, error):
                    reply = ReplyControl(
                        generation=0,
                        destnode=pnn,
                        srcnode=own,
                        reqid=reqid,
                        status=status,
                        data=data,
                        error=error,
                    )
                    self._to(own, pnn, ReplyArrived(own, reply))
                case SendMessage(destnode, srvid, data):
                    for pnn in harness.node.state.members(destnode):
                        if pnn != own and pnn < len(self.nodes):
                            self._to(own, pnn, MessageArrived(own, srvid, data))
                case SendKeepalive(pnn, uptime_s):
                    self._to(own, pnn, KeepaliveArrived(own, 4 << 16 | 17, uptime_s))
                case TellGuard():
                    was_still = own in self._told and self._told[own].still
                    self._told[own] = effect
                    if effect.still is not was_still:
                        self._queue += [(other, self._heard(own)) for one, other in self.links if one == own]
                case Disconnect(pnn, reason):
                    if (own, pnn) in self.links:
                        self.links -= {(own, pnn), (pnn, own)}
                        self._queue += [(own, LinkDown(pnn, reason)), (pnn, LinkDown(own, reason))]
                case _:
                    pass

    def _to(self, source: int, target: int, happened: Input) -> None:
        if (source, target) in self.links and target not in self.dead:
            packets = self.nodes[target].records.packets
            packets[source] = packets.get(source, 0) + 1
            self._queue.append((target, happened))
