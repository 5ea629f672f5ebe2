# SPDX-License-Identifier: GPL-3.0-or-later
"""What really happened to records: clients that note every change they make, and who checks the notes.

A client behaves as smbd does: lock the chain, look whether this node owns the record, and only then change
it; if it does not, unlock, ask the daemon, try again. A change adds one to the counter in the record. Before
the change it notes key, counter and time, after it the time again, all while it holds the record. On one
machine the clock is common, so the notes of all clients on all nodes tell one story, in which nobody's change
is lost and no two hold a record at the same time. The notes are in mapped files: they survive a SIGKILL.
"""

from __future__ import annotations

import argparse
import mmap
import random
import signal
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ctdbpy.client.connection import DEFAULT_SOCKET, Connection
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import CallFlag, CallId, Operation
from ctdbpy.wire.packets import ReqCall

#: key, kind, counter before, when the holder began and when it was done. Packing clears first: who is
#: killed at it must leave either the note or none.
NOTE: Final = struct.Struct("=IIQQQ")
HEADER: Final = struct.Struct("=QIIIxxxx")
_COUNTER: Final = struct.Struct("=Q")
_REQID_AT: Final = 28
#: What a note is: nothing yet, a change, a look. It is written last.
_CHANGE, _LOOK = 1, 2
_KIND: Final = struct.Struct("=I")
_KIND_AT, _TIMES_AT, _END_AT = 4, 16, 24
_TIMES: Final = struct.Struct("=QQ")
_TIME: Final = struct.Struct("=Q")
# Changes made in a row at most before another record has its turn.
_RUN_MAX: Final = 8
_HAS_COPIES: Final = 0x01000000
_IS_COPY: Final = 0x02000000


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One change of a record, as its holder noted it; `end_ns` is 0 when it was killed before it was done."""

    begin_ns: int
    end_ns: int
    key: int
    before: int
    client: str


@dataclass(frozen=True, slots=True)
class Look:
    """A counter seen by somebody who only reads, in the record itself or in a read-only copy of it."""

    begin_ns: int
    end_ns: int
    key: int
    counter: int
    client: str


# --- the checker ---------------------------------------------------------------------------------------


def problems(changes: Iterable[Change], finals: Mapping[int, int]) -> Iterator[str]:
    """Everything in a history that must not happen; `finals` are the counters found afterwards.

    A change that its client did not live to finish may have happened or not: what follows it decides.
    """
    by_key: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        by_key[change.key].append(change)
    for key, final in finals.items():
        yield from _problems_of_record(key, sorted(by_key[key]), final)
    for key in by_key.keys() - finals.keys():
        yield f"record {key}: it is gone after {len(by_key[key])} changes"


def _problems_of_record(key: int, changes: list[Change], final: int) -> Iterator[str]:
    counter, held_until_ns, holder = 0, 0, "nobody"
    for number, change in enumerate(changes):
        if change.begin_ns < held_until_ns:
            late_us = (held_until_ns - change.begin_ns) / 1000
            yield f"record {key}: {change.client} held it {late_us:.1f} us before {holder} was done"
        if change.before != counter:
            yield f"record {key}: {change.client} found {change.before} after {holder} left {counter}"
            counter = change.before
        follower = changes[number + 1].before if number + 1 < len(changes) else final
        if change.end_ns or follower != counter:
            counter += 1
        held_until_ns = max(held_until_ns, change.end_ns or change.begin_ns)
        holder = change.client
    if counter != final:
        yield f"record {key}: it says {final} after {holder} left {counter}"


def stale_looks(changes: Iterable[Change], looks: Iterable[Look]) -> Iterator[str]:
    """Every counter seen that was not the record's at any moment of the look.

    A copy is taken back before the record changes, so that whoever has one sees what the record says.
    Of changes that their client did not finish nothing is concluded.
    """
    by_counter = {(change.key, change.before): change for change in changes if change.end_ns}
    for look in looks:
        follower = by_counter.get((look.key, look.counter))
        if follower is not None and follower.end_ns < look.begin_ns:
            late_us = (look.begin_ns - follower.end_ns) / 1000
            yield f"record {look.key}: {look.client} saw {look.counter} {late_us:.1f} us after it had changed"
        maker = by_counter.get((look.key, look.counter - 1))
        if maker is not None and maker.begin_ns > look.end_ns:
            yield f"record {look.key}: {look.client} saw {look.counter} before it was made"


@dataclass(frozen=True, slots=True)
class Loss:
    """A host that the others went on without, from some moment after `begin_ns` until `end_ns`.

    One that stood still notices it only when it goes on: what its clients do until `stale_until_ns` with
    records that are no longer theirs is for nobody.
    """

    host: str
    begin_ns: int
    end_ns: int
    stale_until_ns: int = 0


def survived(changes: Iterable[Change], finals: Mapping[int, int], losses: Iterable[Loss]) -> list[Change]:
    """The changes without those that went down with a lost host, as nobody else had a copy.

    When the others go on without a host, a record it owned is what it was when they last saw it: the changes
    made since then, all of them on the lost host, are undone. What somebody saw who stayed must be there.
    """
    by_key: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        by_key[change.key].append(change)
    kept: list[Change] = []
    for key, story in by_key.items():
        for loss in losses:
            story = _survived(sorted(story), finals.get(key, 0), loss)
        kept += story
    return kept


def _survived(story: list[Change], final: int, loss: Loss) -> list[Change]:
    kept: list[Change] = []
    have_gone_on = False
    for change in story:
        is_lost = _host_of(change) == loss.host
        if (
            is_lost
            and loss.begin_ns <= change.begin_ns < loss.stale_until_ns
            and change.before != _left(kept)
        ):
            continue
        if not have_gone_on and change.begin_ns >= (loss.end_ns if is_lost else loss.begin_ns):
            have_gone_on = _undo(kept, change.before, loss)
        kept.append(change)
    if not have_gone_on:
        _undo(kept, final, loss)
    return kept


def _left(story: list[Change]) -> int:
    """The counter that the last change left, if it was made."""
    return story[-1].before + 1 if story else 0


def _undo(kept: list[Change], counter: int, loss: Loss) -> bool:
    """Go back to a counter, if all changes since then were the lost host's; whether there were any."""
    since = len(kept)
    while since and kept[since - 1].before >= counter:
        since -= 1
        if _host_of(kept[since]) != loss.host or kept[since].begin_ns >= loss.end_ns:
            return False
    undone = kept[since:]
    del kept[since:]
    return bool(undone)


def _host_of(change: Change) -> str:
    return change.client.partition("-")[0]


def read_notes(path: Path) -> Iterator[Change | Look]:
    """What a client noted."""
    with path.open("rb") as file:
        while len(data := file.read(NOTE.size)) == NOTE.size:
            key, kind, before, begin_ns, end_ns = NOTE.unpack(data)
            if not kind:
                return
            if kind == _CHANGE:
                yield Change(begin_ns, end_ns, key, before, path.stem)
            elif end_ns:
                yield Look(begin_ns, end_ns, key, before, path.stem)


def count_notes(path: Path) -> int:
    """How much a client has noted so far: the notes stand in a row, nothing follows them."""
    with path.open("rb") as file:
        least, most = 0, path.stat().st_size // NOTE.size
        while least < most:
            middle = (least + most) // 2
            file.seek(middle * NOTE.size)
            if NOTE.unpack(file.read(NOTE.size))[1]:
                least = middle + 1
            else:
                most = middle
        return least


def name_of(key: int) -> bytes:
    """The key of a record as it is in the database."""
    return b"history-%03d" % key


# --- the client ----------------------------------------------------------------------------------------


class Client:
    """Changes records at random until it has made so many changes, or is killed.

    A `reader` only looks at them and is content with read-only copies. A `careless` one changes
    records without asking whose they are: it is there to be caught. One that is to `freeze` stands still for
    ever in the middle of its last change, with the record locked.
    """

    def __init__(
        self, database: str, notes: Path, *, changes: int, keys: int, careless: bool, reader: bool
    ) -> None:
        connection = Connection(DEFAULT_SOCKET)
        self._db_id, path, flags = connection.attach(database)
        self._pnn = connection.pnn
        self._tdb = Tdb.open(path, flags=flags)
        self._socket = socket.socket(fileno=connection.detach_fd())
        self._reqid = 1000
        self._changes = changes
        self._careless = careless
        self._reader = reader
        self._keys = [name_of(key) for key in range(keys)]
        self._requests = [bytearray(self._request(key)) for key in self._keys]
        with notes.open("w+b") as file:
            file.truncate(NOTE.size * changes)
            self._notes = mmap.mmap(file.fileno(), 0)
        self._noted = 0
        self._seen: dict[int, tuple[int, int | None]] = {}

    def run(self, dice: random.Random, *, freeze: bool) -> None:
        """Make the changes."""
        while self._noted < self._changes:
            key = dice.randrange(len(self._keys))
            for _ in range(dice.randint(1, _RUN_MAX)):
                while not (
                    self._look(key)
                    if self._reader
                    else self._change(key, freeze=freeze and self._noted == self._changes - 1)
                ):
                    self._ask(key)
                if self._noted == self._changes:
                    return

    def _request(self, key: bytes) -> bytes:
        flags = CallFlag.IMMEDIATE_MIGRATION | (CallFlag.WANT_READONLY if self._reader else 0)
        call = ReqCall(0, 0, 0, 0, flags, self._db_id, CallId.NULL, 0, key, b"")
        return call.encode(padded=False)

    def _change(self, key: int, *, freeze: bool) -> bool:
        name, tdb = self._keys[key], self._tdb
        tdb.chainlock(name)
        try:
            record = tdb.fetch(name)
            if record is None:
                return False
            rsn, dmaster, reserved, flags = HEADER.unpack_from(record)
            if not self._careless and (dmaster != self._pnn or flags & _HAS_COPIES):
                return False
            at, begin_ns = self._noted * NOTE.size, time.monotonic_ns()
            (before,) = _COUNTER.unpack_from(record, HEADER.size) if len(record) > HEADER.size else (0,)
            self._note(at, _CHANGE, key, before, begin_ns, 0)
            if freeze:
                print("holds", flush=True)
                signal.pause()
            tdb.store(name, HEADER.pack(rsn, dmaster, reserved, flags) + _COUNTER.pack(before + 1))
            _TIME.pack_into(self._notes, at + _END_AT, time.monotonic_ns())
            self._noted += 1
        finally:
            tdb.chainunlock(name)
        return True

    def _look(self, key: int) -> bool:
        name, tdb = self._keys[key], self._tdb
        tdb.chainlock(name)
        try:
            begin_ns, record = time.monotonic_ns(), tdb.fetch(name)
            if record is None:
                return False
            _rsn, dmaster, _reserved, flags = HEADER.unpack_from(record)
            if dmaster != self._pnn and not flags & _IS_COPY:
                return False
            (counter,) = _COUNTER.unpack_from(record, HEADER.size) if len(record) > HEADER.size else (0,)
            self._note_look(key, counter, begin_ns, time.monotonic_ns())
        finally:
            tdb.chainunlock(name)
        return True

    def _note_look(self, key: int, counter: int, begin_ns: int, end_ns: int) -> None:
        """Of the looks that see the same, the first and the latest are worth noting."""
        seen, latest = self._seen.get(key, (None, None))
        if seen == counter and latest is not None:
            _TIMES.pack_into(self._notes, latest + _TIMES_AT, begin_ns, end_ns)
            return
        at = self._noted * NOTE.size
        self._note(at, _LOOK, key, counter, begin_ns, end_ns)
        self._noted += 1
        self._seen[key] = (counter, at if seen == counter else None)

    def _note(self, at: int, kind: int, key: int, counter: int, begin_ns: int, end_ns: int) -> None:
        NOTE.pack_into(self._notes, at, key, 0, counter, begin_ns, end_ns)
        _KIND.pack_into(self._notes, at + _KIND_AT, kind)

    def _ask(self, key: int) -> None:
        """Have the daemon bring the record here."""
        self._reqid += 1
        request = self._requests[key]
        struct.pack_into("=I", request, _REQID_AT, self._reqid)
        self._socket.sendall(request)
        received = b""
        while len(received) < 4 or len(received) < int.from_bytes(received[:4], "little"):
            data = self._socket.recv(65536)
            if not data:
                raise SystemExit("the daemon closed the connection")
            received += data
        _length, _magic, _version, _generation, operation, _to, _from, reqid = struct.unpack_from(
            "=8I", received
        )
        if (operation, reqid) != (Operation.REPLY_CALL, self._reqid):
            raise SystemExit(f"expected the answer to {self._reqid}, got operation {operation} for {reqid}")


def main() -> None:
    """Be a client."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("notes", type=Path)
    parser.add_argument("--changes", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--reader", action="store_true")
    parser.add_argument("--freeze", action="store_true")
    given = parser.parse_args()
    client = Client(
        given.database,
        given.notes,
        changes=given.changes,
        keys=given.keys,
        careless=given.careless,
        reader=given.reader,
    )
    client.run(random.Random(given.seed), freeze=given.freeze)


if __name__ == "__main__":
    main()
