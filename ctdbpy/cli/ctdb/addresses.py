# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` about public addresses and their interfaces."""

from __future__ import annotations

from dataclasses import replace

from ctdbpy.cli.ctdb.tool import BadUsage, Failed, Tool, code_of, parse_number, warn
from ctdbpy.client import addresses
from ctdbpy.client.connection import Refused
from ctdbpy.client.nodes import active
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import UNKNOWN_PNN
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import AddrInfo, Iface, IfaceList, PublicIp, PublicIpInfo, SockAddr


def do_ip(tool: Tool, which: str | None = None) -> None:
    if which not in (None, "all"):
        raise BadUsage
    if which == "all":
        nodes = active(tool.nodes)
        ips = addresses.all_addresses(tool.connection, nodes, tool.options.timelimit_s)
    else:
        ips = addresses.addresses_of(tool.connection, tool.cmd_pnn)
    is_verbose = tool.options.is_verbose
    if tool.options.is_machine:
        more = ("ActiveInterfaces", "AvailableInterfaces", "ConfiguredInterfaces") if is_verbose else ()
        tool.row("Public IP", "Node", *more)
    else:
        print("Public IPs on ALL nodes" if which == "all" else f"Public IPs on node {tool.cmd_pnn}")
    for ip in ips:
        where = -1 if ip.pnn == UNKNOWN_PNN else ip.pnn
        asked = ip.pnn if which == "all" else tool.cmd_pnn
        if not is_verbose:
            if tool.options.is_machine:
                tool.row(ip.address.host, where)
            else:
                print(f"{ip.address.host} {where}")
            continue
        here, available, configured = _ifaces(tool, ip, asked)
        if tool.options.is_machine:
            tool.row(ip.address.host, where, here, available, configured)
        else:
            text = f"active[{here}] available[{available}] configured[{configured}]"
            print(f"{ip.address.host} node[{where}] {text}")


def do_ipinfo(tool: Tool, text: str) -> int:
    address = _address(text)
    try:
        info: PublicIpInfo = tool.ask(Control.GET_PUBLIC_IP_INFO, address)
    except Refused as error:
        if error.status == -1:
            print(f"Node {tool.cmd_pnn} does not know about IP {text}")
        return code_of(error)
    print(f"Public IP[{info.ip.address.host}] info on node {tool.cmd_pnn}")
    print(f"IP:{info.ip.address.host}\nCurrentNode:{info.ip.pnn}\nNumInterfaces:{len(info.ifaces)}")
    for number, iface in enumerate(info.ifaces):
        is_active = " (active)" if number == info.active_idx else ""
        link = "up" if iface.link_state else "down"
        print(
            f"Interface[{number + 1}]: Name:{iface.name} Link:{link} References:{iface.references}{is_active}"
        )
    return 0


def do_ifaces(tool: Tool) -> None:
    found: IfaceList = tool.ask(Control.GET_IFACES)
    if not found.ifaces:
        print(f"No interfaces configured on node {tool.cmd_pnn}")
        return
    if tool.options.is_machine:
        tool.row("Name", "LinkStatus", "References")
    else:
        print(f"Interfaces on node {tool.cmd_pnn}")
    for iface in found.ifaces:
        if tool.options.is_machine:
            tool.row(iface.name, iface.link_state, iface.references)
        else:
            link = "up" if iface.link_state else "down"
            print(f"name:{iface.name} link:{link} references:{iface.references}")


def do_setifacelink(tool: Tool, name: str, state: str) -> None:
    if len(name) >= Iface.NAME_SIZE - 2:
        raise Failed(1, f"Interface name '{name}' too long")
    with tool.saying(f"Failed to get interface information from node {tool.cmd_pnn}"):
        found: IfaceList = tool.ask(Control.GET_IFACES)
    for iface in found.ifaces:
        if iface.name == name:
            break
    else:
        print(f"Interface {name} not configured on node {tool.cmd_pnn}")
        raise Failed(1)
    if state not in ("up", "down"):
        raise BadUsage
    tool.ask(Control.SET_IFACE_LINK_STATE, replace(iface, link_state=int(state == "up"), references=0))


def do_gratarp(tool: Tool, text: str, iface: str) -> None:
    with tool.saying(f"Unable to send gratuitous arp from node {tool.cmd_pnn}"):
        tool.ask(Control.SEND_GRATUITOUS_ARP, AddrInfo(_address(text), 0, iface))


def do_moveip(tool: Tool, text: str, pnn_text: str) -> None:
    address = _address(text)
    pnn = parse_number(pnn_text) if pnn_text.lstrip("+").isdigit() else None
    if pnn is None or pnn >= UNKNOWN_PNN:
        raise Failed(1, f"Invalid PNN {pnn_text}")
    with tool.saying(f"Failed to move IP {text} to node {pnn}"):
        addresses.keep_trying(
            tool.connection,
            lambda: addresses.move(tool.all_nodes, address, pnn),
            lambda error: warn(f"ctdb: {error}"),
        )


def do_addip(tool: Tool, text: str, iface: str) -> None:
    try:
        address, bits = addresses.parse_network(text)
    except ClientError:
        raise Failed(1, f"Invalid IP/Mask {text}") from None
    _check_list(tool)
    with tool.saying(f"Failed to add public IP to node {tool.cmd_pnn}. Giving up"):
        if not addresses.add(tool.connection, tool.cmd_pnn, address, bits, iface):
            warn(f"Node already knows about IP {address.host}")


def do_delip(tool: Tool, text: str) -> None:
    address = _address(text)
    _check_list(tool)
    with tool.saying(f"Failed to delete public IP from node {tool.cmd_pnn}"):
        if not addresses.delete(tool.connection, tool.cmd_pnn, address):
            warn(f"Node does not know about IP address {address.host}")


def do_reloadips(tool: Tool, which: str | None = None) -> None:
    nodes = active(tool.parse_nodes(which))
    if not nodes:
        raise Failed(1, "None of these nodes takes part in the cluster")
    addresses.reload(tool.all_nodes, nodes)


def _check_list(tool: Tool) -> None:
    with tool.saying(f"Failed to get Public IPs from node {tool.cmd_pnn}", code=1):
        addresses.addresses_of(tool.connection, tool.cmd_pnn)


def _ifaces(tool: Tool, ip: PublicIp, pnn: int) -> tuple[str, str, str]:
    """The interface that carries an address, those with a link, and all it may be on."""
    if pnn == UNKNOWN_PNN:
        return "", "", ""
    info: PublicIpInfo = tool.ask(Control.GET_PUBLIC_IP_INFO, ip.address.without_port(), pnn=pnn)
    here = info.ifaces[info.active_idx].name if info.active_idx < len(info.ifaces) else ""
    available = ",".join(iface.name for iface in info.ifaces if iface.link_state)
    return here, available, ",".join(iface.name for iface in info.ifaces)


def _address(text: str) -> SockAddr:
    try:
        return addresses.parse_address(text)
    except ClientError:
        raise Failed(1, f"Invalid IP address {text}") from None
