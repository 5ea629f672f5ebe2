# SPDX-License-Identifier: GPL-3.0-or-later
"""Why nodes do not hear each other: the port that cannot be reached, and the firewall rule that blocks it."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ctdbpy.errors import HostError

#: A peer in the same rack answers a thousand times faster.
PROBE_S: Final = 2.0
_NFT_S: Final = 10.0
#: The daemon's own, which stops what this host must not use any more.
OWN_TABLE: Final = "ctdbpy"
#: Rules of managers are changed through them, not with nft; names of tables or chains say whose they are.
_MANAGERS: Final = {
    "firewalld": "firewall-cmd --permanent --add-port={port}/tcp --add-port={port}/udp",
    "ufw": "ufw allow {port}",
}
_FAMILIES: Final = ("ip", "ip6", "inet")


def unreachable(own: str, address: str, port: int) -> str:
    """Try the port that links to a node go to, and say what that tells."""
    try:
        with socket.create_connection((address, port), PROBE_S, source_address=(own, 0)):
            return (
                f"TCP port {port} of {address} can be reached from here, so a daemon is there; "
                "it hangs, or has something against this node: run 'ctdbctl config check' there too"
            )
    except TimeoutError:
        return (
            f"TCP port {port} of {address} does not answer within {PROBE_S:g} s: the host is off, or a "
            "firewall there or on the way drops it; run 'ctdbctl config check' there, it names the rule"
        )
    except ConnectionRefusedError:
        return (
            f"TCP port {port} of {address} is refused: no daemon runs there, "
            "or a firewall there rejects it; start ctdbpyd, or run 'ctdbctl config check' there"
        )
    except OSError as wrong:
        if wrong.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return (
                f"{address} cannot be reached: {wrong.strerror}; is the host on, is the private network up?"
            )
        return f"TCP port {port} of {address} cannot be reached: {wrong.strerror or wrong}"


def firewall_problems(port: int) -> list[str]:
    """What this host's packet filter does to what other nodes send to the port.

    As far as nft lists it, which includes iptables' rules; nothing where nft is not installed. Raises
    HostError when it cannot be asked or understood.
    """
    program = shutil.which("nft")
    if program is None:
        return []
    try:
        # Table by table: asked for all at once, Debian 12's nft (1.0.6) breaks its heap over some tables.
        tables = [each["table"] for each in _nft(program, "tables") if "table" in each]
        ruleset = [
            each
            for table in tables
            if table["name"] != OWN_TABLE and table["family"] in _FAMILIES
            for each in _nft(program, "table", table["family"], table["name"])
        ]
        return [
            f"the firewall of this host keeps other nodes from {protocol.upper()} port {port}: {blocked}"
            for protocol in ("tcp", "udp")
            for blocked in blocking_rules(ruleset, protocol, port)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise HostError(
            f"cannot look at the firewall: 'nft' lists it in a form that is not known: {wrong}"
        ) from wrong


def _nft(program: str, *what: str) -> list[Mapping[str, Any]]:
    try:
        done = subprocess.run(
            [program, "-j", "list", *what], capture_output=True, timeout=_NFT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as wrong:
        raise HostError(f"cannot look at the firewall: {wrong}") from wrong
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise HostError(f"cannot look at the firewall: 'nft' ended with status {done.returncode}: {said}")
    listed: list[Mapping[str, Any]] = json.loads(done.stdout)["nftables"]
    return listed


# -- the packet filter ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    handle: int
    expressions: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Chain:
    family: str
    table: str
    name: str
    policy: str
    is_input: bool
    rules: list[_Rule]

    def __str__(self) -> str:
        return f"'{self.family} {self.table} {self.name}'"


class _Chains(dict[tuple[str, str, str], _Chain]):
    """All chains by family, table and name."""


def blocking_rules(ruleset: list[Mapping[str, Any]], protocol: str, port: int) -> Iterator[str]:
    """Of each chain for incoming packets the rule that drops a new connection, and how to open the port.

    What depends on more than protocol and port (a source, an interface, a set) may match or not: such a rule
    that accepts counts as one that lets nodes in, one that drops as one for others.
    """
    chains = _Chains()
    for each in ruleset:
        if (chain := each.get("chain")) is not None:
            key = (chain["family"], chain["table"], chain["name"])
            is_input = chain.get("hook") == "input" and chain["family"] in _FAMILIES
            chains[key] = _Chain(*key, chain.get("policy", "accept"), is_input, [])
        elif (rule := each.get("rule")) is not None:
            key = (rule["family"], rule["table"], rule["chain"])
            chains[key].rules.append(_Rule(rule["handle"], tuple(rule["expr"])))
    for chain in chains.values():
        if not chain.is_input:
            continue
        verdict = _walk(chains, chain, protocol, port, depth=0)
        if verdict is None and chain.policy == "drop":
            verdict = f"the policy of chain {chain} is drop, and no rule accepts it"
        if verdict:
            yield f"{verdict}; open it with '{_opening(chain, protocol, port)}'"


def _walk(chains: _Chains, chain: _Chain, protocol: str, port: int, depth: int) -> str | None:
    """What ends the way of a packet in a chain: "" it is accepted, a text it is not; None nothing does."""
    if depth > len(chains):
        return None
    for rule in chain.rules:
        matches: bool | None = True
        for expression in rule.expressions:
            if "match" in expression:
                one = _match(expression["match"], protocol, port)
                matches = False if one is False or matches is False else (one and matches)
            if matches is False:
                break
            for word, deed in (("drop", "drops"), ("reject", "rejects")):
                if word in expression and matches:
                    return f"rule {rule.handle} of chain {chain} {deed} it"
            if "accept" in expression:
                return ""
            for word in ("jump", "goto"):
                if word in expression:
                    key = (chain.family, chain.table, expression[word]["target"])
                    verdict = _walk(chains, chains[key], protocol, port, depth + 1)
                    if verdict == "" or (verdict and matches):
                        return verdict
            if "return" in expression and matches:
                return None
    return None


def _match(match: Mapping[str, Any], protocol: str, port: int) -> bool | None:
    """Whether a new connection from another node fits; None: that depends."""
    left, right = match["left"], match["right"]
    if not isinstance(left, Mapping):
        return None
    if (payload := left.get("payload")) is not None and "protocol" in payload:
        if payload["protocol"] in ("tcp", "udp", "th"):
            if payload["protocol"] not in (protocol, "th"):
                return False
            fits = _has(right, port) if payload["field"] == "dport" else None
        elif payload.get("field") in ("protocol", "nexthdr"):
            fits = _has(right, protocol)
        else:
            fits = None
    elif (meta := left.get("meta")) is not None and meta["key"] == "l4proto":
        fits = _has(right, protocol)
    elif (meta := left.get("meta")) is not None and meta["key"] in ("iif", "iifname"):
        # Nodes do not talk over the loopback.
        fits = False if right == "lo" else None
    elif (ct := left.get("ct")) is not None and ct["key"] == "state":
        fits = _has(right, "new")
    else:
        fits = None
    if fits is None:
        return None
    return not fits if match.get("op") == "!=" else fits


def _has(right: Any, wanted: int | str) -> bool | None:
    """Whether a value, list, range or set has it; None: a named set, which is not looked into."""
    if isinstance(right, Mapping):
        if "range" in right:
            low, high = right["range"]
            return low <= wanted <= high if isinstance(low, int) and isinstance(wanted, int) else None
        if "set" in right:
            return _has(right["set"], wanted)
        return None
    if isinstance(right, list):
        found = [_has(each, wanted) for each in right]
        return True if True in found else (None if None in found else False)
    if isinstance(right, str) and right.startswith("@"):
        return None
    return bool(right == wanted)


def _opening(chain: _Chain, protocol: str, port: int) -> str:
    for manager, command in _MANAGERS.items():
        if chain.table == manager or chain.name.startswith(f"{manager}-") or _has_rules_of(chain, manager):
            return command.format(port=port)
    return f"nft insert rule {chain.family} {chain.table} {chain.name} {protocol} dport {port} accept"


def _has_rules_of(chain: _Chain, manager: str) -> bool:
    """ufw hooks its chains into those of iptables."""
    targets = (
        expression[word]["target"]
        for rule in chain.rules
        for expression in rule.expressions
        for word in ("jump", "goto")
        if word in expression
    )
    return any(target.startswith(f"{manager}-") for target in targets)
