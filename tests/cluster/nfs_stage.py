# SPDX-License-Identifier: GPL-3.0-or-later
"""NFS-Ganesha on the nodes of a lab, and NFS clients on its client hosts."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import IO, Any, Final

from ctdbpy.lab import HostProcess, Lab, wait_until
from ctdbpy.lab.services import Cluster

ROOT: Final = Path(__file__).resolve().parents[2]
ADDRESSES: Final = ("10.78.0.200", "10.78.0.201", "10.78.0.202")
#: Of the lab's servers: clients are told and claim their locks within it, on a slow machine as well.
GRACE_S: Final = 12
LIMIT_S: Final = 30.0
_CONFIGURATION: Final = f"""
NFS_CORE_PARAM {{
    Protocols = 3; Enable_NLM = true; mount_path_pseudo = true;
    NFS_Port = 2049; MNT_Port = 597; Rquota_Port = 598; NLM_Port = 599;
}}
NFSv4 {{
    Grace_Period = {GRACE_S}; Lease_Lifetime = {GRACE_S // 2};
    RecoveryBackend = fs; RecoveryRoot = /var/lib/ctdb/nfs/ganesha;
}}
EXPORT {{
    Export_Id = 1; Filesystem_Id = 77.1; Path = /cluster/share; Pseudo = /share;
    Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3;
    FSAL {{ Name = VFS; }}
}}
"""


class NfsClient:
    """A client program on a client host; its verbs are in `nfs_client`."""

    def __init__(self, lab: Lab, host: str, machine: str) -> None:
        self.machine = machine
        ours, theirs = socket.socketpair()
        self._complaints = lab.path(host, f"/var/log/{machine}.log")
        with open(theirs.detach(), "r+b", buffering=0) as talking, self._complaints.open("ab") as complaints:
            streams: tuple[IO[bytes], IO[bytes], IO[bytes]] = (talking, talking, complaints)
            argv = [sys.executable, "-P", "-m", "tests.cluster.nfs_client", machine]
            self._process: HostProcess = lab.connect(host, argv, streams, env={"PYTHONPATH": str(ROOT)})
        # Longer than any verb takes.
        ours.settimeout(2 * LIMIT_S)
        self._ours = ours
        self._lines = ours.makefile("r", encoding="utf-8")
        self._turn = threading.Lock()
        assert self._hear() == "ready"

    def ask(self, *words: object) -> Any:
        """Have it do something; what came of it."""
        with self._turn:
            self._ours.sendall(json.dumps(words).encode() + b"\n")
            return self._hear()

    def close(self) -> None:
        self._lines.close()
        self._ours.close()
        self._process.close()

    def _hear(self) -> Any:
        line = self._lines.readline()
        assert line, f"'{self.machine}' says nothing: {self._complaints.read_text()}"
        return json.loads(line)


class NfsCluster:
    """Three nodes with Ganesha and both scripts, addresses for each, and clients."""

    def __init__(self, lab: Lab, **options: str) -> None:
        self.lab = lab
        self.cluster = Cluster(
            lab,
            "ctdbpy",
            scripts=("60.nfs", "61.nlm-forward"),
            options={"CTDB_NFS_SERVER": "ganesha", **options},
            public_addresses=[f"{address}/24" for address in ADDRESSES],
            tunables={"MonitorInterval": 2},
        )
        self.clients: list[NfsClient] = []

    def start(self) -> None:
        """Start all nodes and wait until each is healthy and has an address."""
        share = self.lab.path("n0", "/cluster/share")
        share.mkdir()
        share.chmod(0o1777)
        self.cluster.configure()
        for host in self.lab.nodes:
            etc = self.lab.path(host, "/etc")
            (etc / "ganesha").mkdir(exist_ok=True)
            (etc / "ganesha" / "ganesha.conf").write_text(_CONFIGURATION, encoding="ascii")
            # A relative link, as systemd makes it, leads nowhere from out here.
            if not os.path.lexists(etc / "mtab"):
                # Ganesha finds file systems there; a machine made by debootstrap alone has none.
                (etc / "mtab").symlink_to("/proc/self/mounts")
            # Upstream's files ask for a quota server.
            shutil.rmtree(etc / "ctdb" / "nfs-checks.d", ignore_errors=True)
            shutil.copy(ROOT / "eventscripts" / "statd-callout", etc / "ctdb")
            self.boot(host)
        self.cluster.wait_healthy()
        wait_until(
            "each node has an address", lambda: len(set(self.places().values())) == 3, timeout_s=LIMIT_S
        )

    def boot(self, host: str) -> None:
        """Start what a machine starts by itself, and the daemon."""
        directories = ["/run/dbus", "/run/rpcbind", "/var/lib/ctdb/nfs/ganesha"]
        self.lab.run(host, ["mkdir", "-p", *directories], timeout_s=LIMIT_S)
        self.lab.run(host, ["dbus-daemon", "--system", "--fork"], timeout_s=LIMIT_S)
        self.cluster.start(host)

    def client(self, host: str, machine: str) -> NfsClient:
        """One more client."""
        client = NfsClient(self.lab, host, machine)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()

    # -- questions ---------------------------------------------------------------------------

    def places(self, asked: str = "n0") -> dict[str, str]:
        """Which node has which public address, as a node says."""
        said = self.cluster.tool(asked, "ip", "all").stdout
        return {address: f"n{pnn}" for address, pnn in re.findall(r"^(10\.\S+) (\d+)$", said, re.MULTILINE)}

    def address_of(self, host: str, asked: str = "n0") -> str:
        """A public address that a node has."""
        return next(address for address, place in self.places(asked).items() if place == host)

    def lock_node(self, asked: str = "n0") -> str:
        """The lock node by a node's copy of the record."""
        said = self.cluster.tool(asked, "pfetch", "ctdb_nfs.tdb", "lock-node").stdout
        return f"n{said.split()[0]}"

    def holders(self, asked: str) -> set[str]:
        """The clients that are noted to hold locks."""
        said = self.cluster.tool(asked, "catdb", "ctdb_nfs.tdb").stdout
        pairs = re.findall(r'^key\(\d+\) = "client@([^"]+)"\n.*\n.*\n.*\ndata\((\d+)\)', said, re.MULTILINE)
        return {client for client, size in pairs if int(size)}

    def story(self) -> str:
        """What the scripts of all nodes have said lately, for a test that fails."""
        lines = [line for host in self.lab.nodes for line in self.log(host).splitlines()[-40:]]
        return "\n".join(sorted(lines))

    def log(self, host: str) -> str:
        """What a node's daemon has written."""
        return self.cluster.log(host).read_text(encoding="utf-8", errors="replace")


def is_root() -> bool:
    """Whether labs can be built."""
    return os.geteuid() == 0
