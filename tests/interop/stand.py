# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand: one lab with a cluster daemon of one flavour on each node, and conversations held on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ctdbpy.errors import LabError
from ctdbpy.lab import HostProcess, Lab, wait_until
from ctdbpy.lab.services import Cluster, Samba

# Upstream's waits after a recovery and for an election only make the tests slow. Vacuuming would take empty
# records away at times of its own.
TUNABLES = {"RerecoveryTimeout": 1, "ElectionTimeout": 1, "VacuumInterval": 99999}
USER = "alice"
PASSWORD = "Secret.1"
LOGIN = f"{USER}%{PASSWORD}"
_LINE_LIMIT_S = 60.0

# Debian's scripts ask ethtool whether an interface has a link; it is not installed everywhere.
_ETHTOOL = "ethtool () { grep -qs 1 /sys/class/net/$1/carrier && echo Link detected: yes; }\n"

# For Debian's own Python, for which Debian's Samba has its modules.
_LOGGED_IN = f"""
import signal, sys
from samba.credentials import Credentials
from samba.samba3 import libsmb_samba_internal as libsmb, param
settings = param.get_context()
settings.load("/etc/samba/smb.conf")
who = Credentials()
who.guess(settings)
who.set_username({USER!r})
who.set_password({PASSWORD!r})
connection = libsmb.Conn(sys.argv[1], "share", settings, creds=who)
"""
_HOLD = """
handle = connection.create(sys.argv[2], DesiredAccess=3, ShareAccess=0, CreateDisposition=3)
print("held", flush=True)
signal.pause()
"""
_BUSY = """
print("connected", flush=True)
while True:
    connection.close(connection.create(sys.argv[2], DesiredAccess=3, ShareAccess=7, CreateDisposition=3))
"""


class Stand:
    """A lab, the cluster daemon on its nodes, and Samba on top once somebody asks for it."""

    def __init__(
        self,
        flavour: str,
        nodes: int = 1,
        *,
        tunables: Mapping[str, int] | None = None,
        options: Mapping[str, str] | None = None,
        events: bool = False,
        public_addresses: Sequence[str] = (),
    ) -> None:
        self.flavour = flavour
        self.lab = Lab(nodes=nodes, clients=1)
        self.cluster = Cluster(
            self.lab,
            flavour,
            events=events,
            public_addresses=public_addresses,
            tunables={**TUNABLES, **(tunables or {})},
        )
        self.samba = Samba(self.lab, options=options)
        self._serves = False

    def begin(self) -> None:
        """Build the lab and start the daemons, without waiting for them."""
        self.lab.up()
        try:
            self.cluster.configure()
            for host in self.lab.nodes:
                functions = self.lab.path(host, "/etc/ctdb/rc.local")
                functions.write_text(_ETHTOOL)
                functions.chmod(0o755)
                self.cluster.start(host)
        except BaseException:
            self.end()
            raise

    def serve(self) -> None:
        """Start smbd on every node, with one user; does nothing when it serves already."""
        if self._serves:
            return
        self.samba.configure()
        self.samba.add_user(USER, PASSWORD)
        for host in self.lab.nodes:
            self.samba.start(host)
        self._serves = True

    def hold(self, name: str, *, node: str = "n0") -> HostProcess:
        """Start a client that has `name` open and shares it with nobody, until it is killed."""
        log = self.lab.path("c0", "/tmp/hold.log")
        log.unlink(missing_ok=True)
        argv = ["/usr/bin/python3", "-c", _LOGGED_IN + _HOLD, f"{node}-pub", name]
        holder = self.lab.spawn("c0", argv, log)

        def holds() -> bool:
            if holder.poll() is not None:
                raise LabError(f"cannot hold '{name}' open: {log.read_text()}")
            return "held" in log.read_text()

        wait_until(f"'{name}' is held", holds, timeout_s=20)
        return holder

    def keep_busy(self, name: str) -> HostProcess:
        """Start a client that opens and closes `name` as fast as it can: smbd locks its record each time."""
        log = self.lab.path("c0", "/tmp/busy.log")
        log.unlink(missing_ok=True)
        client = self.lab.spawn("c0", ["/usr/bin/python3", "-c", _LOGGED_IN + _BUSY, "n0-pub", name], log)
        wait_until("the client is connected", lambda: "connected" in log.read_text(), timeout_s=20)
        return client

    def torture(self, suite: str, *options: str) -> HostProcess:
        """Start an smbtorture suite; its verdicts are read with `verdicts` when it has ended."""
        log = self.lab.path("c0", f"/tmp/{suite}.log")
        log.unlink(missing_ok=True)
        return self.lab.spawn("c0", ["smbtorture", "//n0-pub/share", "-U", LOGIN, *options, suite], log)

    def verdicts(self, suite: str) -> dict[str, str]:
        """success, failure, error or skip for each test of a suite that has ended."""
        said = self.lab.path("c0", f"/tmp/{suite}.log").read_text(errors="replace")
        found = re.findall(r"^(success|failure|error|skip): (\S+)", said, re.MULTILINE)
        return {test: verdict for verdict, test in found}

    def end(self) -> None:
        """Take it all down."""
        self.lab.down()

    def smbclient(
        self, commands: str, *, share: str = "share", node: str = "n0", timeout_s: float = 60
    ) -> str:
        """Run smbclient commands from the client host and return what it said."""
        argv = ["smbclient", f"//{node}-pub/{share}", "-U", LOGIN, "-c", commands]
        done = self.lab.run("c0", argv, timeout_s=timeout_s)
        return done.stdout + done.stderr

    def converse(self, lines: Sequence[str], host: str = "n0") -> str:
        """Run shell lines one after the other and return the transcript: output, "! " errors, exit code."""
        transcript = []
        for line in lines:
            done = self.lab.run(host, ["sh", "-c", line], timeout_s=_LINE_LIMIT_S, check=False)
            transcript.append(f"$ {line}")
            transcript += done.stdout.splitlines()
            transcript += [f"! {error}" for error in done.stderr.splitlines()]
            if done.returncode:
                transcript.append(f"exit {done.returncode}")
        return "\n".join(transcript) + "\n"
