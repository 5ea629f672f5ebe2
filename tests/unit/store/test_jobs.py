# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames between the daemon and a bulk worker."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.store import jobs
from ctdbpy.store.jobs import Answer, Database, Kind, Plain, Request

DATABASE = Database("/var/lib/a.tdb.0", 7233, 0xDEADBEEF, is_volatile=True, is_frozen=True)
TASKS: list[jobs.Task] = [
    jobs.Traverse(7),
    jobs.Traverse(7, owner=3, with_empty=True, limit=99),
    jobs.Pull(),
    jobs.Pull(lmaster=2, lmasters=(0, 1, 2), limit=5),
    jobs.Push(b"buffer", 1, (4, 5)),
    jobs.Gather(1, True),
    jobs.Merge(b"buffer", 2),
    jobs.Spread(1, (4, 5), 1000),
    jobs.Update(b"", 1),
    jobs.VacuumScan(9, limit=7),
    *(Plain(kind) for kind in (Kind.FREEZE, Kind.THAW, Kind.BEGIN, Kind.COMMIT, Kind.STOP, Kind.COUNT)),
]


def test_requests_survive_any_split() -> None:
    requests = [Request(number, DATABASE, task) for number, task in enumerate(TASKS)]
    received = bytearray()
    taken = []
    for byte in b"".join(request.pack() for request in requests):
        received.append(byte)
        while request := jobs.take_request(received):
            taken.append(request)
    assert taken == requests
    assert not received


@pytest.mark.parametrize("bits", [(False, False), (True, False), (False, True)])
def test_the_kind_of_a_database_travels(bits: tuple[bool, bool]) -> None:
    request = Request(1, Database("/ä", 0, 1, *bits), Plain(Kind.CHECK))
    assert jobs.take_request(bytearray(request.pack())) == request


def test_answers_carry_counts_and_keys() -> None:
    answer = Answer(3, 0, True, jobs.pack_count(5, [b"a", b"", b"key"]))
    taken = jobs.take_answer(bytearray(answer.pack()))
    assert taken == answer
    assert taken.count == 5
    assert taken.scheduled == (b"a", b"", b"key")
    assert Answer(3, 0, True, jobs.pack_counts(7, 1 << 40)).counts == (7, 1 << 40)


@given(st.sampled_from(TASKS), st.integers(0, 80), st.binary(max_size=8))
def test_mutated_requests_parse_or_are_refused(task: jobs.Task, position: int, replacement: bytes) -> None:
    data = bytearray(Request(1, DATABASE, task).pack())
    data[position : position + len(replacement)] = replacement
    try:
        jobs.take_request(data)
    except ProtocolError as error:
        assert "cannot decode a job" in str(error)


@given(st.binary(max_size=40))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    try:
        answer = jobs.take_answer(bytearray(data))
        if answer is not None:
            _ = (answer.count, answer.scheduled, answer.counts)
    except ProtocolError as error:
        assert "cannot decode a" in str(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="more than net.core.wmem_max is root's to have")
def test_buffers_of_records_are_on_their_way_before_the_other_end_reads() -> None:
    # Three buffers of the default RecBufferSizeLimit.
    records = bytes(3_000_000)
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        jobs.widen(here)
        assert here.send(records) == len(records)
