# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls about databases: attach and detach, modes, health, sequence numbers, commits, vacuum."""

from __future__ import annotations

import struct
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from ctdbpy.core.controls.handlers import Handler, no_database, of_client, of_database
from ctdbpy.core.effects import JobKind, SetHealth
from ctdbpy.core.ports import Busy
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.core.state import Database, Freeze
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import I32, U32, U64, Str0
from ctdbpy.wire.constants import BROADCAST_CONNECTED, ControlFlag, DbFlag, RecordFlag
from ctdbpy.wire.controls import Control, encode_reply
from ctdbpy.wire.records import SEQNUM_KEY, RecBuffer, RecData, RecordHeader
from ctdbpy.wire.structures import DbIdEntry, DbIdMap, DbVacuum, KeyData, PushRecord

_BUFFER_HEAD: Final = struct.Struct("=II")
#: A record that is locked is looked at again so much later, and so often.
_BUSY_S: Final = 0.02
_BUSY_TRIES: Final = 250

_ATTACHES: Final = {
    Control.DB_ATTACH: DbFlag(0),
    Control.DB_ATTACH_PERSISTENT: DbFlag.PERSISTENT,
    Control.DB_ATTACH_REPLICATED: DbFlag.REPLICATED,
}


# -- attach and detach ----------------------------------------------------------------------------


async def _attach(rooms: Rooms, request: Request, name: str) -> Reply:
    """Local programs wait while a recovery is under way; a daemon's own attach is part of one."""
    state = rooms.state
    opcode = Control(request.control.opcode)
    if not state.tunables.allow_client_db_attach:
        return refuse(f"cannot attach {name!r}: AllowClientDBAttach is 0")
    if request.client is not None:
        if state.is_inactive:
            return refuse(f"cannot attach {name!r}: this node is inactive")
        if request.control.flags & ControlFlag.ATTACH_RECOVERY:
            if not state.is_recovering:
                return refuse(f"cannot attach {name!r} for a recovery: none is active")
        elif not await rooms.attaches.wait_until_open():
            return refuse(f"cannot attach {name!r}: recovery took longer than DeferredAttachTO")
    if not _is_file_name(name):
        return refuse(f"cannot attach {name!r}: it is no name for a file")
    before = len(state.databases)
    database = rooms.attaches.attach(name, _ATTACHES[opcode])
    if request.client is not None and database.unhealthy and not state.tunables.allow_unhealthy_db_read:
        # Samba would take an empty database for a new one and go on with that.
        return refuse(
            f"cannot attach {name!r}: it is unhealthy: {database.unhealthy}; "
            "wipe it (ctdb wipedb) and restore a backup (ctdb restoredb)"
        )
    if len(state.databases) > before:
        rooms.routing.tell(BROADCAST_CONNECTED, opcode, Str0.pack(name), others_only=True)
    return Reply(data=U32.pack(database.db_id))


def _detach(rooms: Rooms, request: Request, database: Database) -> Reply:
    """A client's wish goes to every node; what nodes send is done."""
    state = rooms.state
    if state.tunables.allow_client_db_attach:
        return refuse(f"cannot detach {database.name!r}: AllowClientDBAttach is not 0")
    if not database.is_volatile:
        return refuse(f"cannot detach {database.name!r}: it is not volatile")
    if database.freeze is not Freeze.THAWED:
        return refuse(f"cannot detach {database.name!r}: it is frozen")
    if state.is_recovering:
        return refuse(f"cannot detach {database.name!r}: recovery is active")
    if request.client is not None:
        rooms.routing.tell(BROADCAST_CONNECTED, Control.DB_DETACH, U32.pack(database.db_id))
        return OK
    rooms.attaches.detach(database)
    return OK


def _is_file_name(name: str) -> bool:
    return bool(name) and "/" not in name and name not in (".", "..") and len(Str0.pack(name)) <= 200


# -- what there is --------------------------------------------------------------------------------


def _dbmap(rooms: Rooms, _request: Request, _value: None) -> Reply:
    # Youngest first, as upstream's tool shows them.
    databases = reversed(rooms.state.databases.values())
    entries = (DbIdEntry(each.db_id, int(each.flags)) for each in databases)
    return Reply(data=DbIdMap(tuple(entries)).pack())


def _name(_rooms: Rooms, _request: Request, database: Database) -> Reply:
    return Reply(data=Str0.pack(database.name))


def _path(rooms: Rooms, _request: Request, database: Database) -> Reply:
    return Reply(data=Str0.pack(rooms.state.records.path(database.db_id)))


def _open_flags(rooms: Rooms, _request: Request, database: Database) -> Reply:
    return Reply(data=I32.pack(rooms.state.records.open_flags(database.db_id)))


def _set_mode(mode: DbFlag) -> Callable[[Rooms, Request, Database], Reply]:
    def handle(rooms: Rooms, _request: Request, database: Database) -> Reply:
        if database.flags & mode:
            return OK
        if not database.is_volatile:
            return refuse(f"cannot make {database.name!r} {mode.name}: it is not volatile")
        rooms.state.records.set_db_flags(database.db_id, int(database.flags | mode))
        database.flags |= mode
        return OK

    return handle


def _set_healthy(rooms: Rooms, _request: Request, database: Database) -> Reply:
    if database.is_persistent:
        database.unhealthy = ""
        rooms.state.emit(SetHealth(database.name, ""))
    return OK


def _health(_rooms: Rooms, _request: Request, database: Database) -> Reply:
    return Reply(data=encode_reply(Control.DB_GET_HEALTH, database.unhealthy or None))


# -- sequence numbers -----------------------------------------------------------------------------


def _enable_seqnum(rooms: Rooms, _request: Request, database: Database) -> Reply:
    rooms.seqnums.enable(database)
    return OK


def _update_seqnum(rooms: Rooms, _request: Request, database: Database) -> Reply:
    rooms.seqnums.update(database)
    return OK


async def _seqnum(rooms: Rooms, _request: Request, database: Database) -> Reply:
    """The number the clients count in a record of the database; none is 0."""
    if database.is_frozen:
        if database.transaction is None:
            return refuse(f"{database.name!r} is frozen")
        job = rooms.jobs.start(JobKind.FETCH, database.db_id, SEQNUM_KEY, session=database.session)
        outcome = await job.ended
        if not outcome.is_good:
            return refuse(f"cannot read {database.name!r}: {outcome.error}")
        return Reply(data=_seqnum_in(outcome.data))
    for _ in range(_BUSY_TRIES):
        try:
            return Reply(data=_seqnum_in(rooms.state.records.fetch(database.db_id, SEQNUM_KEY)))
        except Busy:
            await rooms.runner.sleep(_BUSY_S)
        if database.db_id not in rooms.state.databases:
            return no_database(database.db_id)
    return refuse(f"cannot read {database.name!r}: its sequence number stays locked")


def _seqnum_in(stored: bytes | None) -> bytes:
    value = (stored or b"")[RecordHeader.SIZE :]
    return value if len(value) == U64.size else U64.pack(0)


# -- persistent databases -------------------------------------------------------------------------


def _commit(rooms: Rooms, request: Request, data: bytes) -> Reply | Coroutine[Any, Any, Reply]:
    assert request.client is not None
    db_id = _head(data)[0]
    database = rooms.state.databases.get(db_id)
    if database is None:
        return no_database(db_id)
    return rooms.commits.commit(request.client, database, data)


def _update(rooms: Rooms, _request: Request, data: bytes) -> Reply | Coroutine[Any, Any, Reply]:
    db_id, count = _head(data)
    database = rooms.state.databases.get(db_id)
    if database is None:
        return no_database(db_id)
    return rooms.commits.update(database, data, counts=count)


def _head(data: bytes) -> tuple[int, int]:
    """Database and number of records of a buffer whose records only a worker reads."""
    if len(data) < _BUFFER_HEAD.size:
        raise ProtocolError(f"cannot decode 'RecBuffer': {len(data)} bytes are no buffer")
    db_id, count = _BUFFER_HEAD.unpack_from(data)
    if count * RecData.SIZE_MIN > len(data) - _BUFFER_HEAD.size:
        raise ProtocolError(f"cannot decode 'RecBuffer': {count} records do not fit in {len(data)} bytes")
    return db_id, count


def _start_update(_rooms: Rooms, request: Request, database: Database) -> Reply:
    if request.client is None:
        return refuse("only a local client may ask for this")
    if database.is_volatile:
        return refuse(f"{database.name!r} is volatile")
    request.client.updates[database.db_id] = request.client.updates.get(database.db_id, 0) + 1
    return OK


def _cancel_update(_rooms: Rooms, request: Request, database: Database) -> Reply:
    if request.client is None:
        return refuse("only a local client may ask for this")
    number = request.client.updates.get(database.db_id, 0)
    if number:
        request.client.updates[database.db_id] = number - 1
    return OK


async def _push_record(rooms: Rooms, _request: Request, pushed: PushRecord) -> Reply:
    """A copy of a record that must survive its owner: stored unless we own it or the map has changed."""
    state = rooms.state
    database = state.databases.get(pushed.db_id)
    if database is None:
        return no_database(pushed.db_id)
    if pushed.generation != state.generation or pushed.header.dmaster == state.pnn:
        return OK
    header = replace(pushed.header, flags=pushed.header.flags | RecordFlag.MIGRATED_WITH_DATA)
    buffer = RecBuffer(pushed.db_id, (RecData.of(pushed.key, header, pushed.value),))
    outcome = await rooms.jobs.start(JobKind.STORE, pushed.db_id, buffer.pack()).ended
    return OK if outcome.is_good else refuse(f"cannot store in {database.name!r}: {outcome.error}")


# -- vacuum ---------------------------------------------------------------------------------------


def _schedule_deletion(rooms: Rooms, _request: Request, wanted: KeyData) -> Reply:
    if wanted.db_id not in rooms.state.databases:
        return no_database(wanted.db_id)
    rooms.state.records.schedule_deletion(wanted.db_id, wanted.header.pack(), wanted.key)
    return OK


def _try_delete(rooms: Rooms, _request: Request, buffer: RecBuffer) -> Reply:
    database = rooms.state.databases.get(buffer.db_id)
    return no_database(buffer.db_id) if database is None else rooms.vacuum.try_delete(buffer, database)


def _vacuum_fetch(rooms: Rooms, _request: Request, buffer: RecBuffer) -> Reply:
    database = rooms.state.databases.get(buffer.db_id)
    if database is None:
        return no_database(buffer.db_id)
    rooms.vacuum.fetch(buffer, database)
    return OK


def _vacuum(rooms: Rooms, _request: Request, wanted: DbVacuum) -> Reply | Coroutine[Any, Any, Reply]:
    database = rooms.state.databases.get(wanted.db_id)
    return no_database(wanted.db_id) if database is None else rooms.vacuum.run(database, full=wanted.full)


HANDLERS: dict[Control, Handler] = {
    Control.DB_ATTACH: _attach,
    Control.DB_ATTACH_PERSISTENT: _attach,
    Control.DB_ATTACH_REPLICATED: _attach,
    Control.DB_DETACH: of_database(_detach),
    Control.GET_DBMAP: _dbmap,
    Control.GET_DBNAME: of_database(_name),
    Control.GETDBPATH: of_database(_path),
    Control.DB_OPEN_FLAGS: of_database(_open_flags),
    Control.SET_DB_READONLY: of_database(_set_mode(DbFlag.READONLY)),
    Control.SET_DB_STICKY: of_database(_set_mode(DbFlag.STICKY)),
    Control.DB_SET_HEALTHY: of_database(_set_healthy),
    Control.DB_GET_HEALTH: of_database(_health),
    Control.ENABLE_SEQNUM: of_database(_enable_seqnum),
    Control.UPDATE_SEQNUM: of_database(_update_seqnum),
    Control.GET_DB_SEQNUM: of_database(_seqnum),
    Control.TRANS3_COMMIT: of_client(_commit),
    Control.UPDATE_RECORD: _update,
    Control.START_PERSISTENT_UPDATE: of_database(_start_update),
    Control.CANCEL_PERSISTENT_UPDATE: of_database(_cancel_update),
    Control.PUSH_RECORD: _push_record,
    Control.SCHEDULE_FOR_DELETION: _schedule_deletion,
    Control.TRY_DELETE_RECORDS: _try_delete,
    Control.VACUUM_FETCH: _vacuum_fetch,
    Control.DB_VACUUM: _vacuum,
}
