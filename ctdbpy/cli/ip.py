# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl ip`: public addresses, the interfaces they are on, and clients' connections to them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import click

from ctdbpy.cli.commands import Answer, about_node, answers, asks, group, target, waits
from ctdbpy.cli.session import PATIENCE_S, Session
from ctdbpy.client import addresses
from ctdbpy.client.connection import Refused
from ctdbpy.client.nodes import active
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag, flag_names
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import AddrInfo, IfaceList, PublicIpInfo

ip = group("Public addresses, their interfaces and connections.", "ctdbpy.cli.ip_connections")


@ip.command("list")
@about_node
@answers
def list_(session: Session, node: int | None) -> Answer:
    """Show all public addresses and where they are; with --node, what that node believes."""
    with session.cluster() as cluster:
        connection = cluster.connection
        if node is not None:
            number = target(connection, node)
            ips = addresses.addresses_of(connection, number)
            return {"addresses": [_row(each.address.host, each.pnn) for each in ips]}
        entries = cluster.nodes()
        nodes = active(entries)
        ips = addresses.all_addresses(connection, nodes, PATIENCE_S)
        believed = {each.address: each.pnn for each in addresses.addresses_of(connection, connection.pnn)}
    flags = {each.pnn: each.flags for each in entries}
    rows = []
    for each in ips:
        # A node that has not answered in time has the addresses that this node believes it has.
        pnn = each.pnn if each.pnn != UNKNOWN_PNN else believed.get(each.address, UNKNOWN_PNN)
        state = flag_names(NodeFlag(flags[pnn])) if pnn in flags else None
        row = _row(each.address.host, pnn)
        # What the node itself has said, and not only what others believe.
        rows.append({**row, "node_state": state, "confirmed": each.pnn != UNKNOWN_PNN})
    return {"addresses": rows}


def _row(host: str, pnn: int) -> dict[str, Any]:
    return {"address": host, "node": None if pnn == UNKNOWN_PNN else pnn}


@ip.command("info")
@click.argument("address")
@about_node
@answers
def info(session: Session, address: str, node: int | None) -> Answer:
    """Show what a node knows about an address: its node, and the interfaces it may be on."""
    with session.connect() as connection:
        number = target(connection, node)
        wanted = addresses.parse_address(address)
        try:
            found: PublicIpInfo = connection.ask(Control.GET_PUBLIC_IP_INFO, wanted, destnode=number)
        except Refused:
            raise ClientError(f"cannot find {address}: node {number} does not know it") from None
    ifaces = [
        {
            "interface": iface.name,
            "link": "up" if iface.link_state else "down",
            "addresses_there": iface.references,
            "has_it": number_ == found.active_idx,
        }
        for number_, iface in enumerate(found.ifaces)
    ]
    return {"asked": number, **_row(found.ip.address.host, found.ip.pnn), "interfaces": ifaces}


@ip.command("interfaces")
@about_node
@answers
def interfaces(session: Session, node: int | None) -> Answer:
    """Show the interfaces for public addresses."""
    with session.connect() as connection:
        number = target(connection, node)
        found: IfaceList = connection.ask(Control.GET_IFACES, destnode=number)
    rows = [
        {"interface": each.name, "link": "up" if each.link_state else "down", "addresses": each.references}
        for each in found.ifaces
    ]
    return {"node": number, "interfaces": rows}


@ip.command("link")
@click.argument("interface")
@click.argument("state", type=click.Choice(("up", "down")))
@about_node
@click.pass_obj
def link(session: Session, interface: str, state: str, node: int | None) -> None:
    """Say that an interface has a link or none, until an event script says otherwise."""
    with session.connect() as connection:
        number = target(connection, node)
        found: IfaceList = connection.ask(Control.GET_IFACES, destnode=number)
        for each in found.ifaces:
            if each.name == interface:
                wanted = replace(each, link_state=int(state == "up"), references=0)
                connection.ask(Control.SET_IFACE_LINK_STATE, wanted, destnode=number)
                break
        else:
            known = ", ".join(each.name for each in found.ifaces) or "none"
            raise ClientError(f"cannot find interface '{interface}' on node {number}: there are {known}")
    session.done(f"interface {interface} of node {number} counts as {state}")


@ip.command("move")
@click.argument("address")
@click.argument("pnn", type=click.IntRange(0), metavar="PNN")
@click.pass_obj
def move(session: Session, address: str, pnn: int) -> None:
    """Move an address to a node; a later distribution may move it again."""
    with session.cluster() as cluster:
        number = target(cluster.connection, pnn)
        wanted = addresses.parse_address(address)
        if all(each.address != wanted for each in addresses.addresses_of(cluster.connection, number)):
            raise ClientError(
                f"cannot move {wanted} to node {number}: it is not among the public addresses of that node"
            )
        try:
            addresses.keep_trying(
                cluster.connection,
                lambda: addresses.move(cluster, wanted, number),
                lambda error: session.progress(f"it can be moved: {error}"),
            )
        except ClientError:
            # It may be nowhere now.
            with suppress(ClientError):
                cluster.take_over()
            raise
    session.done(f"{wanted} is on node {number}", address=wanted.host, node=number)


@ip.command("add")
@click.argument("network", metavar="ADDRESS/BITS")
@click.argument("interface")
@about_node
@waits
@click.pass_obj
def add(session: Session, network: str, interface: str, node: int | None) -> None:
    """Add an address to a node until its daemon ends, and distribute addresses."""
    with session.cluster() as cluster:
        number = target(cluster.connection, node)
        address, bits = addresses.parse_network(network)
        is_new = addresses.add(cluster.connection, number, address, bits, interface)
        if is_new and session.wait is not False:
            cluster.take_over()
    session.done(f"{address} is added to node {number}" if is_new else f"node {number} has {address} already")


@ip.command("delete")
@click.argument("address")
@about_node
@asks
@waits
@click.pass_obj
def delete(session: Session, address: str, node: int | None) -> None:
    """Delete an address from a node until its daemon ends, and distribute addresses."""
    wanted = addresses.parse_address(address)
    session.confirm(f"{wanted} can no longer be on {'this node' if node is None else f'node {node}'}")
    with session.cluster() as cluster:
        number = target(cluster.connection, node)
        if not addresses.delete(cluster.connection, number, wanted):
            raise ClientError(f"cannot delete {wanted}: node {number} does not know it")
        if session.wait is not False:
            cluster.take_over()
    session.done(f"{wanted} is deleted from node {number}")


@ip.command("reload")
@click.argument("nodes", nargs=-1, type=click.IntRange(0), metavar="[PNN]...")
@waits
@click.pass_obj
def reload(session: Session, nodes: tuple[int, ...]) -> None:
    """Have nodes, all by default, read their public addresses again, and distribute them."""
    with session.cluster() as cluster:
        takes_part = active(cluster.nodes())
        for pnn in nodes:
            if target(cluster.connection, pnn) not in takes_part:
                raise ClientError(f"cannot reload the addresses of node {pnn}: it takes no part now")
        addresses.reload(cluster, nodes or takes_part)
    session.done("the public addresses are loaded again and distributed")


@ip.command("distribute")
@click.pass_obj
def distribute(session: Session) -> None:
    """Distribute the public addresses anew, and wait for the end of it."""
    with session.cluster() as cluster:
        cluster.take_over()
    session.done("the public addresses are distributed")


@ip.command("announce")
@click.argument("address")
@click.argument("interface")
@about_node
@click.pass_obj
def announce(session: Session, address: str, interface: str, node: int | None) -> None:
    """Tell the network that an address is at this interface (gratuitous ARP)."""
    with session.connect() as connection:
        number = target(connection, node)
        wanted = AddrInfo(addresses.parse_address(address), 0, interface)
        connection.ask(Control.SEND_GRATUITOUS_ARP, wanted, destnode=number)
    session.done(f"node {number} announces {wanted.address} on {interface}")


@ip.command("gateway")
@click.argument("what", type=click.Choice(("leader", "list", "status")))
@click.option("--lvs", is_flag=True, help="Of LVS, not of the NAT gateway.")
def gateway(what: str, lvs: bool) -> int:
    """Show who is the NAT gateway, or with --lvs the LVS director, of this node's group."""
    from ctdbpy.cli.service_programs import run_program

    return run_program("ctdb_lvs" if lvs else "ctdb_natgw", what)
