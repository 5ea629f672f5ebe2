# SPDX-License-Identifier: GPL-3.0-or-later
"""LVS: one address for the whole cluster; a director spreads its connections over the nodes of a group.

Every node has the address on its loopback, and only the director answers for it. The kernel's tables are
changed where something has changed: connections by way of nodes that stay go on.

Besides events it answers `leader`, `list` and `status` for the tool's `ctdb lvs`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands, connections, groups, kernel_network, state, tool
from ctdbpy.services.event import Event
from ctdbpy.services.kernel_network import ip, try_ip

#: A client stays at its node for as long as the kernel can count.
PERSISTENCE_S: Final = "1999999"
SCHEDULER: Final = "lc"
_LIMIT_S: Final = 5.0
_NOBODY: Final = 255
_SERVICES: Final = ("-t", "-u")
_ITSELF: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Options:
    """What script.options say. address, interface: "" where a node may not be the director and needs none."""

    nodes: Path
    address: str
    interface: str


def run(event: Event) -> None:
    """Do an event, or answer the tool. Raises ServiceError."""
    if event.name in ("leader", "list", "status"):
        _answer(event)
        return
    if not event.text("CTDB_LVS_NODES"):
        return
    options = read_options(event)
    if shutil.which("ipvsadm") is None:
        raise ServiceError(
            "cannot use LVS: there is no program 'ipvsadm'; install it, or unset CTDB_LVS_NODES"
        )
    note = event.state / "lvs.json"
    match event.name:
        case "startup":
            # A loopback's addresses are neither asked for nor answered for on other interfaces.
            kernel_network.set_setting("ipv4/conf/all/arp_ignore", "3")
            kernel_network.set_setting("ipv4/conf/all/arp_announce", "2")
            _follow(options)
            state.forget(note)
        case "ipreallocated":
            try:
                _update(event, options, note)
            except ServiceError as error:
                # A takeover run is not repeated for this: `monitor` says it, and tries again.
                event.warnings.append(str(error))
                state.forget(note)
        case "monitor":
            if options.interface:
                kernel_network.require_link(options.interface)
            _update(event, options, note)
        case "shutdown":
            _clear_services(options)
            try_ip("addr", "del", f"{options.address}/32", "dev", "lo")
            state.forget(note)


def read_options(event: Event) -> Options:
    """The options, each as it must be. Raises ServiceError."""
    nodes = Path(event.text("CTDB_LVS_NODES"))
    members = groups.read_members(nodes, "CTDB_LVS_NODES")
    address = event.text("CTDB_LVS_PUBLIC_IP")
    try:
        IPv4Address(address)
    except ValueError:
        raise event.misuse("CTDB_LVS_PUBLIC_IP", "it must be an IPv4 address") from None
    interface = event.text("CTDB_LVS_PUBLIC_IFACE")
    if not interface and not groups.is_follower_only(event, members):
        raise event.misuse(
            "CTDB_LVS_PUBLIC_IFACE", f"it must be set on a node that is not follower-only in '{nodes}'"
        )
    return Options(nodes, address, interface)


def _update(event: Event, options: Options, note: Path) -> None:
    """Be the director with these nodes behind, or one of those. Raises ServiceError."""
    members = groups.read_members(options.nodes, "CTDB_LVS_NODES")
    nodes = tool.node_statuses(event)
    leaders = groups.usable((member for member in members if member.may_lead), nodes)
    is_director = bool(leaders) and leaders[0].is_here
    servers = (
        [node.address for node in groups.usable(members, nodes) if not node.is_here] if is_director else []
    )
    before = state.read(note)
    now = {"director": is_director, "servers": servers}
    if before == now:
        if is_director:
            ip("addr", "replace", f"{options.address}/32", "dev", "lo", *groups.lifetime(event))
        return
    # Whatever becomes of it, it is no longer as it was.
    state.forget(note)
    was_director = isinstance(before, dict) and before.get("director") is True
    if is_director and was_director:
        _change_servers(options, set(before["servers"]), set(servers))
    elif is_director:
        _direct(event, options, servers)
    else:
        _follow(options)
        if was_director:
            connections.kill(options.address)
    state.write(note, now)


def _direct(event: Event, options: Options, servers: list[str]) -> None:
    _clear_services(options)
    connections.kill(options.address)
    _put_address(options, *groups.lifetime(event))
    for service in _SERVICES:
        _ipvsadm("-A", service, options.address, "-p", PERSISTENCE_S, "-s", SCHEDULER)
    for server in servers:
        _add_server(options, server)
    for service in _SERVICES:
        _ipvsadm("-a", service, options.address, "-r", _ITSELF)
    tool.run(event, "gratarp", options.address, options.interface)


def _change_servers(options: Options, before: set[str], now: set[str]) -> None:
    for server in sorted(before - now):
        for service in _SERVICES:
            _ipvsadm("-d", service, options.address, "-r", server)
    for server in sorted(now - before):
        _add_server(options, server)


def _add_server(options: Options, server: str) -> None:
    for service in _SERVICES:
        # Packets go there as they came: it answers the client itself.
        _ipvsadm("-a", service, options.address, "-r", server, "-g")


def _follow(options: Options) -> None:
    _clear_services(options)
    # With this scope the kernel answers no neighbour that asks who has it.
    _put_address(options, "scope", "host")


def _put_address(options: Options, *how: str) -> None:
    try_ip("addr", "del", f"{options.address}/32", "dev", "lo")
    ip("addr", "add", f"{options.address}/32", "dev", "lo", *how)


def _clear_services(options: Options) -> None:
    for service in _SERVICES:
        commands.run(["ipvsadm", "-D", service, options.address], timeout_s=_LIMIT_S, check=False)


def _ipvsadm(*arguments: str) -> None:
    commands.run(["ipvsadm", *arguments], timeout_s=_LIMIT_S)


def _answer(event: Event) -> None:
    nodes = Path(event.text("CTDB_LVS_NODES", str(event.base / "lvs_nodes")))
    members = groups.read_members(nodes, "CTDB_LVS_NODES")
    match event.name:
        case "status":
            groups.show_status(event, members)
        case "list":
            for node in groups.usable(members, tool.node_statuses(event)):
                event.answers.append(f"{node.pnn} {node.address}")
        case _:
            able = groups.usable((member for member in members if member.may_lead), tool.node_statuses(event))
            if not able:
                raise SystemExit(_NOBODY)
            event.answers.append(str(able[0].pnn))
