# SPDX-License-Identifier: GPL-3.0-or-later
"""Tunables lie and list as upstream's do, and ours stay out of both."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.tunables import LISTED_NAMES, OWN_TUNABLES, TUNABLES, Tunables, find_tunable
from tests.unit.wire.strategies import STRUCTURES, u32

ALL = (*TUNABLES, *OWN_TUNABLES)
NAMES = st.sampled_from([spec.name for spec in ALL])


def test_the_structure_is_upstreams_with_its_defaults() -> None:
    values = struct.unpack("=62I", Tunables().pack())
    assert values == (
        *(
            3,
            1000,
            60,
            20,
            5,
            5,
            30,
            1,
            3,
            9,
            15,
            20,
            30,
            20,
            0,
            120,
            300,
            100001,
            5,
            10,
            1,
            0,
            60,
            0,
            0,
            0,
            60,
        ),
        *(
            10,
            0,
            1000,
            120,
            1,
            10,
            120,
            10000,
            5000,
            1000000,
            0,
            1,
            120,
            60,
            1,
            1,
            1,
            300,
            1,
            50,
            600,
            200,
            0,
        ),
        *(100000, 10000000, 100000000, 10485760, 1, 0, 1, 200, 1000000, 1024, 2, 0),
    )


def test_every_field_has_one_row_in_the_order_of_the_structure() -> None:
    fields = dataclasses.fields(Tunables)
    assert [spec.field for spec in ALL] == [field.name for field in fields]
    assert [spec.default for spec in ALL] == [field.default for field in fields]
    assert len({spec.name.lower() for spec in ALL}) == len(ALL)


def test_the_list_is_upstreams() -> None:
    listed = """
        SeqnumInterval ControlTimeout TraverseTimeout KeepaliveInterval KeepaliveLimit
        RecoverTimeout RecoverInterval ElectionTimeout TakeoverTimeout MonitorInterval
        TickleUpdateInterval EventScriptTimeout MonitorTimeoutCount RecoveryGracePeriod
        RecoveryBanPeriod DatabaseHashSize DatabaseMaxDead RerecoveryTimeout EnableBans
        NoIPFailback VerboseMemoryNames RecdPingTimeout RecdFailCount LogLatencyMs
        RecLockLatencyMs RecoveryDropAllIPs VacuumInterval VacuumMaxRunTime RepackLimit
        VacuumFastPathCount MaxQueueDropMsg AllowUnhealthyDBRead StatHistoryInterval DeferredAttachTO
        AllowClientDBAttach FetchCollapse HopcountMakeSticky StickyDuration
        StickyPindown NoIPTakeover DBRecordCountWarn DBRecordSizeWarn DBSizeWarn
        PullDBPreallocation LockProcessesPerDB RecBufferSizeLimit QueueBufferSize IPAllocAlgorithm
        AllowMixedVersions
    """
    assert list(LISTED_NAMES) == listed.split()


def test_ours_are_reached_by_name_only() -> None:
    tunables = Tunables().replaced("SpinUs", 300)
    assert {spec.name: tunables.get(spec.name) for spec in OWN_TUNABLES} == {
        "HeartbeatInterval": 100,
        "HeartbeatLimit": 5,
        "StallLimit": 2000,
        "RecordHoldUs": 300,
        "RecordReliefMoves": 100,
        "RecordReliefSeconds": 10,
        "RecordReliefUs": 2000,
        "SpinUs": 300,
    }
    assert not {spec.name for spec in OWN_TUNABLES} & set(LISTED_NAMES)
    assert tunables.pack() == Tunables().pack()
    assert Tunables.unpack(tunables.pack()) == Tunables()


@given(STRUCTURES[Tunables], NAMES, u32)
def test_a_tunable_is_set_and_got_by_its_name_in_any_case(tunables: Tunables, name: str, value: int) -> None:
    changed = tunables.replaced(name.upper(), value)
    assert changed.get(name.lower()) == value
    others = {pair for pair in tunables.pairs() if pair[0] != name}
    assert set(changed.pairs()) == others | {(name, value)}


def test_a_tunables_row_is_found_by_its_name_in_any_case() -> None:
    found = find_tunable("monitorINTERVAL")
    assert found is not None
    assert (found.name, found.default, found.unit, found.obsolete) == ("MonitorInterval", 15, "s", False)
    obsolete = find_tunable("MaxRedirectCount")
    assert obsolete is not None and obsolete.obsolete


def test_a_name_that_is_none_is_not_found() -> None:
    assert find_tunable("Monitor") is None
    with pytest.raises(KeyError):
        Tunables().get("Monitor")
    with pytest.raises(KeyError):
        Tunables().replaced("Monitor", 1)


@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_value_beyond_the_field_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=str(value)):
        Tunables().replaced("MonitorInterval", value)
    with pytest.raises(ProtocolError, match="Tunables"):
        Tunables(monitor_interval=value).pack()
