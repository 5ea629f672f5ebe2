# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl why recovery` and `why record`: what made recoveries run, and what makes a record slow."""

from __future__ import annotations

from typing import Any, Final

from ctdbpy.cli.db_records import data_of, escaped
from ctdbpy.cli.session import PATIENCE_S, Session
from ctdbpy.cli.why import local, moment
from ctdbpy.client import databases
from ctdbpy.client.connection import Connection
from ctdbpy.client.nodes import connected
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag, RecordFlag, RecoveryMode, flag_names
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.nodes import VnnMap
from ctdbpy.wire.records import RecordHeader, jenkins_hash
from ctdbpy.wire.statistics import DbStatistics
from ctdbpy.wire.structures import NodeMap, ReasonReport

#: The newest recoveries that are shown.
RECOVERIES_MAX: Final = 10

_Answer = dict[str, Any]


def explain_recoveries(session: Session) -> None:
    """Print why recoveries ran, as the nodes that led them say. Raises ClientError."""
    with session.connect() as connection:
        nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
        replies = connection.controls(
            Control.GET_REASONS, UNKNOWN_PNN, nodes=connected(nodemap.nodes), timeout_s=PATIENCE_S
        )
        mode = connection.control(Control.GET_RECMODE).status
    found: dict[tuple[int, int], _Answer] = {}
    fences: dict[tuple[int, int], _Answer] = {}
    for reply in replies.values():
        if reply.status == 0:
            report: ReasonReport = decode_reply(Control.GET_REASONS, reply.data)
            for event in report.events.entries:
                if event.kind == "recovery":
                    found[event.wall_us, event.source] = {
                        "time": moment(event.wall_us),
                        "led_by": event.pnn,
                        "reason": event.text,
                    }
                elif event.kind == "fence":
                    fences[event.wall_us, event.source] = {
                        "time": moment(event.wall_us),
                        "told_by": event.source,
                        "node": event.pnn,
                        "text": event.text,
                    }
    answer = {
        "recovering": mode != RecoveryMode.NORMAL,
        "answered": sorted(replies),
        "recoveries": _newest(found),
        "fences": _newest(fences),
    }
    session.show(answer, _recoveries_text)


def _newest(found: dict[tuple[int, int], _Answer]) -> list[_Answer]:
    return [found[key] for key in sorted(found)][-RECOVERIES_MAX:]


def _recoveries_text(answer: _Answer) -> str:
    lines = [
        f"{local(each['time'])} recovery led by node {each['led_by']}: {each['reason']}"
        for each in answer["recoveries"]
    ]
    lines = lines or ["no recovery is known to the nodes that answer"]
    lines += [
        f"{local(each['time'])} fencing of node {each['node']}: {each['text']} [node {each['told_by']} says]"
        for each in answer["fences"]
    ]
    if answer["recovering"]:
        lines.append("one runs now, or waits for a leader: see 'ctdbctl why'")
    return "".join(f"{line}\n" for line in lines)


def explain_record(session: Session, name: str, key: str) -> None:
    """Print where a record is and what its users wait for; it stays there. Raises ClientError."""
    raw = data_of(key)
    with session.connect() as connection:
        database = databases.find_database(connection, name)
        header = _header(connection, database, raw)
        vnnmap: VnnMap = connection.ask(Control.GETVNNMAP)
        nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
        statistics: DbStatistics = connection.ask(Control.GET_DB_STATISTICS, database.db_id)
        mode = connection.control(Control.GET_RECMODE).status
    states = {node.pnn: flag_names(NodeFlag(node.flags)) for node in nodemap.nodes}
    lmaster = vnnmap.map[jenkins_hash(raw) % len(vnnmap.map)] if vnnmap.map else None
    hops = next((hot.count for hot in statistics.hot_keys if hot.key == raw), 0)
    answer: _Answer = {
        "database": database.name,
        "key": escaped(raw),
        "dmaster": None if header is None else header.dmaster,
        "dmaster_state": None if header is None else states.get(header.dmaster),
        "rsn": None if header is None else header.rsn,
        "flags": [] if header is None else [flag.name for flag in RecordFlag if header.flags & flag],
        "lmaster": lmaster if database.is_volatile else None,
        "hops": hops,
        "lock_waits_now": statistics.locks.num_pending,
        "lock_wait_max_s": statistics.locks.latency.max,
    }
    answer["because"] = _because(answer, database.is_volatile, mode != RecoveryMode.NORMAL)
    session.show(answer, _record_text)


def _header(connection: Connection, database: databases.Database, key: bytes) -> RecordHeader | None:
    """What this node's copy says of the record; None if it has none."""
    with databases.open_file(connection, database) as tdb:
        data = tdb.fetch(key)
    return RecordHeader.unpack(data) if data is not None and len(data) >= RecordHeader.SIZE else None


def _because(answer: _Answer, is_volatile: bool, is_recovering: bool) -> list[str]:
    found: list[str] = []
    if is_recovering:
        found.append("the databases are frozen until a recovery ends")
    if answer["dmaster"] is None:
        found.append("this node has never had it, or it is deleted; its lmaster knows who has it")
    elif is_volatile and answer["dmaster_state"] not in ("OK", None):
        found.append(f"node {answer['dmaster']}, which has it, is {answer['dmaster_state']}")
    if answer["hops"]:
        found.append(
            f"it is one of the records that move most ({answer['hops']} moves to this node): "
            "nodes take it from each other"
        )
    if answer["lock_waits_now"]:
        found.append(f"{answer['lock_waits_now']} waits for locks of this database are on")
    if {"RO_HAVE_DELEGATIONS", "RO_REVOKING_READONLY"} & set(answer["flags"]):
        found.append("read-only copies are out, which a change has to take back first")
    if not is_volatile:
        found.append("every node has it: it is changed in transactions of the whole cluster")
    return found or ["nothing on this node says why it should be slow"]


def _record_text(answer: _Answer) -> str:
    lines = [f"record {answer['key']} of {answer['database']}"]
    if answer["dmaster"] is not None:
        flags = f", {' '.join(answer['flags'])}" if answer["flags"] else ""
        lines.append(f"    here: node {answer['dmaster']} has it, rsn {answer['rsn']}{flags}")
    if answer["lmaster"] is not None:
        lines.append(f"    its lmaster: node {answer['lmaster']}")
    lines.append(f"    longest wait for a lock of this database: {answer['lock_wait_max_s']:.3f} s")
    lines += [f"    {each}" for each in answer["because"]]
    return "".join(f"{line}\n" for line in lines)


def explain(session: Session, words: tuple[str, ...]) -> None:
    """Whatever `why` was asked in more than a number or an address. Raises ClientError."""
    match words:
        case ("recovery",):
            explain_recoveries(session)
        case ("record", database, key):
            explain_record(session, database, key)
        case _:
            raise ClientError(
                f"cannot explain '{' '.join(words)}': give a node's number, an address, "
                "'recovery', or 'record DATABASE KEY'"
            )
