# SPDX-License-Identifier: GPL-3.0-or-later
"""What the NFS services of all nodes share: who the lock node is, and which clients hold locks.

It is a persistent database, so every node has it on its own disk and it outlives any of them.

    lock-node               PNN EPOCH
    client@CLIENT           EPOCH in which it was noted to hold locks at the lock node
    client@CLIENT@SERVER    the same without a lock node, at the public address SERVER
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from ctdbpy.client.connection import Connection
from ctdbpy.client.databases import Database, attach, open_file
from ctdbpy.client.nodes import Cluster
from ctdbpy.client.transactions import Transaction
from ctdbpy.errors import ClientError
from ctdbpy.services import configured
from ctdbpy.services.event import Event
from ctdbpy.wire.constants import BROADCAST_CONNECTED, DbFlag, NodeFlag
from ctdbpy.wire.records import RecordHeader

DATABASE: Final = "ctdb_nfs.tdb"
_LOCK_NODE: Final = b"lock-node"
_HOLDER: Final = b"client@"
#: Told to all nodes when one claims to be the lock node, or declines; in the range that is left to NFS.
_SRVID: Final = 0xEE00_0000_0000_0001
_CLAIMED: Final = b"claimed"
_NODE_IS_WELL: Final = NodeFlag(0)


@dataclass(frozen=True, slots=True)
class LockNode:
    """Who runs the lock manager for all. epoch: grows with each grace period, and tells them apart."""

    pnn: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A client that holds locks. server: the public address where; empty: the lock node. epoch: when."""

    client: str
    server: str
    epoch: int

    @property
    def key(self) -> bytes:
        return _HOLDER + (f"{self.client}@{self.server}" if self.server else self.client).encode()


@dataclass(frozen=True, slots=True)
class Member:
    """A node: its own address, whether it takes part, and whether it is healthy as well."""

    pnn: int
    address: str
    is_active: bool
    is_healthy: bool


class Records:
    """A connection to the daemon, for one event. Raises ClientError when the daemon cannot do it in time."""

    def __init__(self, event: Event, *, limit_s: float = 10.0) -> None:
        self._limit_s = limit_s
        self._connection = Connection(configured.paths(event).socket, timeout_s=limit_s)
        try:
            self.pnn: int = self._connection.pnn
            self._database: Database = attach(self._connection, DATABASE, DbFlag.PERSISTENT)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    # -- the cluster -------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Every node that is not deleted."""
        return [
            Member(
                each.pnn,
                str(each.address.host),
                not each.flags & NodeFlag.INACTIVE,
                each.flags == _NODE_IS_WELL,
            )
            for each in Cluster(self._connection).nodes()
            if not each.flags & NodeFlag.DELETED
        ]

    # -- the lock node -----------------------------------------------------------------------

    def lock_node(self) -> LockNode | None:
        """Who it is by this node's copy; None if there has never been one."""
        return _lock_node(self._fetch(_LOCK_NODE))

    def claim(self, before: LockNode | None) -> LockNode:
        """Become the lock node in a new epoch, unless another has meanwhile; who it is then."""
        with Transaction(self._connection, self._database, limit_s=self._limit_s) as transaction:
            found = _lock_node(transaction.fetch(_LOCK_NODE))
            if found != before and found is not None:
                return found
            # Clients must never see an epoch twice, not even if the database is lost.
            epoch = max(int(time.time()), 0 if found is None else found.epoch + 1)
            transaction.store(_LOCK_NODE, b"%d %d" % (self.pnn, epoch))
        self._connection.message(BROADCAST_CONNECTED, _SRVID, _CLAIMED)
        return LockNode(self.pnn, epoch)

    def decline(self) -> None:
        """Tell the others that this node cannot be the lock node now."""
        self._connection.message(BROADCAST_CONNECTED, _SRVID, b"%d" % self.pnn)

    def listen(self) -> None:
        """Hear who claims and who declines from now on."""
        self._connection.listen(_SRVID)

    def wait(self, timeout_s: float) -> int | None:
        """Until a node has claimed or declined, or time is up; who has declined."""
        heard = self._connection.message_to(_SRVID, timeout_s=timeout_s)
        return int(heard.data) if heard is not None and heard.data.isdigit() else None

    # -- clients -----------------------------------------------------------------------------

    def holders(self) -> list[Holder]:
        """Every client that holds locks, or has held them in an earlier epoch."""
        found = []
        with open_file(self._connection, self._database) as tdb:
            for key, data in tdb.traverse():
                value = data[RecordHeader.SIZE :]
                if key.startswith(_HOLDER) and value.isdigit():
                    client, _, server = key.removeprefix(_HOLDER).decode(errors="replace").partition("@")
                    found.append(Holder(client, server, int(value)))
        return found

    def note(self, holders: list[Holder]) -> None:
        """Note that these hold locks."""
        with Transaction(self._connection, self._database, limit_s=self._limit_s) as transaction:
            for holder in holders:
                transaction.store(holder.key, b"%d" % holder.epoch)

    def forget(self, holders: list[Holder]) -> None:
        """Forget these, but for those that have been noted anew in a later epoch."""
        with Transaction(self._connection, self._database, limit_s=self._limit_s) as transaction:
            for holder in holders:
                value = transaction.fetch(holder.key)
                if value.isdigit() and int(value) <= holder.epoch:
                    transaction.store(holder.key, b"")

    # -- private -----------------------------------------------------------------------------

    def _fetch(self, key: bytes) -> bytes:
        with open_file(self._connection, self._database) as tdb:
            data = tdb.fetch(key)
        return b"" if data is None else data[RecordHeader.SIZE :]


def _lock_node(value: bytes) -> LockNode | None:
    if not value:
        return None
    try:
        pnn, epoch = value.split()
        return LockNode(int(pnn), int(epoch))
    except ValueError:
        raise ClientError(f"cannot read who the lock node is: '{value!r}' in '{DATABASE}'") from None
