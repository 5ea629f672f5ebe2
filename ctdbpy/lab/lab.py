# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as its users drive it: build, run commands in hosts, pull cables, switch power."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ctdbpy.errors import LabError
from ctdbpy.lab import places
from ctdbpy.lab.places import Place

_BUILD_LIMIT_S = 60.0
_DEED_LIMIT_S = 40.0
_END_LIMIT_S = 20.0
_MESSAGE_BYTES_MAX = 1 << 17
_HOST_ENVIRONMENT = {
    "PATH": f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{places.TOOLS}",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
}
_serial = itertools.count()


class HostProcess:
    """A command that runs in a host. Closing it, or losing this program, kills the command with its group."""

    def __init__(self, host: str, argv: Sequence[str], caller: socket.socket, pid: int) -> None:
        self.host = host
        self.argv = list(argv)
        self.pid = pid
        """The process id as the host sees it."""
        self.returncode: int | None = None
        """As subprocess has it; -9 as well when the host lost its power."""
        self._caller = caller

    def poll(self) -> int | None:
        """The return code if the command has ended."""
        if self.returncode is None and select.select([self._caller], [], [], 0)[0]:
            self._read_status()
        return self.returncode

    def wait(self, *, timeout_s: float) -> int:
        """Wait for the end; raises `LabError` when it does not come within `timeout_s`."""
        if self.returncode is None:
            if not select.select([self._caller], [], [], timeout_s)[0]:
                raise LabError(f"cannot wait longer for {self}: it still runs after {timeout_s:g} s")
            self._read_status()
        assert self.returncode is not None, "a status was read"
        return self.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself, not to its group."""
        if self.poll() is None:
            # It may end in this very moment; its status is there to be read then.
            with contextlib.suppress(BrokenPipeError):
                self._caller.send(json.dumps({"signal": int(number)}).encode())

    def kill(self) -> None:
        """SIGKILL the command and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(timeout_s=_END_LIMIT_S)

    def close(self) -> None:
        """Let go of the command: if it still runs, it is killed with its group unless it was to stay."""
        self._caller.close()

    def _read_status(self) -> None:
        try:
            message = self._caller.recv(_MESSAGE_BYTES_MAX)
        except ConnectionError:
            message = b""
        self.returncode = (
            os.waitstatus_to_exitcode(json.loads(message)["status"]) if message else -signal.SIGKILL
        )
        self._caller.close()

    def __str__(self) -> str:
        return f"'{' '.join(self.argv)}' on '{self.host}'"


class Lab:
    """A cluster of `nodes` node hosts (n0, n1 …) and `clients` client hosts (c0, c1 …).

    As a context manager the lab is up inside the block. It comes down when its owner (this process) ends,
    however that ends, unless it was made with `stays_up`.
    """

    def __init__(
        self, name: str | None = None, nodes: int = 3, clients: int = 1, *, stays_up: bool = False
    ) -> None:
        self.name = name or f"lab-{os.getpid()}-{next(_serial)}"
        self.nodes = [f"n{number}" for number in range(nodes)]
        self.clients = [f"c{number}" for number in range(clients)]
        self.stays_up = stays_up
        self._place: Place | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._spawned: list[HostProcess] = []

    @classmethod
    def find(cls, name: str) -> Lab:
        """The lab of that name that is up already; raises `LabError` if there is none."""
        place = places.find(name)
        if place is None:
            known = ", ".join(each.name for each in places.every()) or "none"
            raise LabError(f"cannot find lab '{name}': it is not up (labs: {known}; build one with 'up N')")
        lab = cls(name, 0, 0, stays_up=True)
        lab._place = place
        for host in place.hosts():
            (lab.nodes if host.startswith("n") else lab.clients).append(host)
        return lab

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- life -------------------------------------------------------------------------------------

    def up(self) -> None:
        """Build the lab and boot every host; raises `LabError` and leaves nothing when that fails."""
        if os.geteuid() != 0:
            raise LabError("cannot build a lab: namespaces need root (run it as root)")
        place = places.create(self.name)
        ready_read, ready_write = os.pipe()
        argv = [
            sys.executable,
            "-m",
            "ctdbpy.lab.keeper",
            place.name,
            str(place.root),
            str(len(self.nodes)),
            str(len(self.clients)),
            "0" if self.stays_up else str(os.getpid()),
            str(ready_write),
        ]
        with place.keeper_log.open("wb") as log:
            keeper = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[ready_write],
                env=_program_environment(),
                start_new_session=True,
            )
        os.close(ready_write)
        self._keeper = keeper
        self._place = place
        try:
            report = _read_to_end(ready_read, timeout_s=_BUILD_LIMIT_S)
            if report != "ok":
                raise LabError(f"cannot build lab '{self.name}': {report or 'its keeper ended at once'}")
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Take the lab down and wait until nothing of it is left; harmless when it is down already."""
        place, self._place = self._place, None
        if place is None:
            return
        for process in self._spawned:
            process.close()
        self._spawned.clear()
        if self._keeper is not None:
            self._keeper.terminate()
            try:
                self._keeper.wait(_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait(_END_LIMIT_S)
            self._keeper = None
        else:
            keeping = place.keeping()
            if keeping is not None and keeping.keeper.is_alive():
                _ask(place, {"deed": "down"})
                places.end_keeper(keeping.keeper, patience_s=_END_LIMIT_S)
        places.remove(place)

    def status(self) -> list[dict[str, Any]]:
        """One row per host: name, power (on, off, frozen), addresses and cuts by side, processes."""
        rows: list[dict[str, Any]] = self._do("status")
        return rows

    # --- commands ---------------------------------------------------------------------------------

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host to its end and return what it said.

        It starts in "/" with a clean environment plus `env`. Daemons it leaves behind stay. Raises `LabError`
        when it does not end within `timeout_s` (it is killed with its group then) or, with `check`, when it
        fails.
        """
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            if input is not None:
                stdin.write(input.encode())
                stdin.seek(0)
            # Files, not pipes: a daemon that keeps its standard output open must not keep us waiting.
            process = self.connect(host, argv, (stdin, out, err), env=env)
            try:
                code = process.wait(timeout_s=timeout_s)
            except LabError as error:
                raise LabError(f"{error}; it said:\n{_text(out)}{_text(err)}") from None
            finally:
                process.close()
            done = subprocess.CompletedProcess(list(argv), code, _text(out), _text(err))
        if check and code != 0:
            raise LabError(f"cannot run {process}: exit code {code}; it said:\n{done.stdout}{done.stderr}")
        return done

    def spawn(
        self,
        host: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        stay: bool = False,
    ) -> HostProcess:
        """Start a command in a host, its output appended to `log`. With `stay` it outlives this program."""
        with open(os.devnull, "rb") as stdin, log.open("ab") as out:
            process = self.connect(host, argv, (stdin, out, out), env=env, stay=stay)
        self._spawned.append(process)
        return process

    def connect(
        self,
        host: str,
        argv: Sequence[str],
        streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
        *,
        env: Mapping[str, str] | None = None,
        stay: bool = False,
    ) -> HostProcess:
        """Start a command in a host on the caller's stdin, stdout and stderr; the caller closes it."""
        request = {"argv": list(argv), "env": {**_HOST_ENVIRONMENT, **(env or {})}, "stay": stay}
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            caller.settimeout(_DEED_LIMIT_S)
            caller.connect(str(self._up().console(host)))
            socket.send_fds(caller, [json.dumps(request).encode()], [stream.fileno() for stream in streams])
            message = caller.recv(_MESSAGE_BYTES_MAX)
        except OSError as error:
            caller.close()
            raise LabError(f"cannot reach '{host}': {error} (does it exist, and has it power?)") from None
        answer: dict[str, Any] = json.loads(message) if message else {"error": "the host lost its power"}
        if "error" in answer:
            caller.close()
            raise LabError(f"cannot run '{argv[0]}' on '{host}': {answer['error']}")
        return HostProcess(host, argv, caller, answer["pid"])

    def path(self, host: str, inside: str) -> Path:
        """Where a host's own file (`inside`, absolute: /etc/…, /run/…, /cluster/…) is seen from outside."""
        if inside == "/cluster" or inside.startswith("/cluster/"):
            return self._up().cluster / inside[len("/cluster") :].lstrip("/")
        for part in places.KEPT_PARTS + places.LOST_PARTS:
            if inside == part or inside.startswith(f"{part}/"):
                return self._up().disk(host) / inside[1:]
        raise LabError(
            f"cannot find '{inside}' on the disk of '{host}': it is the machine's own, not the host's"
        )

    def power(self, host: str) -> str:
        """Whether the host has power: on, off or frozen."""
        for row in self.status():
            if row["name"] == host:
                return str(row["power"])
        raise LabError(f"cannot tell whether '{host}' has power: there is no such host")

    def address(self, host: str, side: str = "public") -> str:
        """The host's fixed address on one side."""
        for row in self.status():
            if row["name"] == host and side in row["addresses"]:
                return str(row["addresses"][side])
        raise LabError(f"cannot find the address of '{host}' on side '{side}': no such host or cable")

    # --- trouble ----------------------------------------------------------------------------------

    def power_off(self, host: str) -> None:
        """Kill every process of the host at once; its peers hear nothing of it. /run and /tmp are lost."""
        self._do("power-off", host=host)

    def power_on(self, host: str) -> None:
        """Boot the host with the disk it had; nothing runs on it yet."""
        self._do("power-on", host=host)

    def cut(self, host: str, side: str = "all", *, manner: str = "pulled") -> None:
        """Cut a cable of the host, or all; "pulled" drops the carrier, "silent" only the packets."""
        self._do("cut", host=host, side=side, manner=manner)

    def silence(self, host: str, peer: str, side: str = "all") -> None:
        """Let what the host sends to one peer vanish; it still hears the peer, and others hear it."""
        self._do("silence", host=host, peer=peer, side=side)

    def mend(self, host: str) -> None:
        """Connect all cables of the host again, and let everybody hear it."""
        self._do("mend", host=host)

    def freeze(self, host: str) -> None:
        """Stop every process of the host where it stands."""
        self._do("freeze", host=host)

    def thaw(self, host: str) -> None:
        """Let the processes of a frozen host go on."""
        self._do("thaw", host=host)

    # --- private ----------------------------------------------------------------------------------

    def _up(self) -> Place:
        if self._place is None:
            raise LabError(f"cannot use lab '{self.name}': it is not up")
        return self._place

    def _do(self, deed: str, **arguments: str) -> Any:
        return _ask(self._up(), {"deed": deed, **arguments})


def _ask(place: Place, request: Mapping[str, str]) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.settimeout(_DEED_LIMIT_S)
        try:
            caller.connect(str(place.control))
            caller.send(json.dumps(request).encode())
            message = caller.recv(_MESSAGE_BYTES_MAX)
        except OSError as error:
            raise LabError(
                f"cannot reach the switch of lab '{place.name}': {error} (is the lab up?)"
            ) from None
    answer = json.loads(message) if message else {"error": f"the switch of lab '{place.name}' is gone"}
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["result"]


def _program_environment() -> dict[str, str]:
    """Ours, with this package in reach: hosts start Python again from another directory."""
    package = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{package}:{inherited}" if inherited else package}


def _read_to_end(descriptor: int, *, timeout_s: float) -> str:
    deadline_s = time.monotonic() + timeout_s
    report = b""
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            part = pipe.read(4096)
            if not part:
                return report.decode(errors="replace")
            report += part
    raise LabError(f"cannot wait longer for the lab: its keeper said nothing for {timeout_s:g} s")


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="backslashreplace")
