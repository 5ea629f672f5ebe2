# SPDX-License-Identifier: GPL-3.0-or-later
"""How a node treats lock traffic that arrives at its public addresses: serve it, forward it, or drop it.

A forwarder sends it on to the lock node's own address and leaves the client's address as it is, for the
lock node's status monitor has to know the client and not the forwarder. So answers would leave the lock
node by the shortest way, and from an address that the client never asked. Therefore a forwarder writes
its number into the packets (DSCP), the lock node keeps that as the connection's mark, and a mark has a
route: back through the forwarder, which undoes what it has done.

One table of nftables is replaced as a whole, so there is no moment without rules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands

FAMILY: Final = "inet"
TABLE: Final = "ctdb_nlm"
#: DSCP has six bits, and 0 means that nobody forwarded it.
NODES_MAX: Final = 63
#: Marks of connections and packets, numbers of routing tables: a series each. And the preference of rules.
MARK_BASE: Final = 0x4E4C_4D00
TABLE_BASE: Final = 45990000
RULE_PREFERENCE: Final = 9000

_LIMIT_S: Final = 5.0
_SYSCTL: Final = Path("/proc/sys/net/ipv4")
_PROTOCOLS: Final = ("tcp", "udp")

_DAY_S: Final = 86400
_CLIENTS_MAX: Final = 65535

Command = dict[str, Any]

_CONNECTION_MARK: Final[Command] = {"ct": {"key": "mark"}}
_CONNECTION_STATE: Final[Command] = {"ct": {"key": "state"}}
_CONNECTION_STATUS: Final[Command] = {"ct": {"key": "status"}}


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What has to be so on this node.

    nodes: every node's own address by its number; none while they are unknown.
    lock_node: its number, None while there is none.
    public: the addresses that clients may ask here. ports: of lock manager and status monitor, on every node.
    """

    pnn: int
    nodes: dict[int, str]
    lock_node: int | None
    public: tuple[str, ...]
    ports: tuple[int, ...]

    @property
    def is_forwarder(self) -> bool:
        return self.lock_node is not None and self.lock_node != self.pnn

    def __str__(self) -> str:
        if self.lock_node is None:
            return "lock traffic is dropped: there is no lock node"
        if self.lock_node == self.pnn:
            return "lock traffic is served here"
        return f"lock traffic is forwarded to node {self.lock_node} at '{self.nodes[self.lock_node]}'"


def apply(wanted: Forwarding) -> None:
    """Make it so, then forget the connections that were treated otherwise. Raises ServiceError."""
    _check(wanted)
    if wanted.lock_node is not None:
        _prepare_kernel()
    if wanted.lock_node == wanted.pnn:
        _route_answers(wanted)
    replace_rules(wanted)
    forget_connections(wanted.ports)


def replace_rules(wanted: Forwarding) -> None:
    """Replace the table; connections that the kernel remembers go on as before. Raises ServiceError."""
    _nft(rules(wanted))


def is_applied() -> bool:
    """Whether there is a table; a firewall that is loaded anew may have flushed it."""
    return commands.run(["nft", "list", "table", FAMILY, TABLE], timeout_s=_LIMIT_S, check=False).status == 0


def forget_connections(ports: Sequence[int]) -> None:
    """Delete what the kernel remembers of connections to these ports.

    It would go on sending their packets where the old rules sent them: a client that asks again and again
    from the same port would ask a dead node for ever.
    """
    for protocol in _PROTOCOLS:
        for port in ports:
            argv = ["conntrack", "-D", "-p", protocol, "--orig-port-dst", str(port)]
            ended = commands.run(argv, timeout_s=_LIMIT_S, check=False)
            # It fails when there was none as well.
            if ended.status != 0 and "0 flow entries" not in ended.complaints:
                raise ServiceError(f"cannot forget connections by '{' '.join(argv)}': {ended.last_words}")


def rules(wanted: Forwarding) -> list[Command]:
    """The whole table as commands for nftables, in its JSON form."""
    own = wanted.nodes.get(wanted.pnn)
    table: list[Command] = [
        {"add": {"table": _table()}},
        {"delete": {"table": _table()}},
        {"add": {"table": _table()}},
        _chain("early", type="filter", hook="prerouting", prio=-150),
    ]
    if own is None:
        # Others may take this node for the lock node, as it was before it lost power.
        from_outside = _match({"meta": {"key": "iifname"}}, "lo", op="!=")
        return [*table, _rule("early", from_outside, *_at(wanted.ports), {"drop": None})]
    table += _protection(wanted)
    if wanted.lock_node == wanted.pnn:
        return table + _serving(wanted, own)
    # Who forwards to us has not yet heard that another is the lock node.
    table.append(_drop("early", own, wanted.ports))
    for address in wanted.public:
        # Only IPv4 can be forwarded: nodes have such addresses. Refused is better than locked twice.
        if wanted.lock_node is None or not _is_ipv4(address):
            table.append(_drop("early", address, wanted.ports))
    if wanted.lock_node is not None:
        table += _forwarding(wanted, wanted.nodes[wanted.lock_node])
    return table


# -- private -----------------------------------------------------------------------------------


def _protection(wanted: Forwarding) -> list[Command]:
    """The kernel forwards now: what was not for the lock manager must not reach nodes by that way."""
    return [
        _chain("forward", type="filter", hook="forward", prio=0),
        _rule("forward", _match(_CONNECTION_STATUS, "dnat", op="in"), {"accept": None}),
        _rule("forward", _match(_CONNECTION_STATE, "new", op="in"), *_to_nodes(wanted), {"drop": None}),
    ]


def _serving(wanted: Forwarding, own: str) -> list[Command]:
    """The lock node's: it remembers who forwarded a connection, and from where each client's calls come.

    So what it asks clients itself (a lock that they waited for is GRANTED) takes the same way back.
    """
    table = [_chain("answers", type="route", hook="output", prio=-150)]
    forwarders = [pnn for pnn in wanted.nodes if pnn != wanted.pnn]
    for pnn in forwarders:
        clients = f"clients_{pnn}"
        table += [
            _set_of_clients(clients),
            _rule(
                "early",
                *_to(own, wanted.ports),
                _match(_field("ip", "dscp"), _number(pnn)),
                _put(_CONNECTION_MARK, _mark(pnn)),
                _remember(clients),
            ),
            _rule(
                "answers",
                _match(_field("ip", "saddr"), own),
                _match(_field("ip", "daddr"), f"@{clients}"),
                _match(_CONNECTION_STATE, "new", op="in"),
                _put(_CONNECTION_MARK, _mark(pnn)),
            ),
        ]
    for pnn in forwarders:
        table.append(
            _rule(
                "answers",
                _match(_CONNECTION_MARK, _mark(pnn)),
                _put({"meta": {"key": "mark"}}, _mark(pnn)),
            )
        )
    return table


def _forwarding(wanted: Forwarding, lock_address: str) -> list[Command]:
    """A forwarder's. What the lock node asks clients through it leaves from the address that they asked."""
    table = [
        _chain("send_on", type="nat", hook="prerouting", prio=-100),
        _chain("send_back", type="nat", hook="postrouting", prio=100),
    ]
    for number, address in enumerate(wanted.public):
        if not _is_ipv4(address):
            continue
        clients = f"clients_{number}"
        to_it = _to(address, wanted.ports)
        table += [
            _set_of_clients(clients),
            _rule("early", *to_it, _put(_field("ip", "dscp"), _number(wanted.pnn)), _remember(clients)),
            _rule("send_on", *to_it, {"dnat": {"family": "ip", "addr": lock_address}}),
            _rule(
                "send_back",
                _match(_field("ip", "saddr"), lock_address),
                _match(_field("ip", "daddr"), f"@{clients}"),
                {"snat": {"family": "ip", "addr": address}},
            ),
        ]
    return table


def _check(wanted: Forwarding) -> None:
    if max(wanted.nodes, default=0) >= NODES_MAX:
        raise ServiceError(f"cannot forward lock traffic: there are more than {NODES_MAX} nodes")
    strange = [address for address in wanted.nodes.values() if not _is_ipv4(address)]
    if strange:
        raise ServiceError(f"cannot forward lock traffic: node address '{strange[0]}' is not an IPv4 one")


def _nft(commands_: list[Command]) -> None:
    text = json.dumps({"nftables": commands_})
    commands.run(["nft", "-j", "-f", "-"], timeout_s=_LIMIT_S, input=text)


def _prepare_kernel() -> None:
    """Have the kernel forward without telling clients of a shorter way, and take what others forward."""
    _write(_SYSCTL / "ip_forward", "1")
    for interface in (_SYSCTL / "conf").iterdir():
        _write(interface / "send_redirects", "0")
        # 1 takes only packets that come by the way on which an answer would leave; 2 those of any interface.
        filter_ = interface / "rp_filter"
        if filter_.read_text(encoding="ascii").strip() == "1":
            _write(filter_, "2")


def _write(path: Path, value: str) -> None:
    try:
        if path.read_text(encoding="ascii").strip() != value:
            path.write_text(value, encoding="ascii")
    except FileNotFoundError:
        pass  # The interface has gone.
    except OSError as error:
        raise ServiceError(f"cannot set '{path}' to {value}: {error.strerror}") from None


def _route_answers(wanted: Forwarding) -> None:
    """A route for each forwarder's mark: answers to what it forwarded go through it."""
    asked = commands.run(["ip", "-j", "rule", "show"], timeout_s=_LIMIT_S).output
    there = {rule.get("fwmark") for rule in json.loads(asked or "[]")}
    lines = []
    for pnn, address in wanted.nodes.items():
        if pnn == wanted.pnn:
            continue
        mark, table = hex(_mark(pnn)), TABLE_BASE + pnn
        if mark not in there:
            lines.append(f"rule add pref {RULE_PREFERENCE} fwmark {mark} lookup {table}")
        lines.append(f"route replace default via {address} table {table}")
    if lines:
        commands.run(["ip", "-batch", "-"], timeout_s=_LIMIT_S, input="\n".join(lines) + "\n")


def _number(pnn: int) -> int:
    return pnn + 1


def _mark(pnn: int) -> int:
    return MARK_BASE | _number(pnn)


def _is_ipv4(address: str) -> bool:
    return ip_address(address).version == 4


def _table() -> dict[str, str]:
    return {"family": FAMILY, "name": TABLE}


def _chain(name: str, **base: Any) -> Command:
    return {"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name, "policy": "accept", **base}}}


def _rule(chain: str, *expressions: Command) -> Command:
    return {"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": chain, "expr": list(expressions)}}}


def _match(left: Any, right: Any, op: str = "==") -> Command:
    return {"match": {"op": op, "left": left, "right": right}}


def _field(protocol: str, name: str) -> Command:
    return {"payload": {"protocol": protocol, "field": name}}


def _put(key: Command, value: Any) -> Command:
    return {"mangle": {"key": key, "value": value}}


def _drop(chain: str, address: str, ports: Sequence[int]) -> Command:
    return _rule(chain, *_to(address, ports), {"drop": None})


def _set_of_clients(name: str) -> Command:
    """Addresses that rules put in, each for a day after it was seen last."""
    kind = {"type": "ipv4_addr", "flags": ["timeout"], "timeout": _DAY_S, "size": _CLIENTS_MAX}
    return {"add": {"set": {"family": FAMILY, "table": TABLE, "name": name, **kind}}}


def _remember(clients: str) -> Command:
    return {"set": {"op": "update", "elem": _field("ip", "saddr"), "set": f"@{clients}"}}


def _to_nodes(wanted: Forwarding) -> tuple[Command]:
    return (_match(_field("ip", "daddr"), {"set": sorted(wanted.nodes.values())}),)


def _to(address: str, ports: Sequence[int]) -> tuple[Command, Command, Command]:
    """Matches packets to an address at one of the ports."""
    return (_match(_field("ip" if _is_ipv4(address) else "ip6", "daddr"), address), *_at(ports))


def _at(ports: Sequence[int]) -> tuple[Command, Command]:
    return (
        _match({"meta": {"key": "l4proto"}}, {"set": list(_PROTOCOLS)}),
        _match(_field("th", "dport"), {"set": list(ports)}),
    )
