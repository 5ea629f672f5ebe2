# SPDX-License-Identifier: GPL-3.0-or-later
"""An event as a service sees it, and the table of services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError

#: Name of a service -> its module, which has `run(event: Event) -> None` and raises ServiceError.
SERVICES: Final[dict[str, str]] = {
    "backup": "ctdbpy.services.backup",
    "database": "ctdbpy.services.database",
    "functions": "ctdbpy.services.functions",
    "iscsi": "ctdbpy.services.iscsi.events",
    "lvs": "ctdbpy.services.lvs",
    "multipath": "ctdbpy.services.multipath",
    "natgw": "ctdbpy.services.natgw",
    "netbios": "ctdbpy.services.netbios",
    "nfs": "ctdbpy.services.nfs",
    "nlm": "ctdbpy.services.nlm",
    "policy_routing": "ctdbpy.services.policy_routing",
    "reclock": "ctdbpy.services.reclock",
    "samba": "ctdbpy.services.samba",
    "statd": "ctdbpy.services.nfs_clients",
    "system": "ctdbpy.services.system",
    "winbind": "ctdbpy.services.winbind",
}

_YES: Final = frozenset({"yes", "true", "on", "1"})
_NO: Final = frozenset({"no", "false", "off", "0", ""})


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, and the options that the script has loaded into its environment.

    name: the event's word ("monitor"). arguments: what upstream passes with it. base: /etc/ctdb.
    state: a directory of the services' own; `00.ctdb` empties it when the daemon starts, but for `lasting`.
    warnings: lines for the log that make no event fail. answers: lines for whoever asks something else.
    """

    name: str
    arguments: tuple[str, ...]
    base: Path
    state: Path
    environ: Mapping[str, str] = field(repr=False)
    warnings: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @classmethod
    def from_environment(cls, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Event:
        """The event of a script that was started with this environment."""
        return cls(
            name,
            tuple(arguments),
            Path(environ.get("CTDB_BASE", "/etc/ctdb")),
            Path(environ.get("CTDB_SCRIPT_VARDIR", "/var/lib/ctdb/scripts")),
            environ,
        )

    def keep(self, service: str) -> Path:
        """The directory where a service keeps what its next event has to know; made if it is not there."""
        directory = self.state / service
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    # -- options: each that is not understood gives one clear line ---------------------------------

    def text(self, option: str, default: str = "") -> str:
        """An option's value; one that is empty counts as not set."""
        return self.environ.get(option, "") or default

    def words(self, option: str, default: str = "") -> tuple[str, ...]:
        """An option's value cut at blanks."""
        return tuple(self.text(option, default).split())

    def flag(self, option: str, *, default: bool) -> bool:
        """An option that is yes or no. Raises ServiceError."""
        value = self.environ.get(option, "").lower()
        if not value:
            return default
        if value in _YES:
            return True
        if value in _NO:
            return False
        raise self.misuse(option, "it must be 'yes' or 'no'")

    def number(self, option: str, default: int, *, least: int = 0, most: int | None = None) -> int:
        """An option that is a whole number from `least` to `most`. Raises ServiceError."""
        value = self.text(option)
        if not value:
            return default
        bounds = f"from {least}" + ("" if most is None else f" to {most}")
        try:
            number = int(value)
        except ValueError:
            raise self.misuse(option, f"it must be a whole number {bounds}") from None
        if number < least or (most is not None and number > most):
            raise self.misuse(option, f"it must be {bounds}")
        return number

    def misuse(self, option: str, rule: str) -> ServiceError:
        """The one line about an option that is wrong."""
        value = self.environ.get(option, "")
        return ServiceError(f"cannot use {option}='{value}' of '{self.base}/script.options': {rule}")
