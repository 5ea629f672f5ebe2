# SPDX-License-Identifier: GPL-3.0-or-later
"""Samba's configuration as `testparm` prints it, kept between events: the registry may be slow to answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ctdbpy.services import commands

_TESTPARM: Final = ("testparm", "-v", "-s")
_TESTPARM_LIMIT_S: Final = 10
#: What these file systems hold is reached inside smbd; their paths are no directories of this machine.
_REMOTE_MODULES: Final = frozenset({"glusterfs", "ceph", "ceph_new"})
_TRANSPORT_PORTS: Final = {"tcp": 445, "nbt": 139}

# $1: the kept copy. Whoever is late finds the lock taken, and goes.
_REFRESH: Final = f"""
exec 9>"$1.lock"
flock -n 9 || exit 0
if timeout -k 1 {_TESTPARM_LIMIT_S} testparm -v -s >"$1.new" 2>"$1.said"; then
    mv "$1.new" "$1" && rm -f "$1.trouble"
else
    echo "exit status $?" >>"$1.said"
    mv "$1.said" "$1.trouble"
fi
"""


@dataclass(frozen=True, slots=True)
class SambaConfiguration:
    """Sections by name, each with its parameters as testparm names them."""

    sections: Mapping[str, Mapping[str, str]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what testparm printed."""
        sections: dict[str, dict[str, str]] = {}
        section = sections.setdefault("global", {})
        for line in text.splitlines():
            line = line.strip()
            if line.startswith("[") and line.endswith("]"):
                section = sections.setdefault(line[1:-1], {})
            elif "=" in line and not line.startswith(("#", ";")):
                name, _, value = line.partition("=")
                section[name.strip()] = value.strip()
        return cls(sections)

    def ports(self) -> list[int]:
        """The TCP ports on which smbd listens."""
        options = self.sections["global"]
        # Newer Samba names transports ("tcp", "nbt", "tcp:4450"); there "smb ports" is an old name for them.
        words = options.get("server smb transports") or options.get("smb ports", "")
        found = []
        for word in words.replace(",", " ").split():
            name, _, number = word.rpartition(":")
            if number.isdigit() and name in ("", *_TRANSPORT_PORTS):
                found.append(int(number))
            elif word in _TRANSPORT_PORTS:
                found.append(_TRANSPORT_PORTS[word])
        return found

    def share_directories(self) -> Iterator[str]:
        """The directories of shares, each once; not those that depend on the user or are no local ones."""
        seen = set()
        for name, options in self.sections.items():
            directory = options.get("path", "").replace('"', "")
            if name == "global" or not directory or "%" in directory or directory in seen:
                continue
            modules = self._option(options, "vfs objects").split()
            if self._option(options, "available").lower() == "no" or _REMOTE_MODULES.intersection(modules):
                continue
            seen.add(directory)
            yield directory

    def _option(self, share: Mapping[str, str], name: str) -> str:
        return share.get(name, self.sections["global"].get(name, ""))


class KeptConfiguration:
    """The copy of the configuration in a service's own directory."""

    def __init__(self, state: Path) -> None:
        self._copy = state / "smb.conf"
        self._trouble = state / "smb.conf.trouble"

    def load(self) -> SambaConfiguration | None:
        """The copy; None if there is none yet."""
        try:
            return SambaConfiguration.parse(self._copy.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return None

    def read(self) -> SambaConfiguration:
        """Ask testparm now, and keep what it says. Raises ServiceError."""
        said = commands.run(_TESTPARM, timeout_s=_TESTPARM_LIMIT_S)
        draft = self._copy.with_suffix(f".{os.getpid()}")
        draft.write_text(said.output, encoding="utf-8")
        draft.rename(self._copy)
        self._trouble.unlink(missing_ok=True)
        return SambaConfiguration.parse(said.output)

    def refresh(self) -> None:
        """Have testparm asked for the next event; this one does not wait."""
        commands.leave_running(["sh", "-c", _REFRESH, "sh", str(self._copy)])

    def trouble(self) -> str | None:
        """Why the last refresh failed; None if it did not."""
        try:
            said = self._trouble.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        return "; ".join(said.split("\n")[-3:-1])

    def forget(self) -> None:
        """Have the next event read the configuration anew."""
        self._copy.unlink(missing_ok=True)
