# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule that keeps nodes apart is named, and no other."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from ctdbpy.cli.config_check import compare, skewed_clocks
from ctdbpy.cli.config_network import blocking_rules, unreachable
from ctdbpy.wire.structures import ConfigurationReport

Expressions = list[dict[str, Any]]


def ruleset(*rules: Expressions, policy: str = "accept", chain: str = "input", table: str = "filter") -> Any:
    """What `nft -j list ruleset` says of one chain for incoming packets, and a second one called `more`."""
    place = {"family": "inet", "table": table}
    listed: list[dict[str, Any]] = [
        {"metainfo": {"version": "1"}},
        {"table": {"family": "inet", "name": table}},
        {"chain": {**place, "name": chain, "hook": "input", "policy": policy}},
        {"chain": {**place, "name": "more"}},
        {"rule": {**place, "chain": "more", "handle": 99, "expr": [port(4379), {"drop": None}]}},
    ]
    for handle, expressions in enumerate(rules, start=5):
        listed.append({"rule": {**place, "chain": chain, "handle": handle, "expr": expressions}})
    return listed


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def port(right: Any, protocol: str = "tcp", op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right, op)


LO = match({"meta": {"key": "iif"}}, "lo")
OLD = match({"ct": {"key": "state"}}, ["established", "related"], "in")
NEW = match({"ct": {"key": "state"}}, "new", "in")
SOURCE = match({"payload": {"protocol": "ip", "field": "saddr"}}, {"prefix": {"addr": "10.0.0.0", "len": 8}})
TCP = match({"meta": {"key": "l4proto"}}, "tcp")
DROP, ACCEPT, REJECT = {"drop": None}, {"accept": None}, {"reject": {"type": "tcp reset"}}
COUNTER = {"counter": {"packets": 0, "bytes": 0}}


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [[LO, DROP], [OLD, ACCEPT], [port(22), DROP]],
        [[port({"set": [22, 4379]}), ACCEPT], [DROP]],
        [[port({"range": [4000, 5000]}), ACCEPT], [DROP]],
        [[port("@open"), ACCEPT], [DROP]],
        [[SOURCE, ACCEPT], [DROP]],
        [[SOURCE, port(4379), DROP]],
        [[port(4379, "udp"), DROP]],
        [[port(4379, op="!="), DROP]],
        [[TCP, {"return": None}], [DROP]],
    ],
)
def test_a_firewall_that_lets_nodes_in_is_not_complained_of(rules: list[Expressions]) -> None:
    assert list(blocking_rules(ruleset(*rules), "tcp", 4379)) == []


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ([[port(22), ACCEPT], [port(4379), COUNTER, DROP]], "rule 6 of chain 'inet filter input' drops it"),
        ([[TCP, NEW, REJECT]], "rule 5 of chain 'inet filter input' rejects it"),
        ([[port({"set": [1, {"range": [4000, 5000]}]}, "th"), DROP]], "rule 5 "),
        ([[OLD, ACCEPT], [{"jump": {"target": "more"}}]], "rule 99 of chain 'inet filter more' drops it"),
        ([[OLD, ACCEPT], [port(22, op="!="), {"goto": {"target": "more"}}]], "rule 99 "),
    ],
)
def test_the_rule_that_blocks_is_named_with_a_way_out(rules: list[Expressions], named: str) -> None:
    (said,) = blocking_rules(ruleset(*rules), "tcp", 4379)
    assert said.startswith(named)
    assert said.endswith("; open it with 'nft insert rule inet filter input tcp dport 4379 accept'")


@pytest.mark.parametrize(
    ("changed", "command"),
    [
        ({"table": "firewalld"}, "firewall-cmd --permanent --add-port=4379/tcp"),
        ({"chain": "ufw-before-input"}, "ufw allow 4379"),
        ({}, "nft insert rule inet filter input tcp dport 4379 accept"),
    ],
)
def test_a_policy_that_drops_is_named_and_its_manager_too(changed: dict[str, str], command: str) -> None:
    (said,) = blocking_rules(ruleset([OLD, ACCEPT], policy="drop", **changed), "tcp", 4379)
    assert said.startswith("the policy of chain 'inet ")
    assert command in said


def test_a_port_nobody_listens_on_and_one_that_is_open_are_told_apart() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = listener.getsockname()[1]
        assert "is refused: no daemon runs there" in unreachable("127.0.0.1", "127.0.0.1", number)
        listener.listen()
        assert "can be reached from here" in unreachable("127.0.0.1", "127.0.0.1", number)
    assert "cannot be reached" in unreachable("192.0.2.1", "127.0.0.1", number)


def test_a_clock_counts_as_wrong_only_beyond_what_asking_took() -> None:
    clocks = (9_000_000, 7_900_000, 13_100_000)
    reports = {pnn: ConfigurationReport(wall_us) for pnn, wall_us in enumerate(clocks)}
    said = [each.text for each in skewed_clocks(reports, 9_000_000, 12_000_000)]
    assert said == [
        "node 1: its clock is 1.1 s behind this node's; run NTP on all nodes",
        "node 2: its clock is 1.1 s ahead of this node's; run NTP on all nodes",
    ]


def test_addresses_that_nodes_see_differently_are_told() -> None:
    running = {
        0: "node 0 = 10.0.0.1\naddress 192.0.2.1 = /24 on a\naddress 192.0.2.2 = /24 on a\n",
        1: "node 0 = 10.0.0.1\naddress 192.0.2.1 = /25 on a\naddress 10.0.0.1 = /8 on a\n",
    }
    reports = {pnn: ConfigurationReport(0, running=text) for pnn, text in running.items()}
    assert [(each.level, each.text) for each in compare(reports, is_file=True)] == [
        ("error", "public address 192.0.2.1 has different prefix lengths: '/24' on node 0, '/25' on node 1"),
        ("error", "public address 10.0.0.1 is the private address of node 0"),
        ("warning", "only one node may host 192.0.2.2, 10.0.0.1: nobody takes over when it fails"),
    ]
