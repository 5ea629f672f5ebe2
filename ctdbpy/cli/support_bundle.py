# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl support-bundle`: what somebody else needs to see what is wrong, in one file, without secrets."""

from __future__ import annotations

import io
import json
import os
import shlex
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

import ctdbpy
from ctdbpy.cli.commands import Command
from ctdbpy.cli.masking import mask_data, mask_text
from ctdbpy.cli.session import Session
from ctdbpy.config.configuration import load
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError, ConfigError

#: Of a log or of another long file only the end is taken.
TAIL_BYTES: Final = 8 << 20
LOG_LINES: Final = 40_000
#: Each question alone; whoever does not answer is noted.
_LIMIT_S: Final = 20.0

#: What the files say, and what is wrong with them.
_OF_FILES: Final = ("node file", "config show", "config check")
#: Asked of this node's daemon, the first one to see whether there is one.
_QUESTIONS: Final = (
    "status",
    "why",
    "events",
    "node list",
    "cluster leader",
    "cluster lmasters",
    "cluster lock",
    "cluster mode",
    "ip list",
    "ip interfaces",
    "db list",
    "event list",
    *(f"event status {event}" for event in ("startup", "monitor", "takeip", "releaseip", "ipreallocated")),
    "config show --running",
)
#: Asked of every node that is connected, through this one.
_OF_EACH: Final = (
    "node uptime NODE",
    "node runstate NODE",
    "node roles NODE",
    "node statistics NODE",
    "tunable list -n NODE",
    "why NODE",
)
_SYSTEM: Final = (
    "uname -a",
    "uptime",
    "free",
    "df -h",
    "mount",
    "ip -details address",
    "ip route show table all",
    "ip rule",
    "ss -tanp",
    "nft list ruleset",
    "ps -eo pid,ppid,stat,cls,rtprio,rss,etime,wchan:32,args",
    "systemctl --no-pager status ctdbpyd smbd winbind nmbd",
    "journalctl --no-pager -k -n 2000",
    "dpkg-query -l ctdb* samba* libtdb* nfs-ganesha* tgt",
    "testparm -s",
)


@click.command("support-bundle", cls=Command)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file; by default a new one here.")
@click.pass_obj
def support_bundle(session: Session, output: Path | None) -> None:
    """Write status, reasons, events, configuration and logs of this node into one file (tar.gz).

    And what the daemons of the other nodes answer. Passwords and keys are left out, as far as they are called
    so: look through it before you give it away. It is made without a daemon, too, of what there is then.
    Nothing is changed.
    """
    name = f"ctdbpy-{socket.gethostname().partition('.')[0]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    path = output or Path(f"{name}.tar.gz")
    session.progress("everything is collected")
    try:
        # Others on this host do not read it, and nothing is written over.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            bundle = _Bundle(archive, name, session.socket)
            bundle.fill()
    except FileExistsError:
        raise ClientError(f"cannot write '{path}': it is there already; name another with -o") from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ClientError(f"cannot write '{path}': {error.strerror}") from error
    missing = f" without {len(bundle.absent)} answers that nobody gave" if bundle.absent else ""
    session.done(
        f"{path} written{missing}; look through it before you give it away",
        file=str(path),
        absent=bundle.absent,
    )


@dataclass(slots=True)
class _Bundle:
    archive: tarfile.TarFile
    name: str
    socket: str
    absent: list[str] = field(default_factory=list)

    def fill(self) -> None:
        """Put everything in; what cannot be had is noted."""
        for question in _OF_FILES:
            self._answer(f"answers/{question.replace(' ', '-')}.json", question)
        for question in _QUESTIONS:
            is_answered = self._answer(f"answers/{question.replace(' ', '-')}.json", question)
            if question == _QUESTIONS[0] and not is_answered:
                break
        for pnn in self._connected():
            for question in _OF_EACH:
                name, asked = (
                    question.partition(" NODE")[0].replace(" ", "-"),
                    question.replace("NODE", str(pnn)),
                )
                # One that is silent is not waited for again and again.
                if not self._answer(f"nodes/{pnn}/{name}.json", asked):
                    break
        paths = Paths.from_environment(os.environ)
        for file in sorted({*_configuration(paths), Path("/etc/samba/smb.conf")}):
            self._file(f"configuration/{str(file).lstrip('/')}", file)
        self._log(paths)
        for number, line in enumerate(_SYSTEM):
            self._output(f"system/{number:02d}-{line.partition(' ')[0]}.txt", shlex.split(line))
        about = {
            "ctdbpy": ctdbpy.__version__,
            "python": sys.version,
            "host": socket.gethostname(),
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "absent": self.absent,
        }
        self._add("about.json", json.dumps(about, indent=2) + "\n")

    def _connected(self) -> list[int]:
        """Nodes that can be asked, as this one's daemon sees them."""
        data = self._ask("node list")
        rows = data.get("nodes", []) if isinstance(data, dict) else []
        return [
            row["pnn"]
            for row in rows
            if not {"DISCONNECTED", "DELETED"} & set(str(row.get("state")).split("|"))
        ]

    def _ask(self, question: str) -> Any:
        """The program's own answer in JSON, or None and why in `absent`."""
        program = [sys.executable, "-m", "ctdbpy.cli", "--socket", self.socket, "--json"]
        done = self._run([*program, *question.split()], question)
        if done is None:
            return None
        try:
            return json.loads(done.stdout)
        except ValueError:
            said = done.stderr.decode(errors="replace").strip().removeprefix("ctdbctl: ")
            self.absent.append(f"{question}: {mask_text(said).strip()}")
            return None

    def _answer(self, file: str, question: str) -> bool:
        data = self._ask(question)
        if data is not None:
            self._add(file, json.dumps(mask_data(data), indent=2, ensure_ascii=False) + "\n")
        return data is not None

    def _output(self, file: str, argv: list[str]) -> None:
        done = self._run(argv, argv[0])
        if done is not None:
            text = (done.stdout + done.stderr)[-TAIL_BYTES:].decode(errors="replace")
            self._add(file, f"# {shlex.join(argv)}\n{mask_text(text)}")

    def _run(self, argv: list[str], what: str) -> subprocess.CompletedProcess[bytes] | None:
        try:
            return subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            self.absent.append(f"{what}: no answer in {_LIMIT_S:g} s")
        except OSError as error:
            self.absent.append(f"{what}: {error.strerror}")
        return None

    def _file(self, name: str, file: Path) -> None:
        try:
            with file.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - TAIL_BYTES))
                text = stream.read(TAIL_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            self.absent.append(f"{file}: {error.strerror}")
            return
        self._add(name, mask_text(text))

    def _log(self, paths: Paths) -> None:
        try:
            location = load(paths).settings.log_location
        except ConfigError as error:
            self.absent.append(f"log: {error}")
            location = ""
        kind, _colon, rest = location.partition(":")
        if kind == "file" and rest not in ("", "-"):
            self._file("log/log.ctdb", Path(rest))
            self._file("log/log.ctdb.1", Path(f"{rest}.1"))
        self._output("log/journal.txt", ["journalctl", "--no-pager", "-t", "ctdbpyd", "-n", str(LOG_LINES)])

    def _add(self, name: str, text: str) -> None:
        data = text.encode(errors="replace")
        entry = tarfile.TarInfo(f"{self.name}/{name}")
        entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
        self.archive.addfile(entry, io.BytesIO(data))


def _configuration(paths: Paths) -> Iterator[Path]:
    """The files that say how the node is configured."""
    yield from (paths.cluster, paths.own_node, paths.conf, paths.tunables, paths.public_addresses)
    yield from (paths.home_nodes, paths.script_options, paths.cluster_options, paths.etc / "nodes")
    for pattern in ("tunables.d/*.tunables", "events/legacy/*.options", "nfs-checks.d/*.check"):
        yield from sorted(paths.etc.glob(pattern))
