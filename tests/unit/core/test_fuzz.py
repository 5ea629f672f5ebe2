# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever clients and nodes send: no exception, one reply to each control that wants one, sound facts."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from ctdbpy.core.effects import ReplyToClient, ReplyToNode
from ctdbpy.core.inputs import (
    JobAnswered,
    KeepaliveArrived,
    LinkDown,
    LinkUp,
    MessageArrived,
    NodeControlArrived,
    RecordsComplained,
    ReplyArrived,
    SessionLost,
    TraverseEnded,
)
from ctdbpy.wire.constants import BROADCAST_CONNECTED, CURRENT_NODE, RunState
from ctdbpy.wire.controls import CONTROLS, Control
from ctdbpy.wire.packets import ReplyControl, ReqControl
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader, db_id_of
from tests.unit.core.fakes import Harness, several_nodes

NAMES = ("v.tdb", "p.tdb")
DB_IDS = tuple(db_id_of(name) for name in NAMES)

#: Answered only once recovery is over, or by a worker's death: these may stay open.
SLOW = {Control.DB_ATTACH, Control.DB_ATTACH_PERSISTENT, Control.DB_ATTACH_REPLICATED, Control.TRANS3_COMMIT}

words = st.sampled_from((0, 1, 2, 5, 7, 1000, 1001, 4711, 0xFFFFFFFF, *DB_IDS)) | st.integers(0, 0xFFFFFFFF)
structured = st.lists(words, max_size=12).map(lambda numbers: struct.pack(f"={len(numbers)}I", *numbers))
buffers = st.builds(
    lambda db_id, keys, rsn: RecBuffer(
        db_id, tuple(RecData.of(key, RecordHeader(rsn, rsn % 3), b"v" * (rsn % 2)) for key in keys)
    ).pack(),
    st.sampled_from((*DB_IDS, 1)),
    st.lists(st.binary(max_size=4), max_size=4),
    st.integers(0, 5),
)
payloads = st.one_of(
    st.binary(max_size=80),
    structured,
    buffers,
    st.sampled_from([name.encode() + b"\0" for name in NAMES]),
)


@st.composite
def fitting(draw: st.DrawFn) -> tuple[int, bytes]:
    """A control and data, mostly of the size it wants."""
    opcode = draw(st.sampled_from(sorted(CONTROLS)) | st.integers(0, 200))
    data = draw(payloads)
    spec = CONTROLS.get(Control(opcode)) if opcode in set(CONTROLS) else None
    if spec is not None and spec.request.size is not None and draw(st.integers(0, 9)):
        data = (data + bytes(spec.request.size))[: spec.request.size]
    return int(opcode), data


def prepared(config: object = None) -> Harness:
    harness = Harness(config)  # type: ignore[arg-type]
    harness.attach(NAMES[0])
    harness.attach(NAMES[1], Control.DB_ATTACH_PERSISTENT)
    return harness


@settings(max_examples=150)
@given(st.lists(st.tuples(fitting(), st.integers(0, 1), st.sampled_from((CURRENT_NODE, 0, 1))), max_size=12))
def test_any_controls_of_a_client_are_answered_once(steps: list[tuple[tuple[int, bytes], int, int]]) -> None:
    harness = prepared()
    for (opcode, data), flags, dest in steps:
        reqid, _ = harness.send(7, opcode, data, flags=flags, dest=dest)
        harness.advance(7)
        if harness.node.state.runstate is RunState.SHUTDOWN:
            return
        replies = harness.replies(harness.effects, reqid)
        late = opcode in SLOW and harness.node.state.is_recovering
        if flags & 1:
            assert not replies
        elif not late:
            assert len(replies) == 1
            assert replies[0].status >= -1 or replies[0].status == -22
            assert replies[0].status == 0 or not replies[0].data


@settings(max_examples=150)
@given(st.lists(fitting(), max_size=12))
def test_any_controls_of_a_node_are_answered_once(steps: list[tuple[int, bytes]]) -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.running_with_all()
    harness.attach(NAMES[0])
    harness.attach(NAMES[1], Control.DB_ATTACH_PERSISTENT)
    for number, (opcode, data) in enumerate(steps):
        control = ReqControl(
            generation=0,
            destnode=0,
            srcnode=1,
            reqid=number,
            opcode=opcode,
            srvid=0,
            client_id=3,
            flags=0,
            data=data,
        )
        effects = harness.give(NodeControlArrived(1, control)) + harness.advance(1)
        if harness.node.state.runstate is RunState.SHUTDOWN:
            return
        replies = [each for each in effects if isinstance(each, ReplyToNode) and each.reqid == number]
        assert len(replies) == 1 or opcode in {*SLOW, Control.DB_VACUUM}


odd_inputs = st.one_of(
    st.builds(LinkUp, st.integers(0, 4)),
    st.builds(LinkDown, st.integers(0, 4), st.just("reset")),
    st.builds(KeepaliveArrived, st.integers(0, 4), st.just((4 << 16) | 17), st.integers(0, 9)),
    st.builds(
        JobAnswered, st.integers(0, 9), st.booleans(), st.integers(0, 5), st.binary(max_size=9), st.just("")
    ),
    st.builds(SessionLost, st.integers(0, 5), st.sampled_from(DB_IDS), st.just("killed")),
    st.builds(TraverseEnded, st.integers(0, 4), st.integers(0, 3)),
    st.builds(
        RecordsComplained,
        st.sampled_from(("dmaster", "generation", "hot")),
        st.sampled_from(DB_IDS),
        st.integers(0, 3),
        st.just(""),
    ),
    st.builds(
        MessageArrived,
        st.integers(0, 2),
        st.sampled_from(
            [number << 48 for number in (0xF100, 0xF101, 0xF800, 0xF900, 0xFA00, 0xFB00, 0xFB04)]
        ),
        st.binary(max_size=40) | structured,
    ),
    st.builds(
        lambda reqid, status, data: ReplyArrived(
            1,
            ReplyControl(
                generation=0, destnode=0, srcnode=1, reqid=reqid, status=status, data=data, error=""
            ),
        ),
        st.integers(0x7FFFFFFF - 199, 0x7FFFFFFF - 180),
        st.integers(-1, 1),
        st.binary(max_size=60),
    ),
)


@settings(max_examples=200)
@given(st.lists(odd_inputs | fitting(), max_size=25))
def test_anything_that_can_happen_leaves_the_facts_in_agreement(steps: list[object]) -> None:
    harness = Harness(several_nodes(3))
    client_id = harness.connect()
    for step in steps:
        if isinstance(step, tuple):
            opcode, data = step
            harness.send(client_id, opcode, data, flags=1, dest=BROADCAST_CONNECTED)
        else:
            harness.give(step)  # type: ignore[arg-type]
        harness.advance(0.3)
        assert not [each for each in harness.effects if isinstance(each, ReplyToClient)]
