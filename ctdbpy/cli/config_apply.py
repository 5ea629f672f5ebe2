# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a cluster file to every node: looked at by all, then kept by all, then used as far as possible."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from ctdbpy.cli.config_check import ask_nodes, cluster_text_of, with_name
from ctdbpy.cli.session import Session
from ctdbpy.client import addresses
from ctdbpy.client.nodes import Cluster, connected
from ctdbpy.config.cluster_file import ClusterFile
from ctdbpy.config.cluster_reader import read_cluster
from ctdbpy.config.facts import ADDRESS, FILES, HOME, NODE, SERVICE, TUNABLE, changes, parse_facts
from ctdbpy.config.loglevels import LOG_LEVELS
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_DISABLE_RECOVERIES
from ctdbpy.wire.structures import ConfigurationAction, ConfigurationRequest, NodeEntry, TunableValue

_LOG_LEVEL: Final = "[logging] log level"
#: Tunables that a database is opened with.
_AT_START: Final = frozenset({f"{TUNABLE}DatabaseHashSize", f"{TUNABLE}DatabaseMaxDead"})
#: Nodes that differ in these do not become one cluster, or become two.
_TOGETHER: Final = frozenset({"[cluster] cluster lock", "[cluster] port", "[cluster] transport"})
_VIA_S: Final = 60.0

#: By node: (name, before, after) of every fact that changes.
_Plan = Mapping[int, list[tuple[str, str | None, str | None]]]


@dataclass(frozen=True, slots=True)
class Ways:
    """How an administrator wants it done."""

    only_say: bool
    skip_unreachable: bool
    via: str | None


def apply_file(session: Session, paths: Paths, file: Path | None, ways: Ways) -> int:
    """Do it, and say so; the exit code. Raises ClientError and ConfigError, with nothing changed yet."""
    source = file or paths.cluster
    text = cluster_text_of(source)
    wanted = read_cluster(text, str(source))
    with closing(session.connect()) as connection:
        cluster = Cluster(connection)
        nodes = cluster.nodes()
        reachable = connected(nodes)
        absent = _absent(wanted, nodes, reachable)
        if absent and not ways.skip_unreachable and ways.via is None:
            raise ClientError(
                f"cannot apply '{source}': no daemon can be asked on node {_numbers(absent)}; start it, "
                "reach the host with --via, or leave it out with --skip-unreachable and apply again later"
            )
        _check_deleted(wanted, nodes, reachable, source)
        plan = _look(cluster, text, source, reachable)
        said = list(_told(plan))
        show = click.echo if not session.as_json else _to_stderr
        show("".join(f"{line}\n" for line in said) or "every node runs with this already\n", nl=False)
        if ways.only_say:
            if session.as_json:
                session.show({"changes": said})
            return 0
        session.confirm(f"'{source}' is brought to node {_numbers(reachable)}")
        failures = _store(cluster, text, reachable)
        if failures:
            raise ClientError(
                f"cannot keep '{source}' on every node: {'; '.join(failures)}; the others have it, but "
                "for its script options nobody uses it yet: mend that and apply it again"
            )
        failures = _use(cluster, plan)
        fresh = _fresh(wanted, nodes)
        if ways.via is not None:
            for pnn in (*absent, *fresh):
                failures += _bring(ways.via, pnn, wanted, text, paths)
    restarts = {pnn: names for pnn, changed in plan.items() if (names := _need_restart(changed))}
    answer = {"kept": sorted(reachable), "new": fresh, "failed": failures, "restart": restarts}
    session.show(answer, lambda _answer: _outcome(reachable, fresh, restarts))
    for failure in failures:
        _to_stderr(f"ctdbctl: {failure}")
    return 1 if failures else 0


# -- before anything is changed -------------------------------------------------------------------


def _absent(wanted: ClusterFile, nodes: Collection[NodeEntry], reachable: Collection[int]) -> list[int]:
    """Nodes of the file or the cluster that cannot be asked; new ones need not be there yet."""
    known = {node.pnn for node in nodes if not node.flags & NodeFlag.DELETED}
    live = {node.number for node in wanted.nodes if not node.deleted}
    return sorted((known & live) - set(reachable))


def _fresh(wanted: ClusterFile, nodes: Collection[NodeEntry]) -> list[int]:
    """Nodes that are not in the cluster yet."""
    known = {node.pnn for node in nodes if not node.flags & NodeFlag.DELETED}
    return [node.number for node in wanted.nodes if not node.deleted and node.number not in known]


def _look(cluster: Cluster, text: str, source: Path, nodes: Collection[int]) -> _Plan:
    """What would change on each node. Raises ClientError with everything that any node has against it."""
    request = ConfigurationRequest(ConfigurationAction.CHECK, text)
    reports, findings = ask_nodes(cluster.connection, request, nodes)
    problems = [each.text for each in findings]
    for pnn, report in reports.items():
        problems += [f"node {pnn}: {with_name(line, source)}" for line in report.problems.splitlines()]
    if problems:
        raise ClientError("cannot apply it, nothing was changed: " + "\n".join(problems))
    return {
        pnn: list(changes(parse_facts(report.running), parse_facts(report.found)))
        for pnn, report in reports.items()
    }


def _check_deleted(
    wanted: ClusterFile, nodes: Collection[NodeEntry], reachable: Collection[int], source: Path
) -> None:
    """A node that is deleted while it runs would go on as if it were in the cluster."""
    after = {node.pnn: node for node in wanted.node_addresses()}
    for node in nodes:
        new = after.get(node.pnn)
        if new is not None and new.deleted and node.pnn in reachable:
            raise ClientError(
                f"cannot apply it, nothing was changed: {source}:{new.line or 1}: node {node.pnn} is deleted "
                "there and still connected; shut its daemon down first"
            )


def _told(plan: _Plan) -> Iterator[str]:
    """The plan in words: the same changes of several nodes once."""
    by_change: dict[tuple[str, str | None, str | None], list[int]] = {}
    for pnn, changed in plan.items():
        for each in changed:
            by_change.setdefault(each, []).append(pnn)
    for (name, before, after), pnns in by_change.items():
        where = "every node" if len(pnns) == len(plan) else f"node {_numbers(pnns)}"
        way = "at once"
        if _needs_restart(name):
            way = "after a restart of all nodes together" if name in _TOGETHER else "after a restart"
        yield f"{where}: {name}: {before or 'none'} -> {after or 'none'} ({way})"


def _outcome(kept: Collection[int], fresh: Collection[int], restarts: Mapping[int, list[str]]) -> str:
    lines = [f"kept on node {_numbers(kept)}"]
    lines += [f"node {pnn} is new: it needs the file too, then start ctdbpyd there" for pnn in fresh]
    lines += [f"node {pnn}: restart ctdbpyd there for {', '.join(names)}" for pnn, names in restarts.items()]
    if any(name in _TOGETHER for names in restarts.values() for name in names):
        lines.append(
            "stop all nodes before you start the first one again: until then they run with the old one"
        )
    return "".join(f"{line}\n" for line in lines)


# -- the deeds --------------------------------------------------------------------------------------


def _store(cluster: Cluster, text: str, nodes: Collection[int]) -> list[str]:
    """Have every node keep the file; what went wrong."""
    request = ConfigurationRequest(ConfigurationAction.STORE, text)
    reports, findings = ask_nodes(cluster.connection, request, nodes)
    failures = [each.text for each in findings]
    for pnn, report in reports.items():
        failures += [f"node {pnn}: {line}" for line in report.problems.splitlines()]
    return failures


def _use(cluster: Cluster, plan: _Plan) -> list[str]:
    """Have nodes use what they can without a restart; what went wrong. Each step is tried."""
    failures: list[str] = []
    for pnn, changed in plan.items():
        for name, _before, after in changed:
            try:
                _use_number(cluster, pnn, name, after)
            except ClientError as wrong:
                failures.append(f"node {pnn}: {wrong}")
    if any(name.startswith(NODE) for changed in plan.values() for name, _b, _a in changed):
        failures += _reload_nodes(cluster, plan)
    moved = [
        pnn for pnn, changed in plan.items() if any(each[0].startswith((ADDRESS, HOME)) for each in changed)
    ]
    if moved:
        try:
            addresses.reload(cluster, moved)
        except ClientError as wrong:
            failures.append(str(wrong))
    return failures


def _use_number(cluster: Cluster, pnn: int, name: str, after: str | None) -> None:
    if name.startswith(TUNABLE) and after is not None:
        value = TunableValue(name.removeprefix(TUNABLE), int(after))
        cluster.connection.ask(Control.SET_TUNABLE, value, destnode=pnn)
    elif name == _LOG_LEVEL and after is not None:
        level = LOG_LEVELS.get(after)
        cluster.connection.ask(Control.SET_DEBUG, int(after) if level is None else level, destnode=pnn)


def _reload_nodes(cluster: Cluster, plan: _Plan) -> list[str]:
    """As `ctdb reloadnodes` does it: no recovery sees some nodes with the old list and some with the new."""
    seconds = 2 * int(cluster.connection.timeout_s) + 1
    try:
        cluster.hold_up(SRVID_DISABLE_RECOVERIES, plan, seconds)
    except ClientError as wrong:
        return [f"the nodes were not reloaded: {wrong}"]
    failures = []
    try:
        replies = cluster.connection.controls(Control.RELOAD_NODES_FILE, nodes=plan)
        for pnn in plan:
            if pnn not in replies:
                failures.append(f"node {pnn}: cannot reload the nodes: no answer in time")
            elif replies[pnn].status != 0:
                failures.append(f"node {pnn}: {replies[pnn].error or 'cannot reload the nodes'}")
    finally:
        try:
            cluster.hold_up(SRVID_DISABLE_RECOVERIES, plan, 0)
        except ClientError as wrong:
            failures.append(f"there is no recovery for up to {seconds} s: {wrong}")
    return failures


def _bring(via: str, pnn: int, wanted: ClusterFile, text: str, paths: Paths) -> list[str]:
    """Write the file on a node without a daemon, as a whole or not at all; what went wrong."""
    node = wanted.node(pnn)
    assert node is not None, "only nodes of the file are absent"
    path, directory = shlex.quote(str(paths.cluster)), shlex.quote(str(paths.cluster.parent))
    script = f"umask 022 && mkdir -p {directory} && cat >{path}.new && mv {path}.new {path}"
    try:
        argv = [*shlex.split(via.format(address=node.address, name=node.name or node.number)), script]
        done = subprocess.run(argv, input=text.encode(), capture_output=True, timeout=_VIA_S, check=False)
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError) as wrong:
        return [f"node {pnn}: cannot bring the file there by '{via}': {wrong}"]
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        return [f"node {pnn}: cannot bring the file there by '{via}': status {done.returncode}: {said}"]
    return []


# -- facts --------------------------------------------------------------------------------------------


def _needs_restart(name: str) -> bool:
    if name in _AT_START:
        return True
    return name not in (_LOG_LEVEL, FILES) and not name.startswith((NODE, ADDRESS, HOME, TUNABLE, SERVICE))


def _need_restart(changed: list[tuple[str, str | None, str | None]]) -> list[str]:
    return [name for name, _before, _after in changed if _needs_restart(name)]


def _numbers(pnns: Collection[int]) -> str:
    return ", ".join(map(str, sorted(pnns)))


def _to_stderr(text: str, *, nl: bool = True) -> None:
    click.echo(text, err=True, nl=nl)
