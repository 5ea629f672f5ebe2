# SPDX-License-Identifier: GPL-3.0-or-later
"""Policy routing: packets from a public address take routes of their own, wherever the address stands.

Each address has a routing table, called `ctdb.ADDRESS` in iproute2's rt_tables, and a rule that sends what
comes from it there. Rules of the preference CTDB_PER_IP_ROUTING_RULE_PREF are ours, all of them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import configured, kernel_network, tool
from ctdbpy.services.event import Event
from ctdbpy.services.kernel_network import ask_ip, ip, try_ip

AUTO: Final = "__auto_link_local__"
PREFIX: Final = "ctdb."
#: Tables that the kernel and iproute2 have names for: default, main, local.
_RESERVED: Final = range(253, 256)
_PREFERENCE_MAX: Final = 32765
_TABLE_MAX: Final = 0xFFFFFFFF
#: The kernel takes the same rule more than once.
_RULES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Route:
    """A route of an address's table. gateway: "" if the destination is on the link."""

    destination: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Options:
    """What script.options say. routes: by address; an address without has no table."""

    routes: dict[str, list[Route]]
    preference: int
    tables: range


def run(event: Event) -> None:
    """Do an event. Raises ServiceError."""
    if not event.text("CTDB_PER_IP_ROUTING_CONF"):
        return
    options = read_options(event)
    match event.name:
        case "startup":
            _forget_all(options)
            kernel_network.set_setting("ipv4/conf/all/arp_filter", "1")
        case "takeip":
            interface, address, _ = event.arguments
            _add(event, options, address, interface)
        case "updateip":
            _, interface, address, _ = event.arguments
            _add(event, options, address, interface)
        case "releaseip":
            _, address, _ = event.arguments
            _remove(options, address)
        case "ipreallocated":
            _match(event, options)
        case "reconfigure":
            _match(event, options, anew=True)
        case "shutdown":
            _forget_all(options)
            _forget_tables(event, options)


def read_options(event: Event) -> Options:
    """The options, each as it must be. Raises ServiceError."""
    preference = event.number("CTDB_PER_IP_ROUTING_RULE_PREF", 0, least=1, most=_PREFERENCE_MAX)
    if not preference:
        raise event.misuse("CTDB_PER_IP_ROUTING_RULE_PREF", f"it must be set, from 1 to {_PREFERENCE_MAX}")
    low = event.number("CTDB_PER_IP_ROUTING_TABLE_ID_LOW", 0, least=1, most=_TABLE_MAX)
    high = event.number("CTDB_PER_IP_ROUTING_TABLE_ID_HIGH", 0, least=1, most=_TABLE_MAX)
    if not low or not low < high:
        raise event.misuse("CTDB_PER_IP_ROUTING_TABLE_ID_LOW", "it must be set, and less than …TABLE_ID_HIGH")
    if low < _RESERVED.stop and _RESERVED.start <= high:
        raise event.misuse(
            "CTDB_PER_IP_ROUTING_TABLE_ID_LOW", "tables 253 to 255 are not to be between it and …HIGH"
        )
    source = event.text("CTDB_PER_IP_ROUTING_CONF")
    routes = _link_routes(event) if source == AUTO else _read_routes(Path(source))
    return Options(routes, preference, range(low, high + 1))


def _link_routes(event: Event) -> dict[str, list[Route]]:
    """For each public address the network that it is of."""
    return {
        each.address: [Route(str(ip_interface(f"{each.address}/{each.prefix}").network), "")]
        for each in configured.public_addresses(event)
    }


def _read_routes(path: Path) -> dict[str, list[Route]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ServiceError(f"cannot read CTDB_PER_IP_ROUTING_CONF='{path}': {error.strerror}") from None
    routes: dict[str, list[Route]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            address, destination, *gateway = words
            key = str(ip_address(address))
            route = Route(
                str(ip_network(destination, strict=False)), str(ip_address(*gateway)) if gateway else ""
            )
        except (ValueError, TypeError):
            raise ServiceError(
                f"cannot use line {number} of '{path}': "
                f"'{line.strip()}' is no 'ADDRESS NETWORK/BITS [GATEWAY]'"
            ) from None
        routes.setdefault(key, []).append(route)
    return routes


# -- one address ----------------------------------------------------------------------------------


def _add(event: Event, options: Options, address: str, interface: str) -> None:
    """Have the rule and the table of an address as they should be. Raises ServiceError."""
    routes = options.routes.get(address)
    if not routes:
        return
    table = _table_of(event, options, address)
    # What stands of another time or interface goes first: rules may be there twice.
    _remove(options, address)
    ip(_family(address), "rule", "add", "from", address, "pref", str(options.preference), "table", table)
    # Those on the link first: a gateway can be used only when something leads to it.
    for route in sorted(routes, key=lambda route: bool(route.gateway)):
        by = ["via", route.gateway] if route.gateway else []
        ip(_family(address), "route", "replace", route.destination, *by, "dev", interface, "table", table)


def _remove(options: Options, address: str) -> None:
    table = f"{PREFIX}{address}"
    rule = ("rule", "del", "from", address, "pref", str(options.preference))
    for _ in range(_RULES_MAX):
        if not try_ip(_family(address), *rule):
            break
    try_ip(_family(address), "route", "flush", "table", table)


# -- all addresses ----------------------------------------------------------------------------------


def _match(event: Event, options: Options, *, anew: bool = False) -> None:
    """Have rules and tables for the addresses that are here, and for no others. Raises ServiceError."""
    hosted = tool.hosted_addresses(event)
    for address in _ruled(options) - hosted.keys():
        event.warnings.append(f"address {address} is not here: its rule and routes are removed")
        _remove(options, address)
    for address, interface in hosted.items():
        if anew or not ask_ip(_family(address), "route", "show", "table", f"{PREFIX}{address}"):
            _add(event, options, address, interface)


def _forget_all(options: Options) -> None:
    for address in _ruled(options):
        _remove(options, address)


def _ruled(options: Options) -> set[str]:
    """The addresses that have a rule of ours."""
    rules = [rule for family in ("-4", "-6") for rule in ask_ip(family, "rule", "show")]
    return {
        str(rule["src"]) for rule in rules if rule.get("priority") == options.preference and "src" in rule
    }


def _family(address: str) -> str:
    return "-6" if ":" in address else "-4"


# -- names of tables --------------------------------------------------------------------------------


def _table_of(event: Event, options: Options, address: str) -> str:
    """The name of an address's table; it gets a number if it has none yet. Raises ServiceError."""
    name = f"{PREFIX}{address}"
    with _rt_tables(event) as path:
        taken = {}
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        for line in text.splitlines():
            words = line.split()
            if len(words) == 2 and words[0].isdecimal():
                taken[words[1]] = int(words[0])
        if taken.get(name) in options.tables:
            return name
        used = set(taken.values())
        number = next((number for number in options.tables if number not in used), None)
        if number is None:
            raise ServiceError(
                f"cannot route for address '{address}': all tables from {options.tables.start} to "
                f"{options.tables.stop - 1} are taken in '{path}'"
            )
        kept = "".join(f"{line}\n" for line in text.splitlines() if line.split()[1:2] != [name])
        _replace(path, f"{kept}{number}\t{name}\n")
    return name


def _forget_tables(event: Event, options: Options) -> None:
    with _rt_tables(event) as path:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        _replace(path, "".join(f"{line}\n" for line in lines if not _is_ours(line, options)))


def _is_ours(line: str, options: Options) -> bool:
    words = line.split()
    return len(words) == 2 and words[1].startswith(PREFIX)


@contextmanager
def _rt_tables(event: Event) -> Iterator[Path]:
    """iproute2's names of tables, nobody else changing them. Raises ServiceError."""
    path = Path(event.text("CTDB_SYS_ETCDIR", "/etc")) / "iproute2" / "rt_tables"
    lock = event.state / "rt_tables.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with lock.open("w") as file:
            # Held for a few milliseconds by events of this node, of which one runs at a time.
            fcntl.flock(file, fcntl.LOCK_EX)
            yield path
    except OSError as error:
        raise ServiceError(f"cannot change '{path}': {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.ctdb")
    new.write_text(text, encoding="utf-8", errors="surrogateescape")
    new.chmod(0o644)
    new.replace(path)
