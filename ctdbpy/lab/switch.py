# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's switch: process 1 of the lab, holds the two bridges and every host's power and cables.

It lives in namespaces of its own, so nothing of the lab touches the machine's network or mounts, and when it
is killed the kernel ends every host with it. It serves one JSON request per connection on the lab's control
socket; a request it cannot do is answered with `{"error": ...}`. Nodes reach it too, as they would a managed
power strip: `power` says what they may ask.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ctdbpy.errors import LabError
from ctdbpy.lab import disks, kernel, power
from ctdbpy.lab.places import Place

SIDES = ("private", "public")
_CABLE = {"private": "priv", "public": "pub"}
_NET = {"private": "10.77.0", "public": "10.78.0"}
_CLIENT_FIRST = 101
_NODES_MAX = 100
_CLIENTS_MAX = 50
_BOOT_LIMIT_S = 20.0
_COMMAND_LIMIT_S = 10.0
_FREEZE_LIMIT_S = 5.0
_REQUEST_BYTES_MAX = 1 << 16
_NOBODYS_CARD = "02:00:00:ff:ff:ff"
_HOST_NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
)


@dataclass(slots=True)
class Host:
    """One host as the switch sees it; `pid` is its process 1 while it has power."""

    name: str
    number: int
    is_node: bool
    pid: int | None = None
    is_frozen: bool = False
    cuts: dict[str, str] = field(default_factory=dict)
    #: (side, address) of each peer that hears nothing from this host.
    silenced: set[tuple[str, str]] = field(default_factory=set)

    @property
    def sides(self) -> tuple[str, ...]:
        return SIDES if self.is_node else ("public",)

    def address(self, side: str) -> str:
        """Nodes count from .1 on both sides, clients from .101 on the public side."""
        return f"{_NET[side]}.{self.number + (1 if self.is_node else _CLIENT_FIRST)}"

    def port(self, side: str) -> str:
        """The cable's end at the switch."""
        return f"{self.name}-{_CABLE[side]}"

    def interface(self, side: str) -> str:
        """The cable's end in the host."""
        return f"{_CABLE[side]}0"


def hosts_of(nodes: int, clients: int) -> dict[str, Host]:
    """The hosts of a lab by name: n0, n1 … and c0, c1 …"""
    if not 0 <= nodes <= _NODES_MAX or not 0 <= clients <= _CLIENTS_MAX or nodes + clients == 0:
        raise LabError(
            f"cannot build a lab of {nodes} nodes and {clients} clients: "
            f"give 0 to {_NODES_MAX} nodes and 0 to {_CLIENTS_MAX} clients, and at least one host"
        )
    named = [Host(f"n{number}", number, True) for number in range(nodes)]
    named += [Host(f"c{number}", number, False) for number in range(clients)]
    return {host.name: host for host in named}


class Switch:
    """Power and cables of every host of one lab."""

    def __init__(self, place: Place, hosts: dict[str, Host]) -> None:
        self._place = place
        self._hosts = hosts
        self._is_up = True
        self._deeds: dict[str, Callable[[dict[str, str]], object]] = {
            "status": lambda _request: self.status(),
            "power-on": lambda request: self.power_on([self._host(request)]),
            "power-off": lambda request: self.power_off(self._host(request)),
            "cut": lambda request: self.cut(self._host(request), request["side"], request["manner"]),
            "silence": lambda request: self.silence(
                self._host(request), self._host({"host": request["peer"]}), request["side"]
            ),
            "mend": lambda request: self.mend(self._host(request)),
            "freeze": lambda request: self.freeze(self._host(request)),
            "thaw": lambda request: self.thaw(self._host(request)),
            "down": lambda _request: self.down(),
        }

    def build(self) -> None:
        """Set up the bridges and the hosts' disks, and switch every host on."""
        kernel.mount("proc", "/proc", "proc")
        lines = ["link set lo up"]
        for side in SIDES:
            lines += [f"link add {side} type bridge mcast_snooping 0", f"link set {side} up"]
        _ip(lines)
        addresses: dict[str, str] = {}
        for host in self._hosts.values():
            addresses[host.name] = host.address(host.sides[0])
            addresses[f"{host.name}-pub"] = host.address("public")
        for host in self._hosts.values():
            disks.prepare(self._place, host.name, addresses)
        self.power_on(list(self._hosts.values()))

    def serve(self, control: socket.socket, strip: socket.socket) -> None:
        """Answer requests until told to go down; what comes by `strip` is from nodes."""
        wakeup, wakeup_write = socket.socketpair()
        wakeup.setblocking(False)
        wakeup_write.setblocking(False)
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        with selectors.DefaultSelector() as selector:
            for listener, answer in ((control, self._answer), (strip, self._answer_node)):
                welcome = partial(self._welcome, selector, answer)
                selector.register(listener, selectors.EVENT_READ, welcome)
            selector.register(wakeup, selectors.EVENT_READ, lambda _wakeup: wakeup.recv(4096))
            while self._is_up:
                for key, _events in selector.select():
                    key.data(key.fileobj)
                    self._reap()

    # --- power ------------------------------------------------------------------------------------

    def power_on(self, hosts: list[Host]) -> None:
        """Boot hosts side by side; raises `LabError` with the first reason why one did not come up."""
        booting: list[tuple[Host, int]] = []
        for host in hosts:
            if host.pid is not None:
                raise LabError(f"cannot power on '{host.name}': it has power")
            ready = self._boot(host)
            booting.append((host, ready))
        for host, _ready in booting:
            self._plug_in(host)
        for host, ready in booting:
            report = _read_report(ready)
            if report != "ok":
                raise LabError(f"cannot power on '{host.name}': {report}")

    def power_off(self, host: Host) -> None:
        """Take the power: every process of the host ends at once, and its peers hear nothing of it."""
        pid = self._pid(host)
        # Cables first: the kernel closes a killed process's sockets politely; a dead machine does not.
        # They may be gone already, from an attempt that got no further.
        _ip([f"link delete {host.port(side)}" for side in host.sides], keep_going=True)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        host.pid = None
        host.is_frozen = False

    def freeze(self, host: Host) -> None:
        """Stop every process where it stands; the host's kernel still answers pings and acknowledges TCP."""
        pid = self._pid(host)
        deadline_s = time.monotonic() + _FREEZE_LIMIT_S
        # Process 1 first, so that no new command starts; the others may fork until they are all stopped.
        os.kill(pid, signal.SIGSTOP)
        told: set[int] = set()
        while running := [other for other, state in _processes(pid) if not _stands(state, other in told)]:
            if time.monotonic() > deadline_s:
                raise LabError(f"cannot freeze '{host.name}': processes {running} still run")
            for other in running:
                _signal(other, signal.SIGSTOP)
                told.add(other)
            time.sleep(0.001)
        host.is_frozen = True

    def thaw(self, host: Host) -> None:
        """Let every process of the host go on."""
        for other, _state in _processes(self._pid(host)):
            _signal(other, signal.SIGCONT)
        host.is_frozen = False

    # --- cables -----------------------------------------------------------------------------------

    def cut(self, host: Host, side: str, manner: str) -> None:
        """Cut a cable; `manner` is "pulled" (the host sees no carrier) or "silent" (packets just vanish)."""
        if manner not in ("pulled", "silent"):
            raise LabError(f"cannot cut '{host.name}' in manner '{manner}': give 'pulled' or 'silent'")
        for each in self._sides(host, side):
            host.cuts[each] = manner
        if host.pid is not None:
            self._set_cables(host)

    def silence(self, host: Host, peer: Host, side: str) -> None:
        """Let what a host sends to one peer vanish; it still hears the peer, and all others hear it."""
        for each in self._sides(host, side):
            if each in peer.sides:
                host.silenced.add((each, peer.address(each)))
        if host.pid is not None:
            self._set_neighbours(host)

    def mend(self, host: Host) -> None:
        """Connect all of a host's cables again, and let everybody hear it."""
        host.cuts.clear()
        if host.pid is not None:
            self._set_cables(host)
            # Without the entry the next packet asks for the true one.
            lines = [f"neigh del {address} dev {host.interface(side)}" for side, address in host.silenced]
            _ip(lines, into=host.pid, keep_going=True)
        host.silenced.clear()

    def _set_neighbours(self, host: Host) -> None:
        """A card that nobody has takes what must not arrive; answers to ARP requests do not go this way."""
        lines = [
            f"neigh replace {address} lladdr {_NOBODYS_CARD} dev {host.interface(side)} nud permanent"
            for side, address in host.silenced
        ]
        if lines:
            _ip(lines, into=host.pid)

    def _sides(self, host: Host, side: str) -> tuple[str, ...]:
        if side == "all":
            return host.sides
        if side not in host.sides:
            raise LabError(
                f"cannot cut '{host.name}' on side '{side}': give one of {', '.join(host.sides)}, all"
            )
        return (side,)

    def _set_cables(self, host: Host) -> None:
        lines = []
        for side in host.sides:
            manner = host.cuts.get(side)
            lines.append(
                f"link set {host.port(side)} {'nomaster' if manner == 'silent' else f'master {side}'}"
            )
            lines.append(f"link set {host.port(side)} {'down' if manner == 'pulled' else 'up'}")
        _ip(lines)

    # --- the rest ---------------------------------------------------------------------------------

    def status(self) -> list[dict[str, object]]:
        """One row per host."""
        return [
            {
                "name": host.name,
                "power": "off" if host.pid is None else "frozen" if host.is_frozen else "on",
                "addresses": {side: host.address(side) for side in host.sides},
                "cuts": dict(host.cuts),
                "silenced": sorted(host.silenced),
                "processes": 0 if host.pid is None else len(_processes(host.pid)),
            }
            for host in self._hosts.values()
        ]

    def down(self) -> None:
        """End the lab: the kernel kills every host once this process is gone."""
        self._is_up = False

    def _welcome(
        self, selector: selectors.BaseSelector, answer: Callable[[bytes], bytes], listener: socket.socket
    ) -> None:
        caller, _address = listener.accept()
        caller.settimeout(_COMMAND_LIMIT_S)
        # Not read at once: a host may freeze, or lose its power, before its program has asked.
        selector.register(caller, selectors.EVENT_READ, partial(self._hear, selector, answer))

    @staticmethod
    def _hear(
        selector: selectors.BaseSelector, answer: Callable[[bytes], bytes], caller: socket.socket
    ) -> None:
        selector.unregister(caller)
        with caller:
            try:
                message = caller.recv(_REQUEST_BYTES_MAX)
                if message:
                    caller.send(answer(message))
            except OSError:
                pass  # The caller did not wait; the deed is done all the same.

    def _answer(self, message: bytes) -> bytes:
        try:
            request = json.loads(message)
            deed = self._deeds.get(request["deed"])
            if deed is None:
                raise LabError(f"cannot do '{request['deed']}': the switch knows {', '.join(self._deeds)}")
            answer: dict[str, object] = {"result": deed(request)}
        except (LabError, OSError) as error:
            answer = {"error": str(error)}
        return json.dumps(answer).encode()

    def _answer_node(self, message: bytes) -> bytes:
        """What a node's `power` asks, "off 10.77.0.2", with what is so now, "off", or the reason why not."""
        deed, _blank, address = message.decode(errors="replace").partition(" ")
        host = next(
            (each for each in self._hosts.values() if each.is_node and each.address("private") == address),
            None,
        )
        if host is None:
            return f"no node has the private address '{address}'".encode()
        try:
            if deed == "off" and host.pid is not None:
                self.power_off(host)
            elif deed == "on" and host.pid is None:
                self.power_on([host])
        except (LabError, OSError) as error:
            return str(error).encode()[: power.MESSAGE_BYTES_MAX]
        return b"off" if host.pid is None else b"on"

    def _reap(self) -> None:
        for host in self._hosts.values():
            if host.pid is not None and os.waitpid(host.pid, os.WNOHANG) != (0, 0):
                # Somebody killed its process 1; what is left of its cables must not stop the next boot.
                host.pid = None
                host.is_frozen = False
                _ip([f"link delete {host.port(side)}" for side in host.sides], keep_going=True)

    def _host(self, request: dict[str, str]) -> Host:
        host = self._hosts.get(request["host"])
        if host is None:
            raise LabError(f"cannot find host '{request['host']}': the lab has {', '.join(self._hosts)}")
        return host

    def _pid(self, host: Host) -> int:
        if host.pid is None:
            raise LabError(f"cannot reach '{host.name}': it has no power")
        return host.pid

    def _boot(self, host: Host) -> int:
        """Start the host's process 1 in namespaces of its own; returns the pipe on which it reports."""
        console = self._place.console(host.name)
        console.unlink(missing_ok=True)
        ready_read, ready_write = os.pipe()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(str(console))
                listener.listen(64)
                argv = [
                    sys.executable,
                    "-m",
                    "ctdbpy.lab.machine",
                    self._place.name,
                    str(self._place.root),
                    host.name,
                    str(listener.fileno()),
                    str(ready_write),
                    "node" if host.is_node else "client",
                ]
                host.pid = _fork_apart(argv, (listener.fileno(), ready_write))
        finally:
            os.close(ready_write)
        return ready_read

    def _plug_in(self, host: Host) -> None:
        pid = self._pid(host)
        outside = []
        inside = ["link set lo up"]
        for index, side in enumerate(host.sides):
            kind = 0 if host.is_node else 1
            # A fixed address, or neighbours would look for the card of before the power cut.
            card = f"02:00:00:0{index}:0{kind}:{host.number:02x}"
            far_end = f"name {host.interface(side)} address {card} netns {pid}"
            outside.append(f"link add {host.port(side)} type veth peer {far_end}")
            inside.append(f"addr add {host.address(side)}/24 broadcast + dev {host.interface(side)} nodad")
            inside.append(f"link set {host.interface(side)} up")
        _ip(outside)
        self._set_cables(host)
        _ip(inside, into=pid)
        self._set_neighbours(host)


def main(place: Place, nodes: int, clients: int, ready: int) -> None:
    """As process 1 of the lab build and serve it; `ready` gets "ok" or the reason why not."""
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC)
    kernel.make_mounts_private()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as strip,
    ):
        try:
            switch = Switch(place, hosts_of(nodes, clients))
            for listener, path in (
                (control, place.control),
                (strip, place.power / os.path.basename(power.SOCKET)),
            ):
                listener.bind(str(path))
                path.chmod(0o600)
                listener.listen(16)
            switch.build()
        except (LabError, OSError) as error:
            os.write(ready, str(error).encode())
            raise
        os.write(ready, b"ok")
        os.close(ready)
        switch.serve(control, strip)


def _fork_apart(argv: list[str], kept: tuple[int, ...]) -> int:
    """Run `argv` as process 1 of new namespaces and return its pid; it becomes a child of this process.

    A process may leave its pid namespace only once, so a short-lived child does it for each host.
    """
    report_read, report_write = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            kernel.unshare(_HOST_NAMESPACES)
            pid = os.fork()
            if pid == 0:
                for descriptor in kept:
                    os.set_inheritable(descriptor, True)
                signal.set_wakeup_fd(-1)
                os.execv(argv[0], argv)
            os.write(report_write, str(pid).encode())
        except BaseException as error:
            os.write(report_write, f"!{error}".encode())
        finally:
            os._exit(0)
    os.close(report_write)
    os.waitpid(middle, 0)
    report = _read_report(report_read)
    if not report.isdigit():
        raise LabError(f"cannot start process 1 of a host: {report.lstrip('!') or 'it ended at once'}")
    return int(report)


def _read_report(descriptor: int) -> str:
    """Read what a starting process has to say until it closes its end."""
    report = b""
    deadline_s = time.monotonic() + _BOOT_LIMIT_S
    try:
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
                return f"no report within {_BOOT_LIMIT_S:g} s"
            part = os.read(descriptor, 4096)
            if not part:
                return report.decode(errors="replace")
            report += part
    finally:
        os.close(descriptor)


def _processes(init: int) -> list[tuple[int, str]]:
    """The processes of the host whose process 1 is `init`, each with its state letter."""
    space = os.readlink(f"/proc/{init}/ns/pid")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "ns" / "pid") == space:
                    stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
                    found.append((int(entry.name), stat.rpartition(")")[2].split()[0]))
            except OSError:
                pass  # It ended while we looked.
    return found


def _stands(state: str, is_told: bool) -> bool:
    """Whether a process can do nothing more; one in the kernel (D) stops before it is back in its own code.

    One that waits in vfork for a child that is stopped already stays there until both are thawed.
    """
    return state in "TtZX" or (state == "D" and is_told)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _ip(lines: list[str], *, into: int | None = None, keep_going: bool = False) -> None:
    """Run ip(8) commands in the switch's network, or in that of process `into`."""
    enter = [] if into is None else ["nsenter", f"--net=/proc/{into}/ns/net"]
    try:
        done = subprocess.run(
            [*enter, "ip", *(["-force"] if keep_going else []), "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=_COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"cannot run ip commands {lines}: no end within {error.timeout:g} s") from None
    if done.returncode != 0 and not keep_going:
        raise LabError(f"cannot run ip commands {lines}: {done.stderr.strip() or done.stdout.strip()}")
