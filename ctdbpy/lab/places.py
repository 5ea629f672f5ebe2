# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a lab keeps its state, who keeps it alive, and how leftovers of dead owners are ended.

A lab named NAME is one directory:

    keeper.json        pid and start time of the keeper, and of the owner if the lab has one
    keeper.log         what keeper, switch and hosts had to say
    control            Unix socket of the switch
    power/switch       another one, /power/switch on every node: it knows power alone, and nodes alone
    cluster/           stands in for the cluster file system, /cluster on every node
    hosts/HOST/console Unix socket on which the host takes commands
    hosts/HOST/disk/   the host's own /etc, /run, /tmp and parts of /var
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ctdbpy.errors import LabError

# A path in sockaddr_un holds 108 bytes; hosts/nNN/console takes the rest.
_SOCKET_PATH_MAX = 100
_SPACE_BYTES_MIN = 1 << 30
_YOUNG_S = 60.0

# What a host has of its own: kept over a power cut, and emptied by it. All else is the machine's, read-only.
KEPT_PARTS = (
    "/etc",
    "/var/lib/ctdb",
    "/var/lib/samba",
    "/var/log",
    "/var/cache/samba",
    "/var/spool/samba",
)
LOST_PARTS = ("/run", "/tmp", "/var/tmp")
#: Where a host has what a package of this tree would install, behind all that the machine has.
TOOLS = "/etc/lab/bin"


@dataclass(frozen=True, slots=True)
class Actor:
    """A process named so that a later one with the same pid is not mistaken for it."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Actor:
        """The process `pid` as it runs now; raises `LabError` if there is none."""
        ticks = _start_ticks(pid)
        if ticks is None:
            raise LabError(f"cannot watch process {pid}: it does not exist")
        return cls(pid, ticks)

    def is_alive(self) -> bool:
        return _start_ticks(self.pid) == self.start_ticks


@dataclass(frozen=True, slots=True)
class Keeping:
    """Who keeps a lab: the keeper process, and the owner it serves (None: up until told)."""

    keeper: Actor
    owner: Actor | None

    def is_leftover(self) -> bool:
        return not self.keeper.is_alive() or (self.owner is not None and not self.owner.is_alive())


@dataclass(frozen=True, slots=True)
class Place:
    """The paths of one lab."""

    name: str
    root: Path

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def power(self) -> Path:
        return self.root / "power"

    @property
    def keeper_log(self) -> Path:
        return self.root / "keeper.log"

    @property
    def cluster(self) -> Path:
        return self.root / "cluster"

    def console(self, host: str) -> Path:
        return self.root / "hosts" / host / "console"

    def disk(self, host: str) -> Path:
        return self.root / "hosts" / host / "disk"

    def new_root(self, host: str) -> Path:
        """Where the host builds its root directory; empty when seen from outside."""
        return self.root / "hosts" / host / "root"

    def hosts(self) -> list[str]:
        """The names of the lab's hosts, whether they have power or not."""
        return sorted(
            (entry.name for entry in (self.root / "hosts").iterdir()), key=lambda name: int(name[1:])
        )

    def write_keeping(self, keeping: Keeping) -> None:
        draft = self.root / "keeper.json.new"
        draft.write_text(json.dumps(asdict(keeping)), encoding="utf-8")
        draft.rename(self.root / "keeper.json")

    def keeping(self) -> Keeping | None:
        """Who keeps this lab; None while it is being built or already being removed."""
        try:
            fields = json.loads((self.root / "keeper.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        owner = fields["owner"]
        return Keeping(Actor(**fields["keeper"]), Actor(**owner) if owner else None)


def create(name: str) -> Place:
    """Make the directory of a new lab; raises `LabError` when the name is taken or will not do."""
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise LabError(f"cannot name a lab '{name}': use letters, digits, '-', '_' and '.'")
    if find(name) is not None:
        raise LabError(
            f"cannot build lab '{name}': it is there already (take it down, or give another --name)"
        )
    place = Place(name, _base() / name)
    longest = str(place.console("n000"))
    if len(longest) > _SOCKET_PATH_MAX:
        raise LabError(
            f"cannot build lab '{name}' in '{place.root}': '{longest}' is too long for a Unix socket "
            f"({len(longest)} of {_SOCKET_PATH_MAX} bytes; set CTDBPY_LAB_DIR to a shorter directory)"
        )
    place.root.mkdir(parents=True, mode=0o700)
    # Users of a host, who are not root, walk through it to the host's own parts.
    place.root.parent.chmod(0o755)
    place.root.chmod(0o755)
    for shared in (place.cluster, place.power):
        shared.mkdir()
        shared.chmod(0o755)
    return place


def find(name: str) -> Place | None:
    """The lab called `name`, up or left over; None if there is none."""
    for place in every():
        if place.name == name:
            return place
    return None


def every() -> Iterator[Place]:
    """Every lab directory on this machine, leftovers included."""
    for base in _bases():
        if base.is_dir():
            for root in sorted(base.iterdir()):
                if root.is_dir():
                    yield Place(root.name, root)


def sweep(*, patience_s: float = 5.0) -> list[str]:
    """End what dead owners and dead keepers left behind; labs in use are not touched. Returns the names."""
    swept = []
    for place in every():
        keeping = place.keeping()
        if keeping is None:
            if not _is_old(place.root):
                continue
        elif not keeping.is_leftover():
            continue
        else:
            end_keeper(keeping.keeper, patience_s=patience_s)
        remove(place)
        swept.append(place.name)
    return swept


def end_keeper(keeper: Actor, *, patience_s: float) -> None:
    """Wait for a keeper to finish by itself, then kill it: its lab dies with it."""
    if wait_gone(keeper, timeout_s=patience_s):
        return
    os.kill(keeper.pid, signal.SIGKILL)
    if not wait_gone(keeper, timeout_s=patience_s):
        raise LabError(
            f"cannot end the lab's keeper, process {keeper.pid}: it survived SIGKILL for {patience_s:g} s"
        )


def wait_gone(actor: Actor, *, timeout_s: float) -> bool:
    """Wait until a process has ended; False if it has not within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while actor.is_alive():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.01)
    return True


def remove(place: Place) -> None:
    """Delete a lab's directory; harmless when it is gone already."""
    shutil.rmtree(place.root, ignore_errors=True)
    try:
        place.root.parent.rmdir()
    except OSError:
        pass  # Other labs live there, or it is gone.


def _bases() -> list[Path]:
    chosen = os.environ.get("CTDBPY_LAB_DIR")
    if chosen:
        return [Path(chosen)]
    # Memory first: a lab writes many small files and syncs them often.
    return [Path("/dev/shm/ctdbpy-lab"), Path(tempfile.gettempdir()) / "ctdbpy-lab"]


def _base() -> Path:
    bases = _bases()
    for base in bases[:-1]:
        if base.parent.is_dir():
            room = os.statvfs(base.parent)
            if room.f_bavail * room.f_frsize >= _SPACE_BYTES_MIN:
                return base
    return bases[-1]


def _is_old(root: Path) -> bool:
    try:
        return time.time() - root.stat().st_mtime > _YOUNG_S
    except FileNotFoundError:
        return False


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None for no such process, or one that is dead but not yet reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
