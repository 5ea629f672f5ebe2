# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that is alone: start, clients that come and go, stop and continue, messages of tools, shutdown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ctdbpy.core.effects import Announce, Effect, Exit, Log, LogLevel, SendMessage, SetHealth
from ctdbpy.core.inputs import MessageArrived, RecordsComplained, ShutdownAsked
from ctdbpy.core.state import FoundDatabase
from ctdbpy.wire.codecs import I32, U32
from ctdbpy.wire.constants import BROADCAST_CONNECTED, ControlFlag, NodeFlag, RecoveryMode, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import db_id_of
from ctdbpy.wire.srvids import (
    SRVID_DISABLE_IP_CHECK,
    SRVID_DISABLE_RECOVERIES,
    SRVID_DISABLE_TAKEOVER_RUNS,
    SRVID_IPREALLOCATED,
    SRVID_LEADER,
    SRVID_MEM_DUMP,
    SRVID_PUSH_NODE_FLAGS,
    SRVID_REBALANCE_NODE,
    SRVID_RECONFIGURE,
    SRVID_RELOAD_NODES,
    SRVID_TAKEOVER_RUN,
)
from ctdbpy.wire.structures import DisableMessage, NodeFlagChange, NotifyData, SrvidMessage, TunableValue
from tests.unit.core.fakes import FIRST_GENERATION, Harness, of_kind


def messages(effects: Sequence[Effect], srvid: int) -> list[SendMessage]:
    return [each for each in effects if isinstance(each, SendMessage) and each.srvid == srvid]


def test_a_lone_node_runs_within_the_step_that_starts_it() -> None:
    harness = Harness()
    state = harness.node.state
    assert (state.runstate, state.recmode, state.leader) == (RunState.RUNNING, RecoveryMode.NORMAL, 0)
    assert (state.own.flags, state.generation, state.lmasters) == (NodeFlag(0), FIRST_GENERATION, (0,))
    assert (harness.records.generation, harness.records.lmasters) == (FIRST_GENERATION, (0,))
    assert (harness.records.flags, harness.records.recovering) == ((0,), False)
    assert harness.records.tunables["ControlTimeout"] == 60
    assert [each.ready for each in of_kind(harness.effects, Announce)] == [True, True, True]
    assert messages(harness.effects, SRVID_RECONFIGURE)


def test_the_leader_says_so_each_second() -> None:
    harness = Harness()
    heard = messages(harness.advance(10), SRVID_LEADER)
    assert heard == [SendMessage(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(0))] * 10


def test_persistent_databases_found_at_start_are_attached_without_the_bad_ones() -> None:
    found = (FoundDatabase("good.tdb"), FoundDatabase("bad.tdb"), FoundDatabase("sick.tdb", "ERROR: check"))
    harness = Harness(databases=found, start=False)
    harness.records.refused["bad.tdb"] = "it is corrupt"
    harness.begin()
    names = {each.name: each.unhealthy for each in harness.node.state.databases.values()}
    assert names == {"good.tdb": "", "sick.tdb": "ERROR: check"}
    assert any(
        "bad.tdb" in each.text for each in of_kind(harness.effects, Log) if each.level is LogLevel.ERROR
    )
    assert [each.name for each in of_kind(harness.effects, SetHealth)] == ["bad.tdb"]
    assert all(each.generation == FIRST_GENERATION for each in harness.node.state.databases.values())


def test_clients_wait_with_an_attach_until_recovery_is_over() -> None:
    harness = Harness()
    client_id = harness.connect()
    harness.node.state.tunables = harness.node.state.tunables.replaced("DeferredAttachTO", 5)
    harness.pause_recoveries()
    reqid, effects = harness.send(client_id, Control.DB_ATTACH, b"a.tdb\0")
    assert not harness.replies(effects, reqid)
    late, _ = harness.send(client_id, Control.DB_ATTACH, b"b.tdb\0")
    harness.hang_up(harness.connect(8))
    assert [each.status for each in harness.replies(harness.advance(6), late)] == [-1]
    reqid, _ = harness.send(client_id, Control.DB_ATTACH, b"a.tdb\0")
    assert [each.status for each in harness.replies(harness.resume_recoveries(), reqid)] == [0]


def test_an_attach_of_a_recovery_is_served_during_one_only() -> None:
    harness = Harness()
    flags = int(ControlFlag.ATTACH_RECOVERY)
    assert harness.ask(Control.DB_ATTACH, b"a.tdb\0", flags=flags).status == -1
    harness.pause_recoveries()
    assert harness.ask(Control.DB_ATTACH, b"a.tdb\0", flags=flags).status == 0


def test_an_inactive_node_attaches_nothing_for_clients() -> None:
    harness = Harness(stopped=True)
    assert harness.ask(Control.DB_ATTACH, b"a.tdb\0").status == -1
    assert harness.node.state.leader == 0xFFFFFFFF


@pytest.mark.parametrize(("stopped", "disabled"), [(True, False), (False, True)])
def test_a_node_starts_stopped_or_disabled_if_told(stopped: bool, disabled: bool) -> None:
    harness = Harness(stopped=stopped, disabled=disabled)
    flags = harness.node.state.own.flags
    assert bool(flags & NodeFlag.STOPPED) == stopped
    assert bool(flags & NodeFlag.PERMANENTLY_DISABLED) == disabled
    if stopped:
        assert harness.ask(Control.GET_RUNSTATE).data == U32.pack(RunState.FIRST_RECOVERY)
        harness.ask(Control.CONTINUE_NODE)
    assert harness.ask(Control.GET_RUNSTATE).data == U32.pack(RunState.RUNNING)


def test_stop_freezes_everything_and_continue_recovers() -> None:
    harness = Harness()
    db_id = harness.attach()
    harness.ask(Control.STOP_NODE)
    state = harness.node.state
    assert state.databases[db_id].is_frozen and state.databases[db_id].is_invalid
    assert harness.records.databases[db_id].frozen
    assert (state.recmode, state.generation, harness.records.recovering) == (RecoveryMode.ACTIVE, 1, True)
    assert not messages(harness.advance(5), SRVID_TAKEOVER_RUN)
    harness.ask(Control.CONTINUE_NODE)
    assert (state.recmode, state.leader) == (RecoveryMode.NORMAL, 0)
    assert not state.databases[db_id].is_frozen and not state.databases[db_id].is_invalid
    assert harness.records.databases[db_id].generation == state.generation > FIRST_GENERATION


def test_continuing_while_databases_still_freeze_waits_for_them() -> None:
    harness = Harness()
    db_id = harness.attach()
    harness.hold_jobs = True
    harness.ask(Control.STOP_NODE)
    harness.ask(Control.CONTINUE_NODE)
    assert harness.ask(Control.GET_RECMODE).status == 1
    harness.release_jobs()
    assert harness.ask(Control.GET_RECMODE).status == 0
    assert not harness.records.databases[db_id].frozen


def test_a_ban_ends_by_itself_or_by_hand() -> None:
    harness = Harness()
    harness.attach()
    harness.node.rooms.flags.ban(10, "a test")
    harness.advance(0)
    harness.ask(Control.GET_PNN)
    assert harness.node.state.own.flags == NodeFlag.BANNED
    harness.advance(11)
    assert harness.node.state.own.flags == NodeFlag(0)
    assert not harness.node.state.is_recovering


def test_a_ban_does_not_end_while_a_database_moves() -> None:
    harness = Harness()
    harness.attach()
    harness.hold_jobs = True
    harness.node.rooms.flags.ban(10, "a test")
    harness.advance(11)
    assert harness.node.state.own.flags == NodeFlag.BANNED
    assert harness.node.rooms.flags.ban_state.time_s == 300


def test_bans_can_be_switched_off() -> None:
    harness = Harness()
    harness.ask(Control.SET_TUNABLE, TunableValue("EnableBans", 0).pack())
    harness.node.rooms.flags.ban(10, "a test")
    harness.ask(Control.GET_PNN)
    assert harness.node.state.own.flags == NodeFlag(0)


def test_asking_for_recovery_gives_a_new_generation() -> None:
    harness = Harness()
    db_id = harness.attach()
    assert harness.ask(Control.SET_RECMODE, U32.pack(1)).status == 0
    assert harness.node.state.generation == FIRST_GENERATION + 1
    assert harness.records.databases[db_id].generation == FIRST_GENERATION + 1
    assert harness.node.state.recoveries == 2


def test_a_node_without_the_lmaster_role_is_lmaster_if_nobody_else_is() -> None:
    harness = Harness()
    harness.ask(Control.SET_LMASTERROLE, U32.pack(0))
    harness.advance(5)
    assert harness.node.state.lmasters == (0,)
    assert harness.node.state.recoveries == 1


def test_giving_up_the_leader_role_leaves_no_leader() -> None:
    harness = Harness()
    harness.ask(Control.SET_RECMASTERROLE, U32.pack(0))
    assert harness.node.state.leader == 0xFFFFFFFF
    harness.ask(Control.SET_RECMASTERROLE, U32.pack(1))
    assert harness.node.state.leader == 0


def test_a_client_that_goes_leaves_its_message() -> None:
    harness = Harness()
    client_id = harness.connect()
    harness.ask(Control.REGISTER_NOTIFY, NotifyData(0x55, b"bye").pack())
    assert harness.ask(Control.REGISTER_NOTIFY, NotifyData(0x55, b"again").pack()).status == -1
    harness.ask(Control.REGISTER_NOTIFY, NotifyData(0x56, b"not").pack())
    assert harness.ask(Control.DEREGISTER_NOTIFY, (0x56).to_bytes(8, "little")).status == 0
    assert SendMessage(BROADCAST_CONNECTED, 0x55, b"bye") in harness.hang_up(client_id)
    assert not messages(harness.effects, 0x56)


def test_a_client_that_is_gone_is_not_answered() -> None:
    harness = Harness()
    client_id = harness.connect()
    harness.pause_recoveries()
    reqid, _ = harness.send(client_id, Control.DB_ATTACH, b"a.tdb\0")
    harness.hang_up(client_id)
    assert not harness.replies(harness.resume_recoveries(), reqid)


def test_a_control_without_reply_gets_none() -> None:
    harness = Harness()
    client_id = harness.connect()
    reqid, effects = harness.send(client_id, Control.GET_PNN, flags=int(ControlFlag.NOREPLY))
    assert not harness.replies(effects, reqid)


def test_a_control_of_an_unknown_client_is_dropped() -> None:
    harness = Harness()
    client_id = harness.connect()
    harness.hang_up(client_id)
    _, effects = harness.send(client_id, Control.SHUTDOWN)
    assert not effects


# -- messages of tools -------------------------------------------------------------------------------


def test_a_takeover_run_is_answered_by_the_leader() -> None:
    harness = Harness()
    request = SrvidMessage(0, 0xCE01 << 48).pack()
    effects = harness.give(MessageArrived(0, SRVID_TAKEOVER_RUN, request))
    assert messages(effects, 0xCE01 << 48) == [SendMessage(0, 0xCE01 << 48, I32.pack(0))]
    effects = harness.give(MessageArrived(0, SRVID_TAKEOVER_RUN, SrvidMessage(0, 0).pack()))
    assert messages(effects, SRVID_IPREALLOCATED) == of_kind(effects, SendMessage)


def test_a_takeover_run_of_a_cluster_with_nobody_active_is_answered() -> None:
    harness = Harness(stopped=True)
    effects = harness.give(MessageArrived(0, SRVID_TAKEOVER_RUN, SrvidMessage(0, 9).pack()))
    assert messages(effects, 9) == [SendMessage(0, 9, I32.pack(0))]


def test_disabled_takeover_runs_wait() -> None:
    harness = Harness()
    disable = DisableMessage(0, 5, 10).pack()
    effects = harness.give(MessageArrived(0, SRVID_DISABLE_TAKEOVER_RUNS, disable))
    assert messages(effects, 5) == [SendMessage(0, 5, I32.pack(0))]
    assert not messages(harness.give(MessageArrived(0, SRVID_TAKEOVER_RUN, SrvidMessage(0, 9).pack())), 9)
    assert not messages(harness.advance(9), 9)
    assert messages(harness.advance(2), 9)
    harness.give(MessageArrived(0, SRVID_DISABLE_IP_CHECK, U32.pack(10)))
    assert not messages(harness.give(MessageArrived(0, SRVID_TAKEOVER_RUN, SrvidMessage(0, 9).pack())), 9)
    harness.give(MessageArrived(0, SRVID_REBALANCE_NODE, U32.pack(0)))
    assert messages(harness.give(MessageArrived(0, SRVID_DISABLE_IP_CHECK, U32.pack(0))), 9)


def test_recoveries_can_be_disabled() -> None:
    harness = Harness()
    effects = harness.give(MessageArrived(0, SRVID_DISABLE_RECOVERIES, DisableMessage(0, 5, 10).pack()))
    assert messages(effects, 5) == [SendMessage(0, 5, I32.pack(0))]
    harness.node.state.lmasters = (0, 0)
    harness.advance(9)
    assert harness.node.state.recoveries == 1
    harness.advance(3)
    assert harness.node.state.recoveries == 2
    assert list(harness.node.state.lmasters) == [0]


def test_a_memory_dump_by_message_is_text() -> None:
    harness = Harness()
    effects = harness.give(MessageArrived(0, SRVID_MEM_DUMP, SrvidMessage(0, 5).pack()))
    (answer,) = messages(effects, 5)
    assert answer.data.startswith(b"full talloc report") and answer.data.endswith(b"\0")


def test_other_messages_of_tools_do_no_harm() -> None:
    harness = Harness()
    harness.give(MessageArrived(0, SRVID_PUSH_NODE_FLAGS, NodeFlagChange(0, 32, 0).pack()))
    harness.give(MessageArrived(0, SRVID_PUSH_NODE_FLAGS, NodeFlagChange(9, 32, 0).pack()))
    harness.give(MessageArrived(0, SRVID_RELOAD_NODES, b""))
    harness.give(MessageArrived(0, 0x1234, b"nobody listens"))
    for srvid in (SRVID_TAKEOVER_RUN, SRVID_DISABLE_RECOVERIES, SRVID_LEADER, SRVID_MEM_DUMP):
        effects = harness.give(MessageArrived(0, srvid, b"x"))
        assert [each.level for each in of_kind(effects, Log)] == [LogLevel.WARNING]
    assert harness.node.state.own.flags == NodeFlag(0)


# -- the record engine and the end ----------------------------------------------------------------------


def test_a_record_given_away_by_a_stranger_means_recovery() -> None:
    harness = Harness()
    harness.give(RecordsComplained("hot", db_id_of("a.tdb"), 1, ""))
    assert harness.node.state.recoveries == 1
    harness.give(RecordsComplained("dmaster", db_id_of("a.tdb"), 1, ""))
    assert harness.node.state.recoveries == 2


def test_a_record_that_cannot_be_stored_is_an_error_in_words() -> None:
    harness = Harness()
    said = of_kind(harness.give(RecordsComplained("unstorable", db_id_of("a.tdb"), 0, "")), Log)
    assert [line.level for line in said] == [LogLevel.ERROR]
    assert "cannot store records" in said[0].text and "disk full" in said[0].text
    assert harness.node.state.recoveries == 1


def test_a_signal_ends_the_node_in_an_orderly_way() -> None:
    harness = Harness()
    effects = harness.give(ShutdownAsked("SIGTERM"))
    assert isinstance(effects[-1], Exit)
    assert harness.node.state.leader == 0xFFFFFFFF
    assert harness.node.state.runstate is RunState.SHUTDOWN
    assert not of_kind(harness.advance(5), SendMessage)
