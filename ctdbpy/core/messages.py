# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools and other nodes ask for by message instead of a control.

Upstream sends these to a recovery process of its own; here the node itself listens.

Source: reference/ctdb.md 5.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.rooms import Rooms
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import I32, U32, Codec, StructureCodec
from ctdbpy.wire.constants import BROADCAST_CONNECTED
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import (
    SRVID_BANNING,
    SRVID_DISABLE_IP_CHECK,
    SRVID_DISABLE_RECOVERIES,
    SRVID_DISABLE_TAKEOVER_RUNS,
    SRVID_MEM_DUMP,
    SRVID_PUSH_NODE_FLAGS,
    SRVID_REBALANCE_NODE,
    SRVID_RECOVERY_WANTED,
    SRVID_RELOAD_NODES,
    SRVID_TAKEOVER_RUN,
)
from ctdbpy.wire.structures import DisableMessage, NodeFlagChange, SrvidMessage

#: The answer while a recovery is under way: -EAGAIN.
_AGAIN: Final = -11


def listen(rooms: Rooms) -> None:
    """Take these messages from now on."""
    rooms.state.listen(SRVID_RECOVERY_WANTED, lambda pnn, _words: rooms.watch.wanted_elsewhere(pnn))
    for srvid, (codec, act) in _TABLE.items():
        rooms.state.listen(srvid, _decoding(rooms, srvid, codec, act))


def _decoding(
    rooms: Rooms, srvid: int, codec: Codec[Any] | None, act: Callable[[Rooms, Any], None]
) -> Callable[[int, bytes], None]:
    def arrived(pnn: int, data: bytes) -> None:
        try:
            value = None if codec is None else codec.unpack(data)
        except ProtocolError as reason:
            rooms.state.log(LogLevel.WARNING, f"message {srvid:#x} of node {pnn} dropped: {reason}")
            return
        act(rooms, value)

    return arrived


def _banning(rooms: Rooms, pnn: int) -> None:
    """Whoever runs a takeover has found the node that spoils it."""
    if rooms.state.is_leader:
        rooms.bans.blame(pnn, rooms.bans.many, "a takeover run failed on it")


def _takeover_run(rooms: Rooms, message: SrvidMessage) -> None:
    rooms.takeovers.request(message)


def _disable_takeover_runs(rooms: Rooms, message: DisableMessage) -> None:
    rooms.takeovers.disable(message.timeout_s)
    _answer(rooms, message, rooms.state.pnn)


def _disable_recoveries(rooms: Rooms, message: DisableMessage) -> None:
    done = rooms.watch.disable_recoveries(message.timeout_s)
    _answer(rooms, message, rooms.state.pnn if done else _AGAIN)


def _disable_ip_check(rooms: Rooms, seconds: int) -> None:
    rooms.takeovers.disable(seconds, softly=True)


def _memory_dump(rooms: Rooms, message: SrvidMessage) -> None:
    rooms.state.send_message(message.pnn, message.srvid, rooms.memory().text.encode() + b"\0")


def _push_flags(rooms: Rooms, change: NodeFlagChange) -> None:
    """Somebody changed a node's flags and wants everybody to know."""
    node = rooms.state.peer(change.pnn)
    if node is None:
        return
    if change.pnn == rooms.state.pnn:
        change = NodeFlagChange(change.pnn, int(node.flags), change.old_flags)
    rooms.routing.tell(BROADCAST_CONNECTED, Control.MODIFY_FLAGS, change.pack())


def _reload_nodes(rooms: Rooms, _nothing: None) -> None:
    rooms.routing.tell(rooms.state.pnn, Control.RELOAD_NODES_FILE)


def _rebalance(rooms: Rooms, pnn: int) -> None:
    """New addresses of a node are to be used: a run puts them to use."""
    if rooms.state.peer(pnn) is not None:
        rooms.takeovers.rebalance(pnn)


def _answer(rooms: Rooms, message: DisableMessage, result: int) -> None:
    if message.srvid:
        rooms.state.send_message(message.pnn, message.srvid, I32.pack(result))


_TABLE: Final[dict[int, tuple[Codec[Any] | None, Callable[[Rooms, Any], None]]]] = {
    SRVID_BANNING: (U32, _banning),
    SRVID_TAKEOVER_RUN: (StructureCodec[Any](SrvidMessage), _takeover_run),
    SRVID_DISABLE_TAKEOVER_RUNS: (StructureCodec[Any](DisableMessage), _disable_takeover_runs),
    SRVID_DISABLE_RECOVERIES: (StructureCodec[Any](DisableMessage), _disable_recoveries),
    SRVID_DISABLE_IP_CHECK: (U32, _disable_ip_check),
    SRVID_MEM_DUMP: (StructureCodec[Any](SrvidMessage), _memory_dump),
    SRVID_PUSH_NODE_FLAGS: (StructureCodec[Any](NodeFlagChange), _push_flags),
    SRVID_RELOAD_NODES: (None, _reload_nodes),
    SRVID_REBALANCE_NODE: (U32, _rebalance),
}
