# SPDX-License-Identifier: GPL-3.0-or-later
"""The NAT gateway: one node of a group lends the others a way out while they have no public address.

The gateway carries CTDB_NATGW_PUBLIC_IP and hides the private network behind it; the others have routes of a
high metric by way of it. What was put is remembered, even over a restart of the daemon, to be taken back.

Besides events it answers `leader`, `list` and `status` for the tool's `ctdb natgw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands, configured, groups, kernel_network, state, tool
from ctdbpy.services.event import Event
from ctdbpy.services.kernel_network import ip, try_ip

#: Routes of anybody else win.
METRIC: Final = "10"
TABLE: Final = "ctdbpy_natgw"

_LIMIT_S: Final = 5.0
_NOBODY: Final = 2
_RULES: Final = """
table ip {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {network} ip daddr != {network} oifname "{interface}" snat to {address}
        ip saddr {network} ip daddr != {network} masquerade
    }}
    chain input {{
        type filter hook input priority filter;
        ip daddr {address} tcp flags & (fin | syn | rst | ack) == syn reject
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What script.options say. routes: destinations, each with a gateway of its own or ""."""

    nodes: Path
    network: str
    address: str
    interface: str
    routes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Put:
    """What stands on this host. address: with its mask, on the gateway; routes: destination and gateway."""

    address: str = ""
    interface: str = ""
    network: str = ""
    routes: tuple[tuple[str, str], ...] = ()


def run(event: Event) -> None:
    """Do an event, or answer the tool. Raises ServiceError."""
    match event.name:
        case "leader" | "list" | "status":
            _answer(event)
        case _ if not event.text("CTDB_NATGW_NODES"):
            return
        case "setup":
            read_options(event)
            # The daemon of before may have been killed as the gateway.
            _put(event, Put())
        case "startup":
            _require_own_address(event, read_options(event))
            # Otherwise others are told that private addresses live at this interface's hardware address.
            kernel_network.set_setting("ipv4/conf/all/arp_announce", "2")
        case "ipreallocated" | "updatenatgw":
            try:
                _update(event, read_options(event))
            except ServiceError as error:
                # A takeover run is not repeated for this: `monitor` says it, and tries again.
                event.warnings.append(str(error))
        case "monitor":
            options = read_options(event)
            if options.interface:
                kernel_network.require_link(options.interface)
            _update(event, options)
        case "shutdown" | "removenatgw":
            _put(event, Put())


def read_options(event: Event) -> Options:
    """The options, each as it must be. Raises ServiceError."""
    nodes = Path(event.text("CTDB_NATGW_NODES"))
    members = groups.read_members(nodes, "CTDB_NATGW_NODES")
    network = _checked(event, "CTDB_NATGW_PRIVATE_NETWORK", _network_of, "a network as 192.168.1.0/24")
    if not network:
        raise event.misuse("CTDB_NATGW_PRIVATE_NETWORK", "it must be set, as 192.168.1.0/24")
    address = _checked(
        event, "CTDB_NATGW_PUBLIC_IP", _interface_of, "an address with its mask, as 10.0.0.227/24"
    )
    interface = event.text("CTDB_NATGW_PUBLIC_IFACE")
    if not (address and interface) and not groups.is_follower_only(event, members):
        missing = "CTDB_NATGW_PUBLIC_IFACE" if address else "CTDB_NATGW_PUBLIC_IP"
        raise event.misuse(missing, f"it must be set on a node that is not follower-only in '{nodes}'")
    gateway = _checked(event, "CTDB_NATGW_DEFAULT_GATEWAY", IPv4Address, "an IPv4 address")
    routes = []
    for route in event.words("CTDB_NATGW_STATIC_ROUTES", "0.0.0.0/0"):
        destination, _, own_gateway = route.partition("@")
        try:
            routes.append(
                (str(IPv4Network(destination)), str(IPv4Address(own_gateway)) if own_gateway else gateway)
            )
        except ValueError:
            raise event.misuse(
                "CTDB_NATGW_STATIC_ROUTES", f"'{route}' is no NETWORK/MASK[@GATEWAY]"
            ) from None
    return Options(nodes, network, address, interface, tuple(routes))


def wanted(options: Options, nodes: list[tool.NodeStatus], members: list[groups.Member]) -> Put:
    """What should stand on this host. Raises ServiceError when no node can be the gateway."""
    gateway = groups.choose_gateway(members, nodes)
    if gateway is None:
        raise ServiceError(
            f"no node of '{options.nodes}' can be the NAT gateway: they are disabled or disconnected"
        )
    if gateway.is_here:
        routes = tuple((to, via) for to, via in options.routes if via)
        return Put(options.address, options.interface, options.network, routes)
    return Put(routes=tuple((to, gateway.address) for to, _ in options.routes))


def _update(event: Event, options: Options) -> None:
    members = groups.read_members(options.nodes, "CTDB_NATGW_NODES")
    nodes = tool.node_statuses(event)
    try:
        put = wanted(options, nodes, members)
    except ServiceError:
        _put(event, Put())
        raise
    # A stopped node, which runs no `monitor`, is the gateway only if there is no better: it stays so.
    lasts = not put.address or groups.here(nodes).has("Inactive")
    _put(event, put, () if lasts else groups.lifetime(event))


def _put(event: Event, new: Put, lifetime: Sequence[str] = ()) -> None:
    """Have what is new stand here, and nothing else of what stood. Raises ServiceError."""
    note = state.lasting(event, "natgw.json")
    old = _remembered(note)
    # All that may stand, before anything is done: who is killed halfway has forgotten nothing.
    state.write(note, [asdict(put) for put in {*old, new}])
    carried = {(put.address, put.interface) for put in old if put.address}
    for to, via in {route for put in old for route in put.routes} - set(new.routes):
        try_ip("route", "del", to, "via", via, "metric", METRIC)
    for address, interface in carried - {(new.address, new.interface)}:
        try_ip("addr", "del", address, "dev", interface)
    if carried or new.address:
        _put_rules(new)
    if new.address:
        kernel_network.set_setting("ipv4/ip_forward", "1")
        ip("addr", "replace", new.address, "brd", "+", "dev", new.interface, *lifetime)
        if (new.address, new.interface) not in carried:
            _announce(event, new)
    for to, via in new.routes:
        ip("route", "replace", to, "via", via, "metric", METRIC)
    state.write(note, [asdict(new)])


def _put_rules(new: Put) -> None:
    # In one go, so that there is no moment without: adding makes deleting safe whether it is there or not.
    rules = f"add table ip {TABLE}\ndelete table ip {TABLE}\n"
    if new.address:
        host = new.address.partition("/")[0]
        rules += _RULES.format(table=TABLE, network=new.network, interface=new.interface, address=host)
    commands.run(["nft", "-f", "-"], timeout_s=_LIMIT_S, input=rules)


def _announce(event: Event, new: Put) -> None:
    try:
        tool.run(event, "gratarp", new.address.partition("/")[0], new.interface)
    except ServiceError as error:
        # Neighbours ask again by themselves, a little later.
        event.warnings.append(str(error))


def _remembered(note: Path) -> set[Put]:
    try:
        return {
            Put(**(kept | {"routes": tuple((to, via) for to, via in kept["routes"])}))
            for kept in state.read(note) or []
        }
    except (TypeError, KeyError, ValueError):
        return set()


def _require_own_address(event: Event, options: Options) -> None:
    host = options.address.partition("/")[0]
    if host in {each.address for each in configured.public_addresses(event)}:
        raise event.misuse("CTDB_NATGW_PUBLIC_IP", "it must be none of the public addresses")


def _answer(event: Event) -> None:
    nodes = Path(event.text("CTDB_NATGW_NODES", str(event.base / "natgw_nodes")))
    members = groups.read_members(nodes, "CTDB_NATGW_NODES")
    if event.name == "status":
        groups.show_status(event, members)
        return
    gateway = groups.choose_gateway(members, tool.node_statuses(event))
    if event.name == "leader":
        if gateway is None:
            raise SystemExit(_NOBODY)
        event.answers.append(f"{gateway.pnn} {gateway.address}")
        return
    for member in members:
        marks = ["LEADER"] if gateway is not None and member.address == gateway.address else []
        marks += [] if member.may_lead else ["follower-only"]
        event.answers.append("\t".join([member.address, *([",".join(marks)] if marks else [])]))


def _checked(event: Event, option: str, kind: object, rule: str) -> str:
    value = event.text(option)
    if not value:
        return ""
    assert callable(kind)
    try:
        return str(kind(value))
    except ValueError:
        raise event.misuse(option, f"it must be {rule}") from None


def _network_of(text: str) -> IPv4Network:
    return IPv4Network(text, strict=False)


def _interface_of(text: str) -> IPv4Interface:
    if "/" not in text:
        raise ValueError
    return IPv4Interface(text)
