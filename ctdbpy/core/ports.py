# SPDX-License-Identifier: GPL-3.0-or-later
"""What the core may ask and get an answer at once: the record engine beside it.

The engine owns databases, ownership of records, srvids and counters, and decides
nothing about the cluster. It is compiled and runs in the simulator too, so asking
it keeps `Node.step` a function of its inputs. No method here waits for a lock or disk,
except `attach`, which opens one file.
"""

from __future__ import annotations

from typing import Protocol


class Busy(Exception):
    """Somebody holds the chain lock of the record asked for; ask again soon."""


class Records(Protocol):
    """The record engine, as far as the core tells it things and asks it."""

    # -- the cluster, as the core has decided it -------------------------------

    def set_map(self, generation: int, lmasters: tuple[int, ...]) -> None:
        """From now on: this vnnmap. Calls of other generations are dropped, waiting client calls resent."""

    def set_nodes(self, flags: tuple[int, ...]) -> None:
        """Flags of each configured node by pnn, for broadcasts and for refusing calls when inactive."""

    def set_tunables(self, values: tuple[tuple[str, int], ...]) -> None:
        """Tunables by name; the engine takes those it knows."""

    def set_recovery(self, active: bool) -> None:
        """Recovery mode; while active no call is executed, clients' calls wait."""

    # -- databases ---------------------------------------------------------------

    def attach(self, db_id: int, name: str, flags: int) -> None:
        """Open the file of a database (flags: `DbFlag`). Raises StoreError."""

    def detach(self, db_id: int) -> None:
        """Close a database and forget it; its waiting calls are dropped."""

    def path(self, db_id: int) -> str:
        """Path of the file as clients open it."""

    def open_flags(self, db_id: int) -> int:
        """libtdb's open flags as clients must use them (DB_OPEN_FLAGS)."""

    def set_db_flags(self, db_id: int, flags: int) -> None:
        """Sticky and read-only switched on (`DbFlag`). Raises StoreError if a file cannot be opened."""

    def set_db_generation(self, db_id: int, generation: int) -> None:
        """The database belongs to this generation (after its recovery)."""

    def set_frozen(self, db_id: int, frozen: bool) -> None:
        """While frozen no call touches the database; thawing resends what waited."""

    def fetch(self, db_id: int, key: bytes) -> bytes | None:
        """Stored record with its header, or None. Raises Busy when the chain is locked."""

    def tdb_seqnum(self, db_id: int) -> int:
        """libtdb's change counter of the file."""

    def enable_seqnum(self, db_id: int) -> None:
        """Have libtdb count changes (ENABLE_SEQNUM)."""

    def bump_seqnum(self, db_id: int) -> None:
        """Increment libtdb's change counter without waiting (UPDATE_SEQNUM)."""

    # -- vacuuming ---------------------------------------------------------------

    def schedule_deletion(self, db_id: int, header: bytes, key: bytes) -> None:
        """Queue an empty record for vacuuming; header: 24 bytes, the state it must still have then."""

    def take_deletions(self, db_id: int, limit: int) -> list[tuple[bytes, bytes]]:
        """Take up to `limit` queued (key, header); they leave the queue."""

    def delete_if_unchanged(self, db_id: int, key: bytes, header: bytes) -> bool:
        """Delete an empty record if it is still exactly this, owned here and not locked; else False."""

    def try_delete(self, db_id: int, key: bytes, rsn: int) -> bool:
        """Delete this node's stale copy, with or without data, for the record's lmaster (TRY_DELETE_RECORDS).

        True if there is no copy (any more). False, and nothing done, if the chain is locked,
        the copy's rsn is higher, it has read-only flags, or this node is its dmaster.
        """

    def vacuum_fetch(self, db_id: int, key: bytes) -> None:
        """Have an empty record of another node migrate here, with no client waiting.

        A NULL call with IMMEDIATE_MIGRATION and VACUUM_MIGRATION; nothing if the record is not stored
        here or already owned here. Arriving empty, it is queued for deletion like any empty store.
        """

    def note_vacuum(self, db_id: int, duration_s: float) -> None:
        """Count a vacuum run of this database."""

    def revoked(self, db_id: int, key: bytes, good: bool) -> None:
        """Every copy of a record is back (`inputs.RevokeWanted`), or not all could be had."""

    # -- links -----------------------------------------------------------------------

    def packets_from(self, pnn: int) -> int:
        """Packets received from a node on its present link; a node is silent while this stands still."""

    # -- clients and messages ------------------------------------------------------

    def register_srvid(self, client_id: int, srvid: int) -> None:
        """Deliver messages for srvid to this client too (any number of times, counted once each)."""

    def deregister_srvid(self, client_id: int, srvid: int) -> bool:
        """End one registration; False if there was none."""

    def has_srvid(self, client_id: int, srvid: int) -> bool:
        """True if this client registered srvid."""

    def register_tunnel(self, client_id: int, tunnel_id: int) -> bool:
        """Deliver tunnel packets to this client; False if another has this tunnel."""

    def deregister_tunnel(self, client_id: int, tunnel_id: int) -> bool:
        """End it; False if this client did not have it."""

    # -- traverses -------------------------------------------------------------------

    def open_traverse(self, traverse_id: int, client_id: int, srvid: int, reqid: int) -> None:
        """Records of this traverse (local parts, TRAVERSE_DATA of nodes) go to this client as messages."""

    def close_traverse(self, traverse_id: int, finish: bool) -> None:
        """Forget it; with `finish` send the client the empty record that means the end."""

    def forward_traverse(self, traverse_id: int, part: bytes) -> None:
        """Deliver back-to-back rec_data of the local worker to the traverse's client."""

    def send_traverse(self, pnn: int, traverse_id: int, part: bytes, last: bool) -> None:
        """Send back-to-back rec_data to the asking node as TRAVERSE_DATA; `last` adds the end marker."""

    # -- counters ---------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Packet and call counters by their name in upstream's statistics."""

    def latencies(self) -> dict[str, tuple[int, float, float, float]]:
        """(number, min, max, total) in seconds by name: call, lock."""

    def buckets(self) -> dict[str, tuple[int, ...]]:
        """Sixteen counters each: hop_count, locks."""

    def db_counters(self, db_id: int) -> dict[str, int]:
        """Counters of one database (lock and delegation counts)."""

    def db_latencies(self, db_id: int) -> dict[str, tuple[int, float, float, float]]:
        """(number, min, max, total) in seconds of one database: lock, vacuum."""

    def db_buckets(self, db_id: int) -> dict[str, tuple[int, ...]]:
        """Sixteen counters each of one database: hop_count, locks."""

    def hot_keys(self, db_id: int) -> list[tuple[int, bytes]]:
        """(migrations, key) of the most moved records, most moved last."""

    def reset_counters(self) -> None:
        """Set every counter, latency, bucket and hot key to nothing."""
