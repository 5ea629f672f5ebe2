# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` that ask about nodes."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from ctdbpy.cli.ctdb.tool import (
    UNKNOWN,
    Failed,
    Tool,
    flags_text,
    leading_number,
    parse_number,
    unknown_yet,
    warn,
)
from ctdbpy.config.nodes import NodeAddress, load_nodes
from ctdbpy.config.paths import Paths
from ctdbpy.errors import CtdbpyError
from ctdbpy.wire.constants import (
    INVALID_GENERATION,
    UNKNOWN_PNN,
    Capability,
    NodeFlag,
    RecoveryMode,
    RunState,
)
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.srvids import SRVID_MEM_DUMP
from ctdbpy.wire.structures import IfaceList, NodeEntry, PidSrvid, SrvidMessage, Uptime, VnnMap

#: Scripts compare it with the releases of Samba whose commands and formats they know: these are 4.17's.
COMPATIBLE_VERSION: Final = "4.17.12-ctdbpy"

#: Upstream's names in its JSON, in its order.
_JSON_FLAGS: Final = (
    ("disconnected", NodeFlag.DISCONNECTED),
    ("unknown", UNKNOWN),
    ("disabled", NodeFlag.PERMANENTLY_DISABLED),
    ("banned", NodeFlag.BANNED),
    ("unhealthy", NodeFlag.UNHEALTHY),
    ("deleted", NodeFlag.DELETED),
    ("stopped", NodeFlag.STOPPED),
    ("inactive", NodeFlag.INACTIVE),
)


def do_version(tool: Tool, *_ignored: str) -> None:
    print(json.dumps({"version": COMPATIBLE_VERSION}) if tool.options.is_json else COMPATIBLE_VERSION)


def do_status(tool: Tool) -> None:
    nodes = _current(tool, tool.nodes)
    online = _partially_online(tool, nodes)
    if tool.options.is_machine:
        _print_table(tool, nodes, online)
        return
    vnnmap: VnnMap = tool.ask(Control.GETVNNMAP)
    mode = tool.status(Control.GET_RECMODE)
    leader = _leader(tool)
    if tool.options.is_json:
        print(json.dumps(_as_json(tool, nodes, online, vnnmap, mode, leader)))
        return
    _print_nodes(tool, nodes, online, with_number=True)
    invalid = vnnmap.generation == INVALID_GENERATION
    print(f"Generation:{'INVALID' if invalid else vnnmap.generation}")
    print(f"Size:{len(vnnmap.map)}")
    for number, pnn in enumerate(vnnmap.map):
        print(f"hash:{number} lmaster:{pnn}")
    print(f"Recovery mode:{_mode_name(mode)} ({mode})")
    print(f"Leader:{_pnn_text(leader)}")


def do_nodestatus(tool: Tool, which: str | None = None) -> int:
    nodes = _current(tool, tool.parse_nodes(which))
    online = _partially_online(tool, nodes)
    if tool.options.is_machine:
        _print_table(tool, nodes, online)
    else:
        _print_nodes(tool, nodes, online, with_number=which == "all")
    flags = 0
    for node in nodes:
        if not node.flags & NodeFlag.DELETED:
            flags |= node.flags
    return flags


def do_uptime(tool: Tool, *_ignored: str) -> None:
    uptime: Uptime = tool.ask(Control.UPTIME)

    def line(label: str, moment_s: int) -> None:
        print(f"{label}: ({ago(uptime.now.sec - moment_s)}) {time.ctime(moment_s)}")

    print(f"Current time of node {tool.cmd_pnn:<4}     :                {time.ctime(uptime.now.sec)}")
    line("Ctdbd start time              ", uptime.start.sec)
    line("Time of last recovery/failover", uptime.recovery_end.sec)
    took_s = uptime.recovery_end.time_s - uptime.recovery_start.time_s
    print(f"Duration of last recovery/failover: {took_s:f} seconds")


def do_ping(tool: Tool, *_ignored: str) -> None:
    begin_s = time.monotonic()
    clients = tool.status(Control.PING)
    took_s = time.monotonic() - begin_s
    print(f"response from {tool.cmd_pnn} time={took_s:.6f} sec  ({clients} clients)")


def do_runstate(tool: Tool, *wanted: str) -> int:
    state = RunState(tool.ask(Control.GET_RUNSTATE))
    known = {each.name for each in RunState if each is not RunState.UNKNOWN}
    for name in wanted:
        if name.upper() not in known:
            print(f"Invalid run state ({name})")
            return 1
        if name.upper() == state.name:
            break
    else:
        if wanted:
            print(f"CTDB not in required run state (got {state.name})")
            return 1
    print(state.name)
    return 0


def do_process_exists(tool: Tool, pid_text: str, srvid_text: str = "0") -> int:
    pid, srvid = leading_number(pid_text), parse_number(srvid_text)
    if srvid is None:
        raise Failed(errno.EINVAL)
    srvid &= 0xFFFFFFFFFFFFFFFF
    if srvid:
        status = tool.status(Control.CHECK_PID_SRVID, PidSrvid(pid, srvid))
        what = f"PID {pid} with SRVID 0x{srvid:x}"
    else:
        status = tool.status(Control.PROCESS_EXISTS, pid)
        what = f"PID {pid}"
    print(f"{what} {'does not exist' if status else 'exists'}")
    return 1 if status == -1 else status


def do_getcapabilities(tool: Tool) -> None:
    found = tool.ask(Control.GET_CAPABILITIES)
    roles = {"LEADER": Capability.RECMASTER, "LMASTER": Capability.LMASTER}
    if tool.options.is_machine:
        tool.row(*roles)
        tool.row(*(int(bool(found & role)) for role in roles.values()))
        return
    for name, role in roles.items():
        print(f"{name}: {'YES' if found & role else 'NO'}")


def do_pnn(tool: Tool, *_ignored: str) -> None:
    print(tool.pnn)


def do_leader(tool: Tool, *_ignored: str) -> None:
    print(_pnn_text(_leader(tool)))


def do_getpid(tool: Tool, *_ignored: str) -> None:
    print(tool.status(Control.GET_PID))


def do_dumpmemory(tool: Tool, *_ignored: str) -> None:
    sys.stdout.write(tool.ask(Control.DUMP_MEMORY))


def do_rddumpmemory(tool: Tool, *_ignored: str) -> None:
    srvid = tool.all_nodes.next_srvid()
    tool.connection.listen(srvid)
    tool.connection.message(tool.cmd_pnn, SRVID_MEM_DUMP, SrvidMessage(tool.pnn, srvid).pack())
    answer = None
    while answer is None:
        answer = tool.connection.message_to(srvid, timeout_s=tool.options.timelimit_s)
    sys.stdout.write(answer.data.split(b"\0", 1)[0].decode(errors="replace"))


def do_listnodes(tool: Tool) -> None:
    for node in nodes_file():
        if node.deleted:
            continue
        if tool.options.is_machine:
            tool.row(node.pnn, node.address)
        else:
            print(node.address)


# -- the nodes file ---------------------------------------------------------------------------------


def nodes_path() -> str:
    """Where upstream's program looks for it."""
    return os.path.join(os.environ.get("CTDB_BASE", "/etc/ctdb"), "nodes")


def nodes_file() -> tuple[NodeAddress, ...]:
    """The nodes of the nodes file, or of the cluster file where that is what counts."""
    path = nodes_path()
    try:
        paths = Paths.from_environment(os.environ)
        if not paths.cluster.exists():
            return load_nodes(path)
        # YAML is paid for only where it counts.
        from ctdbpy.config.configuration import load_cluster_nodes

        path = str(paths.cluster)
        return load_cluster_nodes(paths)
    except CtdbpyError:
        raise Failed(1, f'Failed to read nodes file "{path}"') from None


def is_own_address_listed() -> bool:
    """Whether this host has an address of the nodes file."""
    try:
        nodes = nodes_file()
    except Failed as failed:
        warn(failed.text)
        nodes = ()
    for node in nodes:
        family = socket.AF_INET6 if ":" in node.address else socket.AF_INET
        with socket.socket(family) as probe:
            try:
                probe.bind((node.address, 0))
            except OSError:
                continue
        if not node.deleted:
            return True
    warn("Failed to detect PNN of the current node.")
    return False


# -- the table of nodes -----------------------------------------------------------------------------


def _current(tool: Tool, nodes: Sequence[NodeEntry]) -> list[NodeEntry]:
    if tool.ask(Control.GET_RUNSTATE) <= RunState.FIRST_RECOVERY:
        return unknown_yet(nodes, tool.cmd_pnn)
    return list(nodes)


def _partially_online(tool: Tool, nodes: Sequence[NodeEntry]) -> set[int]:
    """Nodes that are well but have an interface without a link. Who does not answer is not asked twice."""
    asked = [node.pnn for node in nodes if not node.flags]
    partial = set()
    for pnn, reply in tool.connection.controls(Control.GET_IFACES, nodes=asked).items():
        if reply.status == 0:
            found: IfaceList = decode_reply(Control.GET_IFACES, reply.data)
            if any(not iface.link_state for iface in found.ifaces):
                partial.add(pnn)
    return partial


def _print_table(tool: Tool, nodes: Sequence[NodeEntry], partial: set[int]) -> None:
    columns = (
        ("Disconnected", NodeFlag.DISCONNECTED),
        ("Unknown", UNKNOWN),
        ("Banned", NodeFlag.BANNED),
        ("Disabled", NodeFlag.PERMANENTLY_DISABLED),
        ("Unhealthy", NodeFlag.UNHEALTHY),
        ("Stopped", NodeFlag.STOPPED),
        ("Inactive", NodeFlag.INACTIVE),
    )
    tool.row("Node", "IP", *(name for name, _flag in columns), "PartiallyOnline", "ThisNode")
    for node in nodes:
        if not node.flags & NodeFlag.DELETED:
            flags = (int(bool(node.flags & flag)) for _name, flag in columns)
            is_this = "Y" if node.pnn == tool.cmd_pnn else "N"
            tool.row(node.pnn, node.address.host, *flags, int(node.pnn in partial), is_this)


def _print_nodes(tool: Tool, nodes: Sequence[NodeEntry], partial: set[int], *, with_number: bool) -> None:
    deleted = sum(bool(node.flags & NodeFlag.DELETED) for node in nodes)
    if with_number:
        print(f"Number of nodes:{len(nodes)}" + (f" (including {deleted} deleted nodes)" if deleted else ""))
    for node in nodes:
        if not node.flags & NodeFlag.DELETED:
            state = "PARTIALLYONLINE" if node.pnn in partial else flags_text(node.flags)
            this = " (THIS NODE)" if node.pnn == tool.cmd_pnn else ""
            print(f"pnn:{node.pnn} {node.address.host:<16} {state}{this}")


def _as_json(
    tool: Tool,
    nodes: Sequence[NodeEntry],
    partial: set[int],
    vnnmap: VnnMap,
    mode: int,
    leader: int | None,
) -> dict[str, Any]:
    shown = [node for node in nodes if not node.flags & NodeFlag.DELETED]
    return {
        "node_status": {
            "node_count": len(nodes),
            "deleted_node_count": len(nodes) - len(shown),
            "nodes": {
                str(node.pnn): {
                    "pnn": node.pnn,
                    "address": node.address.host,
                    "partially_online": node.pnn in partial,
                    "flags_raw": node.flags,
                    "flags_ok": node.flags == 0,
                    "flags": {name: bool(node.flags & flag) for name, flag in _JSON_FLAGS},
                    "this_node": node.pnn == tool.cmd_pnn,
                }
                for node in shown
            },
        },
        "vnn_status": {
            "generation": None if vnnmap.generation == INVALID_GENERATION else vnnmap.generation,
            "size": len(vnnmap.map),
            "vnn_map": [{"hash": number, "lmaster": pnn} for number, pnn in enumerate(vnnmap.map)],
        },
        "recovery_mode": _mode_name(mode),
        "recovery_mode_raw": mode,
        "leader": UNKNOWN_PNN if leader is None else leader,
    }


def _mode_name(mode: int) -> str:
    return "NORMAL" if mode == RecoveryMode.NORMAL else "RECOVERY"


def _leader(tool: Tool) -> int | None:
    return tool.all_nodes.leader(tool.options.timelimit_s)


def _pnn_text(pnn: int | None) -> str:
    return "UNKNOWN" if pnn is None else str(pnn)


def ago(seconds: int) -> str:
    """How long ago, as days and hours, minutes and seconds."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days:03} {hours:02}:{minutes:02}:{seconds:02}"
