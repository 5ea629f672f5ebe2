# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses as a client sees and moves them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from ctdbpy.client.connection import Connection
from ctdbpy.client.nodes import Cluster, active, connected
from ctdbpy.errors import ClientError, ProtocolError
from ctdbpy.wire.constants import BROADCAST_CONNECTED, UNKNOWN_PNN
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.srvids import (
    SRVID_DISABLE_IP_CHECK,
    SRVID_DISABLE_TAKEOVER_RUNS,
    SRVID_IPREALLOCATED,
    SRVID_REBALANCE_NODE,
)
from ctdbpy.wire.structures import AddrInfo, PublicIp, PublicIpList, SockAddr

#: As often as upstream's tool tries, and the time it waits after each.
TRIES: Final = 5
TRY_AGAIN_S: Final = 3.0


def parse_address(text: str) -> SockAddr:
    """An address without a port. Raises ClientError."""
    try:
        return SockAddr.of(str(ipaddress.ip_address(text)))
    except (ValueError, ProtocolError):
        raise ClientError(f"cannot use '{text}': it is not an address") from None


def parse_endpoint(text: str) -> SockAddr:
    """An address and a port, as in 192.0.2.1:445 or [2001:db8::1]:445. Raises ClientError."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not port.isdecimal() or int(port) > 65535:
        raise ClientError(f"cannot use '{text}': it is not an address and a port")
    return replace(parse_address(host), port=int(port))


def parse_network(text: str) -> tuple[SockAddr, int]:
    """An address and the bits of its network, as in 192.0.2.1/24. Raises ClientError."""
    host, slash, bits = text.partition("/")
    address = parse_address(host)
    if not slash or not bits.isdecimal() or int(bits) > (128 if address.is_ipv6 else 32):
        raise ClientError(
            f"cannot use '{text}': it is not an address with its network's bits, as in 192.0.2.1/24"
        )
    return address, int(bits)


def addresses_of(connection: Connection, destnode: int) -> list[PublicIp]:
    """The public addresses a node knows, and where it believes each to be, in order."""
    found: PublicIpList = connection.ask(Control.GET_PUBLIC_IPS, destnode=destnode)
    return in_order(found.ips)


def all_addresses(connection: Connection, nodes: Collection[int], timeout_s: float) -> list[PublicIp]:
    """The addresses of several nodes, in order. What a node says of itself counts; others may be behind.

    Nodes that do not answer in time are left out.
    """
    replies = connection.controls(Control.GET_PUBLIC_IPS, nodes=nodes, timeout_s=timeout_s)
    merged: dict[SockAddr, PublicIp] = {}
    for pnn, reply in replies.items():
        if reply.status != 0:
            continue
        found: PublicIpList = decode_reply(Control.GET_PUBLIC_IPS, reply.data)
        for each in found.ips:
            if each.pnn == pnn:
                merged[each.address] = each
            else:
                merged.setdefault(each.address, PublicIp(UNKNOWN_PNN, each.address))
    return in_order(merged.values())


def in_order(ips: Collection[PublicIp]) -> list[PublicIp]:
    """IPv4 before IPv6, each by number."""
    return sorted(
        ips, key=lambda each: (each.address.is_ipv6, ipaddress.ip_address(each.address.host).packed)
    )


def move(cluster: Cluster, address: SockAddr, pnn: int) -> None:
    """Move an address to a node. Raises ClientError, also when the node cannot host it."""
    connection = cluster.connection
    until = (2 * int(connection.timeout_s)).to_bytes(4, "little")
    connection.message(BROADCAST_CONNECTED, SRVID_DISABLE_IP_CHECK, until)
    hosts = [each.address for each in addresses_of(connection, pnn)]
    if address not in hosts:
        raise ClientError(
            f"cannot move {address} to node {pnn}: the node does not have it among its addresses"
        )
    wanted = PublicIp(pnn, address)
    cluster.everywhere(Control.RELEASE_IP, wanted, active(cluster.nodes(), without=pnn))
    connection.ask(Control.TAKEOVER_IP, wanted, destnode=pnn)


def add(connection: Connection, pnn: int, address: SockAddr, bits: int, iface: str) -> bool:
    """Add an address to a node; False if the node knows it already. Raises ClientError."""
    if any(each.address == address for each in addresses_of(connection, pnn)):
        return False
    wanted = AddrInfo(address, bits, iface)
    # No second try: what it is refused for, such as an interface that is not there, does not pass.
    connection.ask(Control.ADD_PUBLIC_IP, wanted, destnode=pnn)
    connection.message(BROADCAST_CONNECTED, SRVID_REBALANCE_NODE, pnn.to_bytes(4, "little"))
    return True


def keep_trying(
    connection: Connection, deed: Callable[[], object], failed: Callable[[ClientError], None] = lambda _: None
) -> None:
    """Do what a takeover run under way may stand against; `failed` hears why a try was none.

    Raises ClientError, that of the last try.
    """
    for left in reversed(range(TRIES)):
        try:
            deed()
            return
        except ClientError as error:
            failed(error)
            if not left:
                raise
        connection.listen(SRVID_IPREALLOCATED)
        connection.message_to(SRVID_IPREALLOCATED, timeout_s=TRY_AGAIN_S)


def delete(connection: Connection, pnn: int, address: SockAddr) -> bool:
    """Take an address from a node's list; False if the node does not know it."""
    if all(each.address != address for each in addresses_of(connection, pnn)):
        return False
    connection.ask(Control.DEL_PUBLIC_IP, AddrInfo(address), destnode=pnn)
    return True


def reload(cluster: Cluster, pnns: Collection[int]) -> None:
    """Have nodes read their public addresses again, and distribute them. Raises ClientError."""
    reachable = connected(cluster.nodes())
    cluster.hold_up(SRVID_DISABLE_TAKEOVER_RUNS, reachable, 2 * int(cluster.connection.timeout_s))
    try:
        cluster.everywhere(Control.RELOAD_PUBLIC_IPS, None, pnns)
    finally:
        cluster.hold_up(SRVID_DISABLE_TAKEOVER_RUNS, reachable, 0)
    cluster.take_over()
