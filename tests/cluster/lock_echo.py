# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for a lock manager and its client, for lab hosts.

serve             at port 599 by TCP and UDP: answers with the host's name and the address that it sees
ask ADDRESS [SOURCE]   for each line, "udp" or "tcp": asks there, each time from the same port or over the
                  same connection; tells the answer, "silence", or "reset" (it connects anew then)
apply PNN LOCK PUBLIC NODE…   do a node's part; LOCK may be "-"; only the rules if it begins with "=".
                       Without a NODE the others are unknown
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from ctdbpy.services import nlm_forwarding
from ctdbpy.services.nlm_forwarding import Forwarding

PORT = 599
_LIMIT_S = 0.5
#: Linux' number; what it carries: interface, address to send from, address that was asked.
_IP_PKTINFO = 8


def serve() -> None:
    """Answer for ever."""
    name = os.uname().nodename
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    datagrams.bind(("0.0.0.0", PORT))
    listener = socket.create_server(("0.0.0.0", PORT))

    def talk(connection: socket.socket, sender: str) -> None:
        while connection.recv(100):
            connection.sendall(f"{name} {sender}".encode())

    def accept() -> None:
        while True:
            connection, sender = listener.accept()
            threading.Thread(target=talk, args=(connection, sender[0]), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    while True:
        _message, ancillary, _flags, sender = datagrams.recvmsg(100, 100)
        asked = next(data[8:12] for _level, kind, data in ancillary if kind == _IP_PKTINFO)
        # As servers do: the answer comes from the address that was asked.
        place = [(socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + asked + bytes(4))]
        datagrams.sendmsg([f"{name} {sender[0]}".encode()], place, 0, sender)


def ask(address: str, source: str = "") -> None:
    """Ask as the lines say."""
    kinds = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
    open_: dict[str, socket.socket] = {}
    _tell("ready")
    for line in sys.stdin:
        protocol = line.strip()
        try:
            if protocol not in open_:
                made = socket.socket(socket.AF_INET, kinds[protocol])
                made.settimeout(_LIMIT_S)
                made.bind((source, 0))
                made.connect((address, PORT))
                open_[protocol] = made
            open_[protocol].send(b"?")
            # Connected, so only what comes from the address that was asked counts.
            answer = open_[protocol].recv(100).decode() or "reset"
        except TimeoutError:
            answer = "silence"
        except ConnectionError:
            answer = "reset"
        if answer == "reset":
            open_.pop(protocol).close()
        _tell(answer)


def _tell(line: str) -> None:
    """Its input is a socket, and the way back as well."""
    os.write(0, f"{line}\n".encode())


def apply(pnn: str, lock_node: str, public: str, *nodes: str) -> None:
    """Do a node's part."""
    number = lock_node.removeprefix("=")
    wanted = Forwarding(
        int(pnn), dict(enumerate(nodes)), None if number == "-" else int(number), (public,), (PORT,)
    )
    if number != lock_node:
        # What the module does, without its last step.
        nlm_forwarding.replace_rules(wanted)
    else:
        nlm_forwarding.apply(wanted)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["ask", *addresses]:
            ask(*addresses)
        case ["apply", pnn, lock_node, public, *nodes]:
            apply(pnn, lock_node, public, *nodes)
