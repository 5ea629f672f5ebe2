# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever happens to three nodes for a while, once it stops they are one healthy cluster again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ctdbpy.core.effects import JobKind
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader
from ctdbpy.wire.structures import BanState
from tests.unit.core.clusters import Cluster
from tests.unit.core.test_clusters import PERSISTENT, VOLATILE, agree, attach, running, stored

PNN = st.integers(0, 2)

troubles = st.one_of(
    st.tuples(st.just("cut"), PNN, PNN),
    st.tuples(st.just("link"), PNN, PNN),
    st.tuples(st.just("stop"), PNN, st.none()),
    st.tuples(st.just("continue"), PNN, st.none()),
    st.tuples(st.just("ban"), PNN, st.integers(1, 9)),
    st.tuples(st.just("disable"), PNN, st.none()),
    st.tuples(st.just("leader off"), PNN, st.none()),
    st.tuples(st.just("recover"), PNN, st.none()),
    st.tuples(st.just("hold"), PNN, st.none()),
    st.tuples(st.just("release"), PNN, st.none()),
    st.tuples(st.just("fail"), PNN, st.sampled_from(sorted(JobKind, key=str))),
    st.tuples(st.just("attach"), PNN, st.sampled_from(("w.tdb", "x.tdb"))),
    st.tuples(st.just("wait"), st.sampled_from((0.01, 0.3, 1.0, 4.0)), st.none()),
)


def make(cluster: Cluster, trouble: tuple[str, object, object]) -> None:
    """Do one thing to the cluster."""
    match trouble:
        case ("cut", int(a), int(b)) if a != b and (a, b) in cluster.links:
            cluster.cut(a, b)
        case ("link", int(a), int(b)) if a != b and (a, b) not in cluster.links:
            cluster.link(a, b)
        case ("stop", int(pnn), _):
            cluster.send(pnn, Control.STOP_NODE)
        case ("continue", int(pnn), _):
            cluster.send(pnn, Control.CONTINUE_NODE)
        case ("ban", int(pnn), int(seconds)):
            cluster.send(pnn, Control.SET_BAN_STATE, BanState(pnn, seconds).pack())
        case ("disable", int(pnn), _):
            cluster.send(pnn, Control.DISABLE_NODE)
        case ("leader off", int(pnn), _):
            cluster.send(pnn, Control.SET_RECMASTERROLE, U32.pack(0))
        case ("recover", int(pnn), _):
            cluster.send(pnn, Control.SET_RECMODE, U32.pack(1))
        case ("hold", int(pnn), _):
            cluster.nodes[pnn].hold_jobs = True
        case ("release", int(pnn), _):
            cluster.release(pnn)
        case ("fail", int(pnn), JobKind() as kind):
            cluster.nodes[pnn].workers.failing.add(kind)
        case ("attach", int(pnn), str(name)):
            cluster.send(pnn, Control.DB_ATTACH, name.encode() + b"\0")
        case ("wait", float(seconds), _):
            cluster.advance(seconds)
        case _:
            pass


def mend(cluster: Cluster) -> None:
    """End every trouble."""
    for pnn, harness in enumerate(cluster.nodes):
        harness.workers.failing.clear()
        cluster.release(pnn)
        cluster.send(pnn, Control.SET_RECMASTERROLE, U32.pack(1))
        for control in (Control.CONTINUE_NODE, Control.ENABLE_NODE):
            cluster.send(pnn, control)
        cluster.send(pnn, Control.SET_BAN_STATE, BanState(pnn, 0).pack())
        for other in range(pnn):
            if (pnn, other) not in cluster.links:
                cluster.link(pnn, other)


@settings(max_examples=60)
@given(st.lists(troubles, max_size=15))
def test_after_any_trouble_the_cluster_comes_to_rest(steps: list[tuple[str, object, object]]) -> None:
    cluster = running()
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    attach(cluster, 0, PERSISTENT, Control.DB_ATTACH_PERSISTENT)
    for pnn in range(3):
        stored(cluster, pnn, PERSISTENT)[b"k"] = RecordHeader(1).pack() + b"v"
    for step in steps:
        make(cluster, step)
    mend(cluster)
    # A control that a broken link swallowed is waited for as long as RecoverTimeout, twice at worst.
    cluster.advance(90)
    agree(cluster, 0, 1, 2)
    assert all(stored(cluster, pnn, PERSISTENT)[b"k"][24:] == b"v" for pnn in range(3))
    before = [harness.node.state.recoveries for harness in cluster.nodes]
    cluster.advance(30)
    assert [harness.node.state.recoveries for harness in cluster.nodes] == before
