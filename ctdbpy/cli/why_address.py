# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl why ADDRESS`: where a public address is, who has decided that, and why."""

from __future__ import annotations

from typing import Any, Final

from ctdbpy.cli.session import Session
from ctdbpy.cli.why import local, moment
from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag, flag_names
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.structures import NodeMap, Placements, PublicIp, PublicIpInfo, Reason, SockAddr

#: So many addresses are named if the one that is asked about is unknown.
NAMES_MAX: Final = 10

_Answer = dict[str, Any]


def explain_address(session: Session, address: str) -> None:
    """Print it. The daemon of this node knows: no other is asked. Raises ClientError."""
    with session.connect() as connection:
        known = {ip.address.host: ip for ip in connection.ask(Control.GET_PUBLIC_IPS).ips}
        if address not in known:
            names = ", ".join(sorted(known)[:NAMES_MAX]) or "none"
            more = f" and {len(known) - NAMES_MAX} more" if len(known) > NAMES_MAX else ""
            raise ClientError(
                f"cannot ask about {address}: it is no public address of this node; it has {names}{more}"
            )
        nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
        reason = _reason(connection, address)
        answer = _answer(connection, known[address], nodemap, reason)
    session.show(answer, _text)


def _reason(connection: Connection, address: str) -> Reason | None:
    reply = connection.control(Control.GET_PLACEMENTS, SockAddr(address))
    if reply.status != 0:
        return None
    placements: Placements = decode_reply(Control.GET_PLACEMENTS, reply.data)
    return next((each.reason for each in placements.entries), None)


def _answer(connection: Connection, ip: PublicIp, nodemap: NodeMap, reason: Reason | None) -> _Answer:
    nodes = {node.pnn: node for node in nodemap.nodes}
    node = nodes.get(ip.pnn)
    answer: _Answer = {
        "address": ip.address.host,
        "pnn": None if node is None else node.pnn,
        "node_address": None if node is None else node.address.host,
        "this_node": ip.pnn == connection.pnn,
        "interface": None,
        "decision": None,
        "unfit_nodes": [
            {"pnn": each.pnn, "state": flag_names(NodeFlag(each.flags))}
            for each in nodemap.nodes
            if each.flags and not each.flags & NodeFlag.DELETED
        ],
    }
    if ip.pnn == connection.pnn:
        info: PublicIpInfo = connection.ask(Control.GET_PUBLIC_IP_INFO, ip.address)
        if info.active_idx < len(info.ifaces):
            answer["interface"] = info.ifaces[info.active_idx].name
    if reason is not None:
        answer["decision"] = {
            "pnn": None if reason.pnn == UNKNOWN_PNN else reason.pnn,
            "time": moment(reason.wall_us),
            "told_by": reason.source,
            "reason": reason.text,
        }
    return answer


def _text(answer: _Answer) -> str:
    where = "nowhere"
    if answer["pnn"] is not None:
        here = " (this node)" if answer["this_node"] else ""
        interface = f", interface {answer['interface']}" if answer["interface"] else ""
        where = f"on node {answer['pnn']} {answer['node_address']}{here}{interface}"
    lines = [f"{answer['address']}: {where}"]
    decision = answer["decision"]
    if decision is None:
        lines.append("    nobody has said why")
    else:
        to = "nowhere" if decision["pnn"] is None else f"on node {decision['pnn']}"
        goes = "" if decision["pnn"] == answer["pnn"] else f"should be {to} "
        since = f"{goes}since {local(decision['time'])}"
        lines.append(f"    {since}: {decision['reason']} [node {decision['told_by']} says]")
    lines += [f"    node {each['pnn']} serves none: {each['state']}" for each in answer["unfit_nodes"]]
    return "".join(f"{line}\n" for line in lines)
