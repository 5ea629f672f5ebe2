# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases that count their changes tell the others, but not back and forth."""

from __future__ import annotations

from ctdbpy.core.effects import SendControl
from ctdbpy.core.inputs import LinkUp
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.controls import Control
from tests.unit.core.fakes import Harness, of_kind, several_nodes


def counting() -> tuple[Harness, int]:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    harness.running_with_all()
    db_id = harness.attach()
    assert harness.ask(Control.ENABLE_SEQNUM, U32.pack(db_id)).status == 0
    return harness, db_id


def told(effects: list[object]) -> list[int]:
    sent = [each for each in effects if isinstance(each, SendControl)]
    return [each.pnn for each in sent if each.opcode == Control.UPDATE_SEQNUM]


def test_changes_are_told_once_an_interval() -> None:
    harness, db_id = counting()
    assert not told(list(harness.advance(3)))
    harness.records.databases[db_id].seqnum += 5
    assert told(list(harness.advance(3))) == [1]


def test_what_others_changed_is_counted_and_not_told_again() -> None:
    harness, db_id = counting()
    assert harness.ask(Control.UPDATE_SEQNUM, U32.pack(db_id)).status == 0
    assert harness.records.databases[db_id].seqnum == 1
    assert not told(list(harness.advance(3)))


def test_a_detached_database_is_forgotten() -> None:
    harness, db_id = counting()
    harness.node.state.tunables = harness.node.state.tunables.replaced("AllowClientDBAttach", 0)
    harness.ask(Control.DB_DETACH, U32.pack(db_id))
    assert not of_kind([each for each in harness.advance(3) if told([each])], SendControl)
    assert harness.node.rooms.seqnums.deadline_s is None
