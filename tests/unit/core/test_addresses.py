# SPDX-License-Identifier: GPL-3.0-or-later
"""One node's public addresses: what it answers, what it does to its host, and in which order."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from ctdbpy.core.effects import (
    AnnounceAddress,
    Effect,
    PutAddress,
    RemoveAddress,
    ReplyToClient,
    RunEvent,
    SendMessage,
    StopAnnouncing,
)
from ctdbpy.core.failover.addresses import IN_RECOVERY
from ctdbpy.core.inputs import (
    EventEnded,
    HostAddress,
    HostSeen,
    LeaseLost,
    LinkState,
    Paused,
    PublicAddress,
    ShutdownAsked,
)
from ctdbpy.core.inputs import PublicAddressesRead as Read
from ctdbpy.core.state import NOBODY
from ctdbpy.wire.constants import ControlFlag, NodeFlag, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_RELEASE_IP, SRVID_TAKE_IP, SRVID_TAKEOVER_RUN
from ctdbpy.wire.structures import (
    AddrInfo,
    Iface,
    IfaceList,
    PublicIp,
    PublicIpInfo,
    PublicIpList,
    SockAddr,
)
from ctdbpy.wire.tunables import Tunables
from tests.unit.core.fakes import Harness, of_kind

ONE = "192.0.2.1"
TWO = "192.0.2.2"
SIX = "2001:db8::1"
LINES = (
    PublicAddress(ONE, 24, ("eth0",)),
    PublicAddress(TWO, 24, ("eth0", "eth1")),
    PublicAddress(SIX, 64, ("eth1",)),
)
ORDER = [PutAddress, RemoveAddress, AnnounceAddress, StopAnnouncing, SendMessage, RunEvent, ReplyToClient]


def alone(**changes: Any) -> Harness:
    """A node that is healthy, and has not begun to serve an address, for runs are disabled."""
    harness = Harness(start=False, **({"public_addresses": LINES} | changes))
    harness.node.rooms.takeovers.disable(1000)
    harness.begin()
    harness.give(harness.host.seen())
    harness.advance(3)
    assert harness.node.state.runstate is RunState.RUNNING
    harness.effects.clear()
    harness.events.clear()
    return harness


def take(harness: Harness, address: str = ONE) -> ReplyToClient:
    return harness.ask(Control.TAKEOVER_IP, PublicIp(harness.config.pnn, SockAddr(address)).pack())


def release(harness: Harness, address: str = ONE, pnn: int = 1) -> ReplyToClient:
    return harness.ask(Control.RELEASE_IP, PublicIp(pnn, SockAddr(address)).pack())


def ips(harness: Harness, flags: int = 0) -> dict[str, int]:
    reply = harness.ask(Control.GET_PUBLIC_IPS, flags=flags)
    return {ip.address.host: ip.pnn for ip in PublicIpList.unpack(reply.data).ips}


def info(harness: Harness, address: str) -> PublicIpInfo:
    return PublicIpInfo.unpack(harness.ask(Control.GET_PUBLIC_IP_INFO, SockAddr(address).pack()).data)


def available(harness: Harness) -> set[str]:
    return set(ips(harness, int(ControlFlag.PUBLIC_IP_ONLY_AVAILABLE)))


def order(effects: list[Effect]) -> list[str]:
    """What happened to addresses, to programs and to scripts, in order."""
    names = []
    for effect in effects:
        match effect:
            case SendMessage(srvid=srvid) if srvid in (SRVID_TAKE_IP, SRVID_RELEASE_IP):
                names.append("TAKE_IP" if srvid == SRVID_TAKE_IP else "RELEASE_IP")
            case RunEvent(name=name):
                names.append(name)
            case PutAddress() | RemoveAddress() | AnnounceAddress() | StopAnnouncing() | ReplyToClient():
                names.append(type(effect).__name__)
            case _:
                pass
    return names


def test_the_newest_address_and_interface_is_told_first() -> None:
    harness = alone()
    reply = harness.ask(Control.GET_PUBLIC_IPS)
    assert [ip.address.host for ip in PublicIpList.unpack(reply.data).ips] == [SIX, TWO, ONE]
    assert set(ips(harness).values()) == {NOBODY}
    ifaces = IfaceList.unpack(harness.ask(Control.GET_IFACES).data).ifaces
    assert ifaces == (Iface("eth1", 1, 0), Iface("eth0", 1, 0))
    assert info(harness, TWO) == PublicIpInfo(
        PublicIp(NOBODY, SockAddr(TWO)), NOBODY, (Iface("eth0", 1), Iface("eth1", 1))
    )


def test_an_address_is_put_announced_and_told_before_scripts_hear_of_it() -> None:
    harness = alone()
    harness.effects.clear()
    assert take(harness).status == 0
    assert order(harness.effects) == ["PutAddress", "AnnounceAddress", "TAKE_IP", "ReplyToClient", "takeip"]
    assert harness.host.carried == {ONE: (24, "eth0")}
    assert harness.events[0].args == ("eth0", ONE, "24")
    assert ips(harness)[ONE] == 0
    assert info(harness, ONE).active_idx == 0
    assert info(harness, ONE).ifaces == (Iface("eth0", 1, 1),)


def test_an_address_is_gone_before_scripts_hear_of_it() -> None:
    harness = alone()
    take(harness)
    harness.effects.clear()
    assert release(harness).status == 0
    steps = ["StopAnnouncing", "RELEASE_IP", "RemoveAddress", "releaseip", "ReplyToClient"]
    assert order(harness.effects) == steps
    assert harness.host.carried == {}
    assert ips(harness)[ONE] == 1
    assert harness.events[-1].args == ("eth0", ONE, "24")
    (message,) = [each for each in of_kind(harness.effects, SendMessage) if each.srvid == SRVID_RELEASE_IP]
    assert (message.destnode, message.data) == (0, ONE.encode() + b"\0")


def test_with_scripts_first_nothing_moves_before_they_have_run() -> None:
    harness = alone(scripts_first=True)
    harness.effects.clear()
    take(harness)
    assert order(harness.effects) == ["takeip", "PutAddress", "AnnounceAddress", "TAKE_IP", "ReplyToClient"]
    harness.effects.clear()
    release(harness)
    steps = ["StopAnnouncing", "RELEASE_IP", "releaseip", "RemoveAddress", "ReplyToClient"]
    assert order(harness.effects) == steps
    harness.verdicts["takeip"] = (errno.ENOEXEC, "06.nfs failed")
    assert take(harness).status == -1
    assert harness.host.carried == {}


def test_a_script_that_fails_fails_the_run_and_is_asked_again() -> None:
    harness = alone()
    harness.verdicts["takeip"] = (errno.ENOEXEC, "60.nfs failed")
    harness.hold_events = True
    reqid, effects = harness.send(harness.connect(), Control.TAKEOVER_IP, PublicIp(0, SockAddr(ONE)).pack())
    assert harness.replies(effects, reqid)[0].status == 0
    reqid, effects = harness.send(7, Control.IPREALLOCATED)
    assert harness.replies(effects, reqid) == []
    harness.hold_events = False
    effects = harness.give(EventEnded(harness.events[0].event_id, errno.ENOEXEC, "60.nfs failed"))
    (reply,) = harness.replies(effects, reqid)
    assert (reply.status, "60.nfs failed" in reply.error) == (-1, True)
    assert harness.host.carried == {ONE: (24, "eth0")}
    harness.verdicts.clear()
    harness.events.clear()
    assert take(harness).status == 0
    assert take(harness).status == 0
    assert [event.name for event in harness.events] == ["takeip"]
    assert harness.ask(Control.IPREALLOCATED).status == 0


def test_an_address_goes_to_the_interface_with_fewest() -> None:
    harness = alone()
    take(harness, ONE)
    take(harness, TWO)
    assert harness.host.carried[TWO] == (24, "eth1")
    take(harness, SIX)
    assert (
        harness.ask(Control.GET_IFACES).data == IfaceList((Iface("eth1", 1, 2), Iface("eth0", 1, 1))).pack()
    )


@pytest.mark.parametrize("by_script", [True, False])
def test_an_address_leaves_an_interface_that_goes_down(by_script: bool) -> None:
    harness = alone()
    take(harness, TWO)
    harness.effects.clear()
    if by_script:
        assert harness.ask(Control.SET_IFACE_LINK_STATE, Iface("eth0", 0).pack()).status == 0
    else:
        harness.host.links["eth0"] = False
        harness.give(harness.host.seen())
    assert harness.host.carried[TWO] == (24, "eth1")
    assert harness.events[-1].args == ("eth0", "eth1", TWO, "24")
    assert info(harness, TWO).active_idx == 1
    assert available(harness) == {TWO, SIX}
    assert asked_for_runs(harness) == 1
    assert take(harness, ONE).status == -1


def asked_for_runs(harness: Harness) -> int:
    return sum(each.srvid == SRVID_TAKEOVER_RUN for each in of_kind(harness.effects, SendMessage))


def test_an_interface_is_up_or_down_and_nothing_else() -> None:
    harness = alone()
    for wrong in (Iface("eth9", 1), Iface("eth0", 2), Iface("eth0", 1, 3)):
        assert harness.ask(Control.SET_IFACE_LINK_STATE, wrong.pack()).status == -1


def test_addresses_that_are_not_where_they_should_be_are_mended() -> None:
    harness = alone()
    take(harness)
    harness.host.carried = {TWO: (24, "eth1")}
    harness.give(harness.host.seen())
    assert harness.host.carried == {ONE: (24, "eth0")}
    harness.host.carried = {ONE: (24, "eth1"), "203.0.113.9": (24, "eth0")}
    harness.give(harness.host.seen())
    assert harness.host.carried == {ONE: (24, "eth1"), "203.0.113.9": (24, "eth0")}
    harness.advance(1)
    assert harness.host.carried == {ONE: (24, "eth0"), "203.0.113.9": (24, "eth0")}


def test_what_an_earlier_life_left_on_the_host_goes_at_the_start() -> None:
    harness = Harness(start=False, public_addresses=LINES)
    harness.node.rooms.takeovers.disable(1000)
    harness.begin()
    links = (LinkState("eth0", True), LinkState("eth1", True))
    effects = harness.give(
        HostSeen(links, (HostAddress(ONE, 24, "eth0"), HostAddress("10.0.0.1", 8, "eth0")))
    )
    assert [each.address for each in of_kind(effects, RemoveAddress)] == [ONE]


def test_what_the_host_refuses_is_not_served() -> None:
    harness = alone()
    harness.host.refusing.add(ONE)
    reply = take(harness)
    assert reply.status == -1
    assert "the kernel refuses" in reply.error
    assert ips(harness)[ONE] == NOBODY
    harness.host.refusing.clear()
    assert take(harness).status == 0


def test_a_host_that_does_nothing_is_not_waited_for_for_ever() -> None:
    harness = alone(tunables=Tunables(takeover_timeout=2))
    harness.host.is_held = True
    reqid, effects = harness.send(harness.connect(), Control.TAKEOVER_IP, PublicIp(0, SockAddr(ONE)).pack())
    assert harness.replies(effects, reqid) == []
    (reply,) = harness.replies(harness.advance(2.1), reqid)
    assert reply.status == -1
    assert ips(harness)[ONE] == NOBODY
    harness.release_deeds()
    assert harness.host.carried == {}


def test_a_release_overtakes_a_take() -> None:
    harness = alone()
    harness.host.is_held = True
    client = harness.connect()
    taking, _ = harness.send(client, Control.TAKEOVER_IP, PublicIp(0, SockAddr(ONE)).pack())
    releasing, _ = harness.send(client, Control.RELEASE_IP, PublicIp(1, SockAddr(ONE)).pack())
    effects = harness.release_deeds()
    assert harness.replies(effects, taking)[0].status == -1
    assert harness.replies(effects, releasing)[0].status == 0
    assert harness.host.carried == {}
    assert ips(harness)[ONE] == 1


def test_two_who_order_the_same_release_are_both_told() -> None:
    harness = alone()
    take(harness)
    harness.host.is_held = True
    body = PublicIp(1, SockAddr(ONE)).pack()
    asked = [harness.send(harness.connect(), Control.RELEASE_IP, body)[0] for _ in range(2)]
    effects = harness.release_deeds()
    assert [harness.replies(effects, reqid)[0].status for reqid in asked] == [0, 0]
    assert len(of_kind(harness.effects, RemoveAddress)) == 1


@pytest.mark.parametrize("reason", ["stopped", "banned", "no lease", "pause", "shutdown", "no recovery"])
def test_a_node_that_must_not_serve_drops_everything(reason: str) -> None:
    changes: dict[str, Any] = {"scripts_first": True, "tunables": Tunables(recovery_drop_all_ips=7)}
    harness = alone(**changes)
    for address in (ONE, TWO, SIX):
        take(harness, address)
    harness.hold_events = True
    harness.effects.clear()
    match reason:
        case "stopped":
            harness.send(7, Control.STOP_NODE)
        case "banned":
            harness.node.rooms.flags.ban(10, "a test")
            harness.advance(0)
            harness.give(harness.host.seen())
        case "no lease":
            harness.node.rooms.standing.suspend("a test")
            harness.give(LeaseLost("a test"))
        case "pause":
            harness.give(Paused(2.0))
        case "shutdown":
            harness.give(ShutdownAsked("a test"))
        case "no recovery":
            harness.pause_recoveries()
            harness.advance(6.9)
            assert len(harness.host.carried) == 3
            harness.advance(0.2)
    # Whatever scripts would like to do first.
    assert harness.host.carried == {}
    assert set(ips(harness).values()) == {NOBODY}
    steps = [each for each in order(harness.effects) if each != "ReplyToClient"]
    assert steps[:3] == ["RemoveAddress", "StopAnnouncing", "RELEASE_IP"]


def test_a_node_in_recovery_takes_nothing() -> None:
    harness = alone()
    harness.pause_recoveries()
    assert take(harness).error == IN_RECOVERY
    assert release(harness).status == 0


def test_an_address_is_added_and_deleted() -> None:
    harness = alone()
    new = AddrInfo(SockAddr("192.0.2.9"), 24, "eth0,eth1")
    assert harness.ask(Control.ADD_PUBLIC_IP, new.pack()).status == 0
    assert harness.ask(Control.ADD_PUBLIC_IP, new.pack()).status == -1
    unknown = AddrInfo(SockAddr("192.0.2.10"), 24, "eth7")
    assert "no interface 'eth7'" in harness.ask(Control.ADD_PUBLIC_IP, unknown.pack()).error
    assert "192.0.2.9" in available(harness)
    assert harness.ask(Control.DEL_PUBLIC_IP, new.pack()).status == 0
    assert harness.ask(Control.DEL_PUBLIC_IP, new.pack()).status == -1
    assert "192.0.2.9" not in ips(harness)


def test_an_address_deleted_while_it_is_here_is_forgotten_with_its_release() -> None:
    harness = alone()
    take(harness, SIX)
    harness.effects.clear()
    assert harness.ask(Control.DEL_PUBLIC_IP, AddrInfo(SockAddr(SIX)).pack()).status == 0
    assert ips(harness)[SIX] == 0
    assert SIX not in available(harness)
    assert asked_for_runs(harness) == 1
    release(harness, SIX, NOBODY)
    assert SIX not in ips(harness)
    assert harness.ask(Control.DEL_PUBLIC_IP, AddrInfo(SockAddr(TWO)).pack()).status == 0
    # Nobody uses it any more.
    assert [each.name for each in IfaceList.unpack(harness.ask(Control.GET_IFACES).data).ifaces] == ["eth0"]


def test_the_file_is_read_again() -> None:
    harness = alone()
    take(harness, ONE)
    new = PublicAddress("192.0.2.9", 24, ("eth1",))
    harness.addresses_file = Read(0, (PublicAddress(TWO, 25, ("eth1",)), new))
    assert harness.ask(Control.RELOAD_PUBLIC_IPS).status == 0
    assert set(ips(harness)) == {ONE, TWO, "192.0.2.9"}
    assert info(harness, TWO).ifaces == (Iface("eth1", 1),)
    release(harness, ONE, NOBODY)
    assert set(ips(harness)) == {TWO, "192.0.2.9"}
    harness.addresses_file = Read(0, (), "it is not there")
    assert harness.ask(Control.RELOAD_PUBLIC_IPS).status == 1
    assert set(ips(harness)) == {TWO, "192.0.2.9"}


def test_a_node_that_does_not_put_addresses_only_says_where_they_are() -> None:
    harness = alone(puts_addresses=False)
    harness.effects.clear()
    assert take(harness).status == 0
    assert order(harness.effects) == ["TAKE_IP", "ReplyToClient", "takeip"]
    harness.give(harness.host.seen())
    assert ips(harness)[ONE] == 0
    assert release(harness).status == 0
    assert ips(harness)[ONE] == 1
    assert harness.host.carried == {}


def test_unhealthy_nodes_have_nothing_available() -> None:
    harness = alone()
    assert available(harness) == {ONE, TWO, SIX}
    harness.node.rooms.flags.change_own(NodeFlag.UNHEALTHY, NodeFlag(0), "a test")
    assert available(harness) == set()
    assert harness.node.rooms.addresses.obstacle() == ""
