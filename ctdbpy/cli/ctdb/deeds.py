# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` that change nodes or have the cluster do something."""

from __future__ import annotations

import errno
from contextlib import suppress

from ctdbpy.cli.ctdb.nodes import nodes_file
from ctdbpy.cli.ctdb.tool import Failed, Tool, parse_number, warn
from ctdbpy.client.connection import NoDaemon, TimeUp
from ctdbpy.client.nodes import connected
from ctdbpy.config.nodes import NodeAddress
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_DISABLE_RECOVERIES
from ctdbpy.wire.structures import BanState, NodeMap


def do_disable(tool: Tool) -> None:
    _set(tool, Control.DISABLE_NODE, NodeFlag.PERMANENTLY_DISABLED, "disabled", "disable node")


def do_enable(tool: Tool) -> None:
    _clear(tool, Control.ENABLE_NODE, NodeFlag.PERMANENTLY_DISABLED, "disabled", "enable node")


def do_stop(tool: Tool) -> None:
    _set(tool, Control.STOP_NODE, NodeFlag.STOPPED, "stopped", "stop node")


def do_continue(tool: Tool) -> None:
    _clear(tool, Control.CONTINUE_NODE, NodeFlag.STOPPED, "stopped", "continue stopped node")


def do_ban(tool: Tool, text: str) -> None:
    if _wears(tool, NodeFlag.BANNED):
        warn(f"Node {tool.cmd_pnn} is already banned")
        return
    seconds = parse_number(text)
    if seconds is None:
        raise Failed(errno.EINVAL)
    if seconds & 0xFFFFFFFF == 0:
        raise Failed(errno.EINVAL, "Ban time cannot be zero")
    ban = BanState(tool.cmd_pnn, seconds & 0xFFFFFFFF)
    _set(tool, Control.SET_BAN_STATE, NodeFlag.BANNED, "banned", "ban node", ban)


def do_unban(tool: Tool) -> None:
    ban = BanState(tool.cmd_pnn, 0)
    _clear(tool, Control.SET_BAN_STATE, NodeFlag.BANNED, "banned", "unban node", ban)


def do_shutdown(tool: Tool) -> None:
    is_here = tool.cmd_pnn == tool.pnn
    # Nobody answers: that the connection ends is the answer, and only this node's does.
    tool.connection.tell(Control.SHUTDOWN, destnode=tool.cmd_pnn)
    if is_here:
        with suppress(NoDaemon):
            while True:
                with suppress(TimeUp):
                    tool.connection.receive()


def do_recover(tool: Tool) -> None:
    with tool.saying("Failed to set recovery mode active"):
        tool.all_nodes.recover(tool.cmd_pnn)


def do_ipreallocate(tool: Tool) -> None:
    tool.all_nodes.take_over()


do_sync = do_ipreallocate


# -- flags ------------------------------------------------------------------------------------------


def _wears(tool: Tool, flag: NodeFlag) -> bool:
    return bool(tool.find_node(tool.cmd_pnn).flags & flag)


def _set(tool: Tool, opcode: Control, flag: NodeFlag, state: str, verb: str, value: object = None) -> None:
    if _wears(tool, flag):
        warn(f"Node {tool.cmd_pnn} is already {state}")
        return
    _change(tool, opcode, flag, verb, value, are_set=True)


def _clear(tool: Tool, opcode: Control, flag: NodeFlag, state: str, verb: str, value: object = None) -> None:
    if not _wears(tool, flag):
        warn(f"Node {tool.cmd_pnn} is not {state}")
        return
    _change(tool, opcode, flag, verb, value, are_set=False)


def _change(tool: Tool, opcode: Control, flag: NodeFlag, verb: str, value: object, *, are_set: bool) -> None:
    with tool.saying(f"Failed to {verb} {tool.cmd_pnn}"):
        tool.ask(opcode, value)
    tool.all_nodes.wait_for_flags(tool.cmd_pnn, flag, are_set=are_set)
    tool.all_nodes.take_over()


# -- the nodes file ---------------------------------------------------------------------------------


def do_reloadnodes(tool: Tool, *_ignored: str) -> int:
    wanted = nodes_file()
    for node in tool.nodes:
        if node.flags & NodeFlag.DISCONNECTED:
            continue
        with tool.saying(f"ERROR: Failed to get nodes file from node {node.pnn}"):
            theirs: NodeMap = tool.ask(Control.GET_NODES_FILE, pnn=node.pnn)
        if not _are_same(wanted, theirs):
            raise Failed(1, f"ERROR: Nodes file on node {node.pnn} differs from current node ({tool.pnn})")
    if not _look_at_changes(tool, wanted):
        warn("No change in nodes file, skipping unnecessary reload")
        return 0
    reachable = connected(tool.nodes)
    with tool.saying("Failed to disable recoveries"):
        tool.all_nodes.hold_up(SRVID_DISABLE_RECOVERIES, reachable, 2 * tool.options.timelimit_s)
    replies = tool.connection.controls(Control.RELOAD_NODES_FILE, nodes=reachable)
    failed = [pnn for pnn in reachable if pnn not in replies or replies[pnn].status != 0]
    for pnn in failed:
        warn(f"Node {pnn} failed to reload nodes")
    if failed:
        warn("You MUST fix failed nodes manually!")
    with tool.saying("Failed to enable recoveries"):
        tool.all_nodes.hold_up(SRVID_DISABLE_RECOVERIES, reachable, 0)
    return 0


def _are_same(wanted: tuple[NodeAddress, ...], theirs: NodeMap) -> bool:
    return [(node.pnn, node.deleted, node.address) for node in wanted] == [
        (node.pnn, bool(node.flags & NodeFlag.DELETED), node.address.host) for node in theirs.nodes
    ]


def _look_at_changes(tool: Tool, wanted: tuple[NodeAddress, ...]) -> bool:
    """Print what the file changes; whether anything. Raises Failed when it cannot be followed."""
    is_changed = False
    is_wrong = False
    for node in tool.nodes:
        if node.pnn >= len(wanted):
            warn(f"Node {node.pnn} ({node.address.host}) missing from nodes file")
            is_wrong = True
            continue
        new = wanted[node.pnn]
        was_deleted, is_gone = node.flags & NodeFlag.DELETED, node.flags & NodeFlag.DISCONNECTED
        if not was_deleted and not new.deleted:
            if node.address.host != new.address:
                was, now = node.address.host, new.address
                warn(f"Node {node.pnn} has changed IP address (was {was}, now {now})")
                is_wrong = True
            elif is_gone:
                warn(f"WARNING: Node {node.pnn} is disconnected. You MUST fix this node manually!")
        elif new.deleted and not was_deleted:
            print(f"Node {node.pnn} is DELETED")
            is_changed = True
            if not is_gone:
                warn(f"ERROR: Node {node.pnn} is still connected")
                is_wrong = True
        elif was_deleted and not new.deleted:
            print(f"Node {node.pnn} is UNDELETED")
            is_changed = True
    if is_wrong:
        raise Failed(1, "ERROR: Nodes will not be reloaded due to previous error")
    for new in wanted[len(tool.nodes) :]:
        print(f"Node {new.pnn} is NEW")
        is_changed = True
    return is_changed
