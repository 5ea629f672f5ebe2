# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers that are put together from others, and the ranges of srvids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.wire import srvids
from ctdbpy.wire.constants import Capability, Event, NodeFlag, RecordFlag
from tests.unit.wire.strategies import u32


def test_groups_of_flags_are_upstreams() -> None:
    assert int(NodeFlag.DISABLED) == 0x06
    assert int(NodeFlag.INACTIVE) == 0x39
    assert int(Capability.DEFAULT) == 0x30003
    assert int(RecordFlag.RO_FLAGS) == 0x0F000000


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (Event.INIT, "init"),
        (Event.START_RECOVERY, "startrecovery"),
        (Event.TAKE_IP, "takeip"),
        (Event.RELEASE_IP, "releaseip"),
        (Event.UPDATE_IP, "updateip"),
        (Event.IPREALLOCATED, "ipreallocated"),
        (Event.START_IPREALLOCATE, "startipreallocate"),
    ],
)
def test_an_event_is_known_to_scripts_by_one_word(event: Event, name: str) -> None:
    assert event.script_name == name


def test_events_are_numbered_without_a_gap() -> None:
    assert [int(event) for event in Event] == list(range(15))


@given(u32)
def test_a_process_id_is_a_srvid(pid: int) -> None:
    assert srvids.is_pid(pid)
    assert not srvids.is_pid(srvids.srvid_of_client(pid))


@given(u32, u32)
def test_srvids_made_here_lie_in_their_range(pnn: int, number: int) -> None:
    assert srvids.in_range(srvids.srvid_of_client(number), srvids.SRVID_CLIENT_RANGE)
    assert srvids.in_range(srvids.srvid_of_server(pnn, number), srvids.SRVID_SERVER_RANGE)
    assert srvids.srvid_of_server(pnn, number) & 0xFFFFFFFF == number
    assert srvids.srvid_of_recovery(number) >> 48 == 0xF001


@given(st.integers(0, 2**64 - 1))
def test_a_srvid_lies_in_the_range_of_its_top_byte(srvid: int) -> None:
    ranges = [value for name, value in vars(srvids).items() if name.endswith("_RANGE")]
    assert len(ranges) == 8
    assert [value for value in ranges if srvids.in_range(srvid, value)] == [
        value for value in ranges if value >> 56 == srvid >> 56
    ]


def test_fixed_srvids_are_all_different() -> None:
    fixed = [
        value
        for name, value in vars(srvids).items()
        if name.startswith("SRVID_") and not name.endswith("_RANGE") and isinstance(value, int)
    ]
    assert len(set(fixed)) == len(fixed)
