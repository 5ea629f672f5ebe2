# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new host finds on its disk: the machine's /etc with the host's own names, and empty /var parts."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ctdbpy.errors import LabError
from ctdbpy.lab.places import KEPT_PARTS, LOST_PARTS, TOOLS, Place

_DIRECTORIES = (
    "var/lib/ctdb/volatile",
    "var/lib/ctdb/persistent",
    "var/lib/ctdb/state",
    "var/lib/ctdb/scripts",
    "var/lib/samba/private",
    "var/log/ctdb",
    "var/log/samba",
)
# What a machine with a cluster of its own would pass on; a host gets these from whoever configures it.
_FORGOTTEN = (
    "etc/ctdb/ctdb.conf",
    "etc/ctdb/ctdb.tunables",
    "etc/ctdb/nodes",
    "etc/ctdb/public_addresses",
    "etc/samba/smb.conf",
)


def prepare(place: Place, host: str, addresses: Mapping[str, str]) -> None:
    """Make the disk of `host`; `addresses` is its /etc/hosts, name to address."""
    disk = place.disk(host)
    for part in KEPT_PARTS + LOST_PARTS:
        (disk / part[1:]).mkdir(parents=True, exist_ok=True)
    place.new_root(host).mkdir()
    _copy_etc(disk / "etc")
    for name in _FORGOTTEN:
        (disk / name).unlink(missing_ok=True)
    for name in _DIRECTORIES:
        (disk / name).mkdir(parents=True, exist_ok=True)
    (disk / "var/lib/samba/private").chmod(0o700)
    (disk / "etc/hostname").write_text(f"{host}\n", encoding="ascii")
    table = [
        "127.0.0.1 localhost",
        "::1 localhost",
        *(f"{address} {name}" for name, address in addresses.items()),
    ]
    (disk / "etc/hosts").write_text("\n".join(table) + "\n", encoding="ascii")
    _put_tool(disk / TOOLS[1:] / "ctdbctl", "ctdbpy.cli")
    # No name server is reachable from a host: asking the machine's would only cost each look-up its time-out.
    _replace(disk / "etc/resolv.conf", "")
    _replace(disk / "etc/nsswitch.conf", _name_switch(disk / "etc/nsswitch.conf"))


def _put_tool(path: Path, module: str) -> None:
    """A program of this tree under its own name, as a package would install it."""
    root = Path(__file__).resolve().parents[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    words = shlex.join([f"PYTHONPATH={root}", sys.executable, "-m", module])
    path.write_text(f'#!/bin/sh\nexec env {words} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _copy_etc(target: Path) -> None:
    # cp keeps owners, modes and links; shutil.copytree loses the owners, and shadow's group matters.
    copy = subprocess.run(
        ["cp", "-a", "/etc/.", str(target)], capture_output=True, text=True, timeout=60, check=False
    )
    if copy.returncode != 0:
        raise LabError(f"cannot copy '/etc' to '{target}': {copy.stderr.strip()}")
    shutil.rmtree(target / "systemd" / "system", ignore_errors=True)


def _replace(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # It may be a link into /run.
    path.write_text(text, encoding="ascii")


def _name_switch(path: Path) -> str:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    kept = [line for line in lines if not line.startswith("hosts:")]
    return "\n".join([*kept, "hosts: files"]) + "\n"
