# SPDX-License-Identifier: GPL-3.0-or-later
"""61.nlm-forward: one lock manager for all nodes.

NFSv3's locks are not the file system's: what a lock manager gives out on one node, that of another does not
see. So one node, the lock node, gives out all; the others forward lock traffic to it. When it fails, on every
node in this order:

    startipreallocate   another begins a grace period, then claims to be the lock node
                        the others drop lock traffic until it has claimed, then forward to it
                        one that was the lock node and lives lets go of its locks
    ipreallocated       once all nodes have done that: clients are told, from each public address
    (clients claim their locks through the new lock node while it gives none to others)

The lock node stays until it fails: a node that comes back is a forwarder.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any, Final

from ctdbpy.errors import CtdbpyError, ServiceError
from ctdbpy.services import addresses, nlm_forwarding, oncrpc
from ctdbpy.services.event import Event
from ctdbpy.services.nfs_records import LockNode, Member, Records
from ctdbpy.services.nfs_server import LOCALHOST, Server, server_of
from ctdbpy.services.nlm_forwarding import Forwarding
from ctdbpy.services.oncrpc import Service

_CLAIM_LIMIT_S: Final = 3.0
_LOOK_S: Final = 0.25
_PORT_LIMIT_S: Final = 2.0
#: Longer than any grace period: who has not claimed its locks by then has none.
_FORGET_S: Final = 600


def run(event: Event) -> None:
    """One event of 61.nlm-forward."""
    node = _Node(event)
    match event.name:
        case "init" | "shutdown":
            node.forget()
            node.close()
        case "startup" | "startipreallocate" | "ipreallocated":
            try:
                node.settle()
                if event.name == "ipreallocated":
                    node.tell_clients()
            except CtdbpyError as error:
                # Addresses do not wait for locks. The next event tries again, and `monitor` fails for it.
                event.warnings.append(f"{error}: locks wait")
                node.close()
        case "monitor":
            node.check_ports()
            node.settle(limit_s=0.0)
            node.tell_clients()
            node.tidy()


class _Node:
    """What this node knows of its part between events."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._server: Server = server_of(event)
        self._state = event.keep("61.nlm-forward")
        self._ports = (self._server.lock_port, self._server.status_port)

    # -- events ------------------------------------------------------------------------------

    def forget(self) -> None:
        """Know nothing from before: the daemon starts or ends."""
        (self._state / "serving").unlink(missing_ok=True)

    def close(self) -> None:
        """Give out no locks here and forward nothing: what other nodes do is unknown."""
        (self._state / "part").unlink(missing_ok=True)
        nlm_forwarding.apply(Forwarding(0, {}, None, self._public(), self._ports))

    def check_ports(self) -> None:
        """Raise ServiceError when clients find lock manager or status monitor where nothing is forwarded."""
        for service, port, option in (
            (Service("the lock manager", oncrpc.LOCK_MANAGER, 4), self._ports[0], "CTDB_NFS_LOCK_PORT"),
            (Service("the status monitor", oncrpc.STATUS, 1), self._ports[1], "CTDB_NFS_STATUS_PORT"),
        ):
            for transport in ("tcp", "udp"):
                try:
                    found = oncrpc.port_of(LOCALHOST, service, transport, timeout_s=_PORT_LIMIT_S)
                except ServiceError:
                    return  # 60.nfs says so, and counts how often.
                if found not in (0, port):
                    raise ServiceError(
                        f"cannot forward lock traffic: {service.name} listens at {transport} port {found}, "
                        f"and {option} is {port}: each node would give out locks of its own"
                    )

    def settle(self, *, limit_s: float = _CLAIM_LIMIT_S) -> None:
        """Agree on a lock node with the others, and do this node's part. limit_s: for another to claim."""
        from ctdbpy.services import nfs_clients

        with Records(self._event) as records:
            lock_node = self._agree(records, limit_s)
            was_serving = self._read("serving")
            members = {member.pnn: member.address for member in records.members()}
            number = None if lock_node is None else lock_node.pnn
            wanted = Forwarding(records.pnn, members, number, self._public(), self._ports)
            self._apply(wanted, lock_node)
            if was_serving and number != records.pnn:
                self._server.drop_locks(nfs_clients.known(self._event, records))
                (self._state / "serving").unlink(missing_ok=True)
                self._say("this node is not the lock node any more: it has let go of all locks")

    def tell_clients(self) -> None:
        """Tell the clients of the last lock node, once, from each address that this node has now."""
        from ctdbpy.services import nfs_clients

        with Records(self._event) as records:
            lock_node = records.lock_node()
            part = self._read("part")
            if lock_node is None or part.get("epoch") != lock_node.epoch:
                return
            told = self._read("told")
            done: list[str] = told["sources"] if told.get("epoch") == lock_node.epoch else []
            sources = [address for address in addresses.hosted(self._event) if address not in done]
            if not sources:
                return
            if time.time() - lock_node.epoch < _FORGET_S:
                clients = [holder.client for holder in records.holders() if holder.epoch < lock_node.epoch]
                nfs_clients.tell(self._event, clients, sources, lock_node.epoch)
            self._write("told", {"epoch": lock_node.epoch, "sources": [*done, *sources]})

    def tidy(self) -> None:
        """Have the cluster note whom only this node knows; on the lock node, forget who has not come back."""
        from ctdbpy.services import nfs_clients

        with Records(self._event) as records:
            nfs_clients.carry_over(self._event, self._server, records)
            lock_node = records.lock_node()
            if lock_node is None or lock_node.pnn != records.pnn:
                return
            if time.time() - lock_node.epoch > _FORGET_S:
                gone = [holder for holder in records.holders() if holder.epoch < lock_node.epoch]
                if gone:
                    records.forget(gone)
                    self._say(f"clients that did not claim their locks are forgotten: {len(gone)}")

    # -- agreeing ----------------------------------------------------------------------------

    def _agree(self, records: Records, limit_s: float) -> LockNode | None:
        """Who the lock node is: the one there is while it is fit, else the first node that is and can claims.

        None when none has claimed in time. Then locks wait, and addresses do not.
        """
        records.listen()
        deadline_s = time.monotonic() + limit_s
        declined: set[int] = set()
        while True:
            lock_node = records.lock_node()
            able = [pnn for pnn in fit(records.members()) if pnn not in declined]
            if lock_node is not None and lock_node.pnn in able:
                if lock_node.pnn != records.pnn or self._serves(lock_node):
                    return lock_node
                able = [records.pnn]  # Its locks were lost with its server.
            if not able:
                self._say("no node can be the lock node: locks wait")
                return None
            if able[0] == records.pnn:
                claimed = self._claim(records, lock_node)
                if claimed is not None:
                    return claimed
                records.decline()
                declined.add(records.pnn)
                continue
            # Nothing may be given out through here until there is one.
            self._drop_traffic(records)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._say(f"node {able[0]} has not yet become the lock node: locks wait")
                return None
            unable = records.wait(min(left_s, _LOOK_S))
            if unable is not None:
                declined.add(unable)

    def _claim(self, records: Records, before: LockNode | None) -> LockNode | None:
        """In this order: the grace period has begun before anybody forwards to this node."""
        if not self._server.life():
            self._say("this node cannot be the lock node: the NFS server does not run")
            return None
        own = next(member.address for member in records.members() if member.pnn == records.pnn)
        try:
            self._server.begin_grace(own)
        except ServiceError as error:
            self._say(f"this node cannot be the lock node: {error}")
            return None
        self._say("a grace period has begun")
        lock_node = records.claim(before)
        if lock_node.pnn == records.pnn:
            self._write("serving", {"epoch": lock_node.epoch, "life": self._server.life()})
            self._say(f"this node is the lock node, epoch {lock_node.epoch}")
        return lock_node

    def _serves(self, lock_node: LockNode) -> bool:
        """Whether the server is still the one that began this epoch."""
        serving = self._read("serving")
        return serving.get("epoch") == lock_node.epoch and serving.get("life") == self._server.life()

    # -- doing -------------------------------------------------------------------------------

    def _drop_traffic(self, records: Records) -> None:
        members = {member.pnn: member.address for member in records.members()}
        self._apply(Forwarding(records.pnn, members, None, self._public(), self._ports), None)

    def _apply(self, wanted: Forwarding, lock_node: LockNode | None) -> None:
        """Make it so, unless it is; the epoch is noted after that, for clients are told then."""
        part = json.loads(json.dumps(asdict(wanted)))
        there = self._read("part")
        if there.get("forwarding") != part or not nlm_forwarding.is_applied():
            nlm_forwarding.apply(wanted)
            self._say(str(wanted))
        self._write("part", {"forwarding": part, "epoch": None if lock_node is None else lock_node.epoch})

    def _public(self) -> tuple[str, ...]:
        return tuple(addresses.public(self._event))

    def _say(self, what: str) -> None:
        self._event.warnings.append(what)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self._state / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, value: dict[str, Any]) -> None:
        draft = self._state / f"{name}.new"
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.rename(self._state / name)


def fit(members: list[Member]) -> list[int]:
    """Who may be the lock node, in order: healthy nodes, or those that take part if none is healthy."""
    healthy = [member.pnn for member in members if member.is_healthy]
    return healthy or [member.pnn for member in members if member.is_active]
