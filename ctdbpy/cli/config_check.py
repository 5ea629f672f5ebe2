# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the configuration: in the files, on this host, and between the nodes."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ctdbpy.cli.config_network import firewall_problems, unreachable
from ctdbpy.cli.session import Session
from ctdbpy.client.connection import Connection, NoDaemon, TimeUp
from ctdbpy.client.nodes import Cluster, connected
from ctdbpy.config.cluster_reader import read_cluster
from ctdbpy.config.cluster_settings import host_has
from ctdbpy.config.configuration import Configuration, host_problems, load, load_cluster, load_files
from ctdbpy.config.facts import ADDRESS, NODE, changes, is_shared, parse_facts
from ctdbpy.config.files import read_text
from ctdbpy.config.nodes import PORT_DEFAULT
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError, ConfigError, HostError
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.own import GIVEN_FILE
from ctdbpy.wire.structures import (
    ConfigurationAction,
    ConfigurationReport,
    ConfigurationRequest,
    NodeEntry,
    NodeMap,
)

#: Clocks may differ so much before anybody is told: logs of nodes can still be read beside each other.
SKEW_S: Final = 1.0
#: More changes of one node are not listed.
CHANGES_TOLD: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend (`error`), or to know (`warning`)."""

    level: str
    text: str

    @property
    def is_error(self) -> bool:
        return self.level == "error"

    def as_data(self) -> dict[str, str]:
        """As JSON has it."""
        return {"level": self.level, "text": self.text}


def error(text: str) -> Finding:
    return Finding("error", text)


def warning(text: str) -> Finding:
    return Finding("warning", text)


def facts_running(connection: Connection) -> dict[str, str]:
    """What the daemon of this node runs with. Raises ClientError."""
    reply = connection.control(Control.CONFIGURE, ConfigurationRequest(ConfigurationAction.READ))
    if reply.status != 0:
        raise ClientError("cannot ask for the configuration: the daemon of this node is not ctdbpyd")
    report: ConfigurationReport = decode_reply(Control.CONFIGURE, reply.data)
    return parse_facts(report.running)


# -- this host ------------------------------------------------------------------------------------


def check_host(paths: Paths, file: Path | None) -> list[Finding]:
    """The files that count here, or `file` (a cluster file, or a directory of upstream's files)."""
    try:
        configuration = load_target(paths, file)
    except ConfigError as wrong:
        return [error(line) for line in str(wrong).split("\n")]
    findings = [error(text) if " is ignored" in text else warning(text) for text in configuration.warnings]
    findings += map(error, host_problems(configuration))
    findings += map(error, _own_address(configuration))
    try:
        findings += map(error, firewall_problems(configuration.port))
    except HostError as wrong:
        findings.append(warning(str(wrong)))
    return findings


def load_target(paths: Paths, file: Path | None) -> Configuration:
    """The configuration that counts here or would with `file`. Raises ConfigError."""
    if file is None:
        return load(paths)
    if file.is_dir():
        etc = file.absolute()
        return load_files(replace(paths, etc=etc, nodes=str(etc / "nodes")))
    return load_cluster(cluster_text_of(file), str(file), paths)


def cluster_text_of(file: Path) -> str:
    """The text of a cluster file that has to be there. Raises ConfigError."""
    text = read_text(file)
    if text is None:
        raise ConfigError(
            f"cannot read '{file}': there is no such file; 'ctdbctl config import' can make one"
        )
    return text


def _own_address(configuration: Configuration) -> Iterator[str]:
    """In upstream's files any address may be this node's; the cluster file has been searched already."""
    wanted = configuration.settings.node_address
    nodes = [node for node in configuration.nodes if not node.deleted and wanted in (None, node.address)]
    if configuration.cluster is None and nodes and not any(host_has(node.address) for node in nodes):
        addresses = ", ".join(node.address for node in nodes)
        yield (
            f"{configuration.paths.nodes}:{nodes[0].line}: this host has none of the addresses {addresses}; "
            "is the private network up, is it the nodes file of this cluster?"
        )


# -- the cluster ----------------------------------------------------------------------------------


def check_cluster(
    session: Session, paths: Paths, file: Path | None, said: Collection[Finding]
) -> list[Finding]:
    """What the nodes say, if a daemon runs here, beyond what has been said of this host."""
    request = ConfigurationRequest(ConfigurationAction.READ)
    if file is not None and file.is_file():
        try:
            text = cluster_text_of(file)
            read_cluster(text, str(file))
        except ConfigError:
            return []  # Said already, by whoever looked at this host; other nodes have nothing to add.
        request = ConfigurationRequest(ConfigurationAction.CHECK, text)
    try:
        connection = session.connect()
    except (NoDaemon, TimeUp) as error:
        return [warning(f"the other nodes were not asked: {error}")]
    with closing(connection):
        nodes = Cluster(connection).nodes()
        reachable = connected(nodes)
        began_us = time.time_ns() // 1000
        reports, findings = ask_nodes(connection, request, reachable)
        ended_us = time.time_ns() // 1000
        findings += skewed_clocks(reports, began_us, ended_us)
        findings += _mistakes(reports, {each.text for each in said}, file)
        findings += compare(reports, is_file=file is not None)
        findings += unreachable_nodes(connection, nodes, reachable, _port(reports.get(connection.pnn)))
    return findings


def ask_nodes(
    connection: Connection, request: ConfigurationRequest, nodes: Collection[int]
) -> tuple[dict[int, ConfigurationReport], list[Finding]]:
    """What each node reports; a finding for each that does not."""
    replies = connection.controls(Control.CONFIGURE, request, nodes=nodes)
    reports: dict[int, ConfigurationReport] = {}
    findings = []
    for pnn in sorted(nodes):
        reply = replies.get(pnn)
        if reply is None:
            findings.append(error(f"node {pnn}: does not answer within {connection.timeout_s:g} s"))
        elif reply.status != 0:
            findings.append(
                warning(f"node {pnn}: its daemon is not ctdbpyd, or older: its configuration is not known")
            )
        else:
            reports[pnn] = decode_reply(Control.CONFIGURE, reply.data)
    return reports, findings


def _port(report: ConfigurationReport | None) -> int:
    facts = parse_facts(report.running) if report is not None else {}
    return int(facts.get("[cluster] port", PORT_DEFAULT))


def skewed_clocks(
    reports: Mapping[int, ConfigurationReport], began_us: int, ended_us: int
) -> Iterator[Finding]:
    """Nodes whose clock is not this node's, which showed these times before and after they were asked."""
    for pnn, report in reports.items():
        ahead_s = max(report.wall_us - ended_us, 0) / 1e6 or min(report.wall_us - began_us, 0) / 1e6
        if abs(ahead_s) > SKEW_S:
            way = "ahead of" if ahead_s > 0 else "behind"
            yield warning(
                f"node {pnn}: its clock is {abs(ahead_s):.1f} s {way} this node's; run NTP on all nodes"
            )


def _mistakes(
    reports: Mapping[int, ConfigurationReport], said: Collection[str], file: Path | None
) -> Iterator[Finding]:
    """What nodes have against the files, once for all of them; what was `said` of this host is left out."""
    by_line: dict[tuple[bool, str], list[int]] = {}
    for pnn, report in reports.items():
        for line in report.problems.splitlines():
            by_line.setdefault((True, with_name(line, file)), []).append(pnn)
        for line in report.notes.splitlines():
            by_line.setdefault((" is ignored" in line, with_name(line, file)), []).append(pnn)
    for (is_error, line), pnns in by_line.items():
        if line not in said:
            yield Finding("error" if is_error else "warning", f"{_nodes(pnns)}: {line}")


def with_name(line: str, file: Path | None) -> str:
    """What a node says of a file it was given, with the name that the administrator gave it."""
    if file is None:
        return line
    return re.sub(rf"(?<![^ ']){GIVEN_FILE}(?=:\d)", lambda _found: str(file), line)


def compare(reports: Mapping[int, ConfigurationReport], *, is_file: bool) -> Iterator[Finding]:
    """Where nodes differ from each other, and from their own files."""
    running = {pnn: parse_facts(report.running) for pnn, report in reports.items()}
    yield from _differences(running, "run with")
    if not is_file:
        found = {pnn: parse_facts(report.found) for pnn, report in reports.items() if report.found}
        drifted = set(_drifted(running))
        yield from (
            finding for name, finding in _named_differences(found, "have files with") if name not in drifted
        )
        for pnn, facts in found.items():
            changed = list(changes(running[pnn], facts))
            if changed:
                told = "; ".join(
                    f"{name}: {after or 'none'} instead of {before or 'none'}"
                    for name, before, after in changed[:CHANGES_TOLD]
                )
                more = f"; and {len(changed) - CHANGES_TOLD} more" if len(changed) > CHANGES_TOLD else ""
                yield warning(f"node {pnn}: its files say something else than it runs with: {told}{more}")
    yield from _addresses(running)


def _drifted(facts: Mapping[int, Mapping[str, str]]) -> Iterator[str]:
    return (name for name, _finding in _named_differences(facts, ""))


def _differences(facts: Mapping[int, Mapping[str, str]], what: str) -> Iterator[Finding]:
    return (finding for _name, finding in _named_differences(facts, what))


def _named_differences(facts: Mapping[int, Mapping[str, str]], what: str) -> Iterator[tuple[str, Finding]]:
    names = dict.fromkeys(name for each in facts.values() for name in each if is_shared(name))
    for name in names:
        by_value: dict[str, list[int]] = {}
        for pnn, each in facts.items():
            by_value.setdefault(each.get(name, "none"), []).append(pnn)
        if len(by_value) > 1:
            told = ", ".join(f"'{value}' on {_nodes(pnns)}" for value, pnns in by_value.items())
            yield name, error(f"nodes {what} a different {name}: {told}; make it the same on all nodes")


def _addresses(running: Mapping[int, Mapping[str, str]]) -> Iterator[Finding]:
    """Public addresses that nodes see differently, that are a node's own, or that only one node may host."""
    private = {
        value: name.removeprefix(NODE)
        for facts in running.values()
        for name, value in facts.items()
        if name.startswith(NODE)
    }
    hosts: dict[str, dict[str, list[int]]] = {}
    for pnn, facts in running.items():
        for name, value in facts.items():
            if name.startswith(ADDRESS):
                prefix = value.split(" ")[0]
                hosts.setdefault(name.removeprefix(ADDRESS), {}).setdefault(prefix, []).append(pnn)
    for address, by_prefix in hosts.items():
        if len(by_prefix) > 1:
            told = ", ".join(f"'{prefix}' on {_nodes(pnns)}" for prefix, pnns in by_prefix.items())
            yield error(f"public address {address} has different prefix lengths: {told}")
        if address in private:
            yield error(f"public address {address} is the private address of node {private[address]}")
    lonely = [address for address, by_prefix in hosts.items() if sum(map(len, by_prefix.values())) == 1]
    if len(running) > 1 and lonely:
        yield warning(f"only one node may host {', '.join(lonely)}: nobody takes over when it fails")


def unreachable_nodes(
    connection: Connection, nodes: Iterable[NodeEntry], reachable: Collection[int], port: int
) -> Iterator[Finding]:
    """Nodes that this one, or another, has no link to."""
    known = {node.pnn: node for node in nodes if not node.flags & NodeFlag.DELETED}
    own = known[connection.pnn].address.host
    for pnn, node in known.items():
        if pnn not in reachable:
            yield error(
                f"node {pnn}: this node has no link to it: {unreachable(own, node.address.host, port)}"
            )
    maps = connection.controls(Control.GET_NODEMAP, nodes=[pnn for pnn in reachable if pnn != connection.pnn])
    for pnn, reply in sorted(maps.items()):
        if reply.status != 0:
            continue
        theirs: NodeMap = decode_reply(Control.GET_NODEMAP, reply.data)
        for node in theirs.nodes:
            if node.pnn in reachable and node.flags & NodeFlag.DISCONNECTED and node.pnn != pnn:
                yield error(
                    f"node {pnn}: it has no link to node {node.pnn} ({node.address.host}), this node has; "
                    f"look for a firewall or a cable: run 'ctdbctl config check' on node {pnn}"
                )


def _nodes(pnns: Collection[int]) -> str:
    return ("node " if len(pnns) == 1 else "nodes ") + ", ".join(map(str, sorted(pnns)))
