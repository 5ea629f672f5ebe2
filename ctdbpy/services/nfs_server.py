# SPDX-License-Identifier: GPL-3.0-or-later
"""The two NFS servers, NFS-Ganesha and the kernel's: how each starts, ends, and begins a grace period."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands, managers, oncrpc
from ctdbpy.services.event import Event
from ctdbpy.services.managers import Daemon
from ctdbpy.services.oncrpc import Service, opaque, uint

LOCALHOST: Final = "127.0.0.1"
_COMMAND_LIMIT_S: Final = 10.0
_DBUS_LIMIT_S: Final = 3.0
_RPC_LIMIT_S: Final = 2.0
_BUS_NAME: Final = "org.ganesha.nfsd"
_NLM_SM_NOTIFY: Final = 16
#: Locks taken in the state that is told are kept. A client takes locks in odd ones only.
_OTHER_STATE: Final = 2
_PRIVATE: Final = b"\0" * 16

_RPCBIND: Final = Daemon(("rpcbind",), ("rpcbind", "-w"), "rpcbind")


def server_of(event: Event) -> Server:
    """The server that the options name. Raises ServiceError."""
    kind = event.text("CTDB_NFS_SERVER")
    if not kind:
        # Those who come from upstream's scripts say it by the name of a program.
        callout = event.text("CTDB_NFS_CALLOUT", "kernel")
        kind = "ganesha" if "ganesha" in callout else "kernel"
    if kind == "ganesha":
        return Ganesha(event)
    if kind == "kernel":
        return Kernel(event)
    raise event.misuse("CTDB_NFS_SERVER", "it must be 'kernel' or 'ganesha'")


class Server(ABC):
    """One NFS server with its helpers on this node."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.lock_port = event.number("CTDB_NFS_LOCK_PORT", 599, least=1, most=65535)
        self.status_port = event.number("CTDB_NFS_STATUS_PORT", 595, least=1, most=65535)
        state = event.text("CTDB_NFS_STATD_DIR", "/var/lib/ctdb/nfs/statd")
        callout = event.base / "statd-callout"
        command = ["rpc.statd", "--no-notify", "--port", str(self.status_port)]
        command += ["--state-directory-path", state]
        if callout.exists():
            command += ["--ha-callout", str(callout)]
        self._statd_state = Path(state)
        self._restarted: set[str] = set()
        self._statd = Daemon(("rpc-statd", "nfs-statd"), tuple(command), "rpc.statd")

    # -- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it with its helpers. Raises ServiceError."""
        if not managers.is_running(self.event, _RPCBIND):
            managers.start(self.event, _RPCBIND)
        for part in ("sm", "sm.bak"):
            # Whom it watched before has lost his locks; whom to tell stands in the cluster's database.
            directory = self._statd_state / part
            directory.mkdir(parents=True, exist_ok=True)
            for entry in directory.iterdir():
                entry.unlink()
        managers.restart(self.event, self._statd)
        self.start_nfs()

    def stop(self) -> None:
        """End it with its helpers; the port mapper may have other users and stays. Raises ServiceError."""
        self.stop_nfs()
        managers.stop(self.event, self._statd)

    def restart(self, service: str) -> None:
        """Start the part afresh that answers for an RPC service. Raises ServiceError."""
        part = service if service in ("portmapper", "status") else "nfs"
        if part in self._restarted:
            return  # More than one of its services has failed.
        self._restarted.add(part)
        if part == "portmapper":
            managers.restart(self.event, _RPCBIND)
        elif part == "status":
            # It goes on watching those whom it has watched.
            managers.restart(self.event, self._statd)
        else:
            self.stop_nfs()
            self.start_nfs()

    def watched(self) -> list[str]:
        """The names of the clients that the status monitor watches, for they hold locks here."""
        found = []
        for file in (self._statd_state / "sm").glob("*"):
            # Numbers of who wants to know, then the client's name and our own.
            with suppress(FileNotFoundError):  # It holds none any more.
                words = file.read_text(encoding="utf-8", errors="replace").split()
                found += words[-2:-1]
        return found

    @abstractmethod
    def start_nfs(self) -> None: ...

    @abstractmethod
    def stop_nfs(self) -> None: ...

    # -- locks -------------------------------------------------------------------------------

    #: Whether it can begin a grace period without ending what it does otherwise.
    begins_grace_at_once: ClassVar[bool]

    @abstractmethod
    def begin_grace(self, address: str) -> None:
        """Begin a grace period, or make the one under way longer; `address` has come here, says the log."""

    @abstractmethod
    def check_grace(self) -> None:
        """Raise ServiceError when it is known that a grace period could not be begun."""

    @abstractmethod
    def drop_locks(self, clients: list[str]) -> None:
        """Let go of all locks that clients hold through NLM: another server gives them out now."""

    @abstractmethod
    def life(self) -> str:
        """Another word after each start of the server: then its locks are gone. Empty if it does not run."""

    @abstractmethod
    def exports(self) -> list[str]:
        """The directories that it exports."""


class Ganesha(Server):
    """NFS-Ganesha. Its grace periods are begun over D-Bus."""

    begins_grace_at_once = True

    def __init__(self, event: Event) -> None:
        super().__init__(event)
        self._config = Path(event.text("CTDB_GANESHA_CONF", "/etc/ganesha/ganesha.conf"))
        log = event.text("CTDB_GANESHA_LOG", "/var/log/ganesha/ganesha.log")
        pid_file = Path("/run/ganesha.pid")
        command = ("ganesha.nfsd", "-f", str(self._config), "-L", log, "-p", str(pid_file))
        self._daemon = Daemon(("nfs-ganesha", "ganesha"), command, "ganesha.nfsd", pid_file)
        self._log = Path(log)

    def start_nfs(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        managers.start(self.event, self._daemon)

    def stop_nfs(self) -> None:
        managers.stop(self.event, self._daemon)

    def begin_grace(self, address: str) -> None:
        # 5 is its number for "an address has come here".
        argv = ["dbus-send", "--system", "--print-reply", f"--reply-timeout={_DBUS_LIMIT_S * 1000:.0f}"]
        argv += [f"--dest={_BUS_NAME}", "/org/ganesha/nfsd/admin", "org.ganesha.nfsd.admin.grace"]
        said = commands.run([*argv, f"string:5:{address}"], timeout_s=_DBUS_LIMIT_S + 1).output
        if "boolean true" not in said:
            raise ServiceError(f"cannot begin a grace period: NFS-Ganesha says '{' '.join(said.split())}'")

    def check_grace(self) -> None:
        if not managers.is_running(self.event, self._daemon):
            return  # The checks of its RPC services count how often.
        argv = ["dbus-send", "--system", "--print-reply=literal", "--dest=org.freedesktop.DBus"]
        argv += ["/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", f"string:{_BUS_NAME}"]
        said = commands.run(argv, timeout_s=_DBUS_LIMIT_S + 1).output
        if "true" not in said:
            raise ServiceError("cannot begin grace periods: NFS-Ganesha does not listen on D-Bus")

    def drop_locks(self, clients: list[str]) -> None:
        """It lets go of a client's locks when its status monitor says that the client has restarted."""
        lock_manager = Service("nlockmgr", oncrpc.LOCK_MANAGER, 4, self.lock_port)
        try:
            for client in clients:
                restarted = opaque(client.encode()) + uint(_OTHER_STATE) + _PRIVATE
                oncrpc.call(LOCALHOST, lock_manager, _NLM_SM_NOTIFY, restarted, timeout_s=_RPC_LIMIT_S)
        except ServiceError:
            # One that does not answer must not go on holding locks.
            managers.stop(self.event, self._daemon)

    def life(self) -> str:
        pid = managers.main_process(self._daemon)
        if pid is None:
            return ""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""
        return f"{pid} {stat.rpartition(')')[2].split()[19]}"

    def exports(self) -> list[str]:
        try:
            text = self._config.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ServiceError(f"cannot read '{self._config}': {error.strerror}") from None
        text = re.sub(r"#.*", "", text)
        return re.findall(r"\bPath\s*=\s*\"?([^\s;\"]+)", text, re.IGNORECASE)


class Kernel(Server):
    """The kernel's server. Only a start begins a grace period, so its threads are ended and started again."""

    begins_grace_at_once = False

    _ETAB: Final = Path("/var/lib/nfs/etab")

    def __init__(self, event: Event) -> None:
        super().__init__(event)
        self._threads = str(event.number("CTDB_NFS_THREADS", 8, least=1, most=10000))
        mount_port = event.number("CTDB_NFS_MOUNT_PORT", 597, least=1, most=65535)
        # As a unit it starts exportfs and rpc.mountd as well, and its threads are no processes of ours.
        self._unit = Daemon(("nfs-kernel-server", "nfs-server"), ("rpc.nfsd", self._threads), "nfsd")
        self._mountd = Daemon(("nfs-mountd",), ("rpc.mountd", "--port", str(mount_port)), "rpc.mountd")

    def start_nfs(self) -> None:
        ports = [f"fs.nfs.{name}={self.lock_port}" for name in ("nlm_tcpport", "nlm_udpport")]
        commands.run(["sysctl", "-q", "-w", *ports], timeout_s=_COMMAND_LIMIT_S)
        if not managers.is_systemd(self.event):
            commands.run(["exportfs", "-ra"], timeout_s=_COMMAND_LIMIT_S)
            managers.restart(self.event, self._mountd)
        managers.start(self.event, self._unit)
        self._note_life()

    def stop_nfs(self) -> None:
        if managers.is_systemd(self.event):
            managers.stop(self.event, self._unit)
            return
        commands.run(["rpc.nfsd", "0"], timeout_s=_COMMAND_LIMIT_S)
        managers.stop(self.event, self._mountd)

    def begin_grace(self, address: str) -> None:
        self.stop_nfs()
        self.start_nfs()

    def check_grace(self) -> None:
        """Its start begins one, which needs nobody's help."""

    def drop_locks(self, clients: list[str]) -> None:
        self.begin_grace("")

    def life(self) -> str:
        try:
            return self._life_file().read_text(encoding="ascii")
        except OSError:
            return ""

    def exports(self) -> list[str]:
        try:
            text = self._ETAB.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [_unescape(line.split()[0]) for line in text.splitlines() if line.strip()]

    def _note_life(self) -> None:
        """The kernel does not say since when it serves; what starts it here does."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        start = Path("/proc/uptime").read_text(encoding="ascii").split()[0]
        self._life_file().write_text(f"{boot} {start}", encoding="ascii")

    def _life_file(self) -> Path:
        return self.event.keep("60.nfs") / "kernel-life"


def _unescape(path: str) -> str:
    """A path as exportfs writes it: what is not plain is an octal number behind a backslash."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
