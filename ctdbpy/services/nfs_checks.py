# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the RPC services of NFS answer, and what follows when one does not.

What is checked stands in files `NN.SERVICE.check` of nfs-checks.d, as administrators know them from upstream;
without any such file the services below are checked.

Source: reference/ctdb.md 4.4.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands, oncrpc
from ctdbpy.services.event import Event
from ctdbpy.services.oncrpc import Service

_PROGRAMS: Final = {
    "portmapper": Service("portmapper", oncrpc.PORTMAPPER, 2, oncrpc.PORTMAPPER_PORT),
    "status": Service("status", oncrpc.STATUS, 1),
    "nfs": Service("nfs", oncrpc.NFS, 3),
    "mountd": Service("mountd", oncrpc.MOUNT, 3),
    "nlockmgr": Service("nlockmgr", oncrpc.LOCK_MANAGER, 4),
    "rquotad": Service("rquotad", oncrpc.QUOTA, 1),
}
_FAMILIES: Final = ("tcp", "tcp6", "udp", "udp6")
_RPC_LIMIT_S: Final = 5.0
_COMMAND_LIMIT_S: Final = 10.0
_CALLOUT: Final = "CTDB_NFS_CALLOUT"


@dataclass(frozen=True, slots=True)
class Check:
    """One service. unhealthy_after, restart_every: numbers of failures in a row; 0 is never.

    commands: of the administrator's own, by their names in the file: service_check_cmd, service_stop_cmd,
    service_start_cmd, service_debug_cmd.
    """

    service: str
    families: tuple[str, ...] = ("tcp",)
    version: int | None = None
    unhealthy_after: int = 1
    restart_every: int = 0
    commands: tuple[tuple[str, str], ...] = ()

    def command(self, name: str) -> str:
        """The administrator's command; empty for none, or one that has us do it."""
        text = dict(self.commands).get(f"service_{name}_cmd", "")
        return "" if _CALLOUT in text else text


DEFAULTS: Final = (
    Check("portmapper"),
    Check("status", unhealthy_after=6, restart_every=2),
    Check("nfs", unhealthy_after=2, restart_every=10),
    Check("nlockmgr", unhealthy_after=6, restart_every=2),
    Check("mountd", unhealthy_after=6, restart_every=2),
)


def wanted(event: Event) -> list[Check]:
    """The checks of this node, in their order. Raises ServiceError about a file that makes no sense."""
    directory = Path(event.text("CTDB_NFS_CHECKS_DIR", str(event.base / "nfs-checks.d")))
    files = sorted(directory.glob("[0-9][0-9].*.check"))
    if not files:
        return list(DEFAULTS)
    return [read(file) for file in files]


def read(file: Path) -> Check:
    """A check as a file describes it. Raises ServiceError that names file and line."""
    service = file.name.split(".", 2)[1]
    check = Check(service)
    own: list[tuple[str, str]] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"cannot read '{file}': {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ServiceError(f"cannot use line {number} of '{file}': {error}") from None
        if not words:
            continue
        name, equals, value = " ".join(words).partition("=")
        try:
            check = _with(check, own, name, value if equals else None)
        except ValueError as error:
            raise ServiceError(f"cannot use line {number} of '{file}', '{line}': {error}") from None
    check = replace(check, commands=tuple(own))
    if service not in _PROGRAMS and not check.command("check"):
        known = ", ".join(_PROGRAMS)
        raise ServiceError(
            f"cannot use '{file}': '{service}' needs a service_check_cmd, for only these are known: {known}"
        )
    return check


def run(event: Event, checks: list[Check], restart: Callable[[str], None], state: Path) -> None:
    """Make all checks at once; then restart what has failed so often.

    state: where the numbers of failures are kept between events. Raises ServiceError when a service has
    failed often enough for the node to be unhealthy.
    """
    counts = _read_counts(state)
    with ThreadPoolExecutor(max(1, len(checks))) as pool:
        reasons = list(pool.map(lambda check: _reason(event, check), checks))
    complaint = ""
    try:
        for check, reason in zip(checks, reasons, strict=True):
            counts[check.service] = counts.get(check.service, 0) + 1 if reason else 0
            failures = counts[check.service]
            if not reason:
                continue
            is_enough = 0 < check.unhealthy_after <= failures
            times = "1 failure" if failures == 1 else f"{failures} failures in a row"
            if is_enough and not complaint:
                complaint = f"{reason} ({times})"
            elif not is_enough:
                event.warnings.append(f"{reason} ({times})")
            if check.restart_every and failures % check.restart_every == 0:
                event.warnings.append(f"{check.service} is restarted")
                _restart(event, check, restart)
    finally:
        _write_counts(state, counts)
    if complaint:
        raise ServiceError(complaint)


# -- private -----------------------------------------------------------------------------------


def _with(check: Check, own: list[tuple[str, str]], name: str, value: str | None) -> Check:
    if value is None:
        raise ValueError("it must be NAME=VALUE")
    match name:
        case "family":
            families = tuple(value.split())
            strange = [family for family in families if family not in _FAMILIES]
            if strange or not families:
                raise ValueError(f"family must be of {', '.join(_FAMILIES)}")
            return replace(check, families=families)
        case "version":
            return replace(check, version=_number(value))
        case "unhealthy_after":
            return replace(check, unhealthy_after=_number(value))
        case "restart_every":
            return replace(check, restart_every=_number(value))
        case (
            "service_check_cmd"
            | "service_stop_cmd"
            | "service_start_cmd"
            | "service_debug_cmd"
            | "service_stats_cmd"
        ):
            own.append((name, value))
            return check
    raise ValueError(f"'{name}' is unknown")


def _number(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ValueError("it must be a whole number")
    return int(value)


def _reason(event: Event, check: Check) -> str:
    """Why a check has failed; empty if it has not."""
    try:
        if check.command("check"):
            commands.run(["sh", "-c", check.command("check")], timeout_s=_COMMAND_LIMIT_S)
            return ""
        service = _PROGRAMS[check.service]
        if check.version is not None and check.service != "portmapper":
            service = replace(service, version=check.version)
        for family in check.families:
            is_ipv6 = family.endswith("6")
            address = (
                event.text("CTDB_RPCINFO_LOCALHOST6", "::1")
                if is_ipv6
                else event.text("CTDB_RPCINFO_LOCALHOST", "127.0.0.1")
            )
            oncrpc.null(address, service, family.removesuffix("6"), timeout_s=_RPC_LIMIT_S)
    except ServiceError as error:
        return str(error)
    return ""


def _restart(event: Event, check: Check, restart: Callable[[str], None]) -> None:
    try:
        if not check.command("start"):
            restart(check.service)
            return
        for verb in ("stop", "debug", "start"):
            if check.command(verb):
                commands.run(
                    ["sh", "-c", check.command(verb)], timeout_s=_COMMAND_LIMIT_S, check=verb == "start"
                )
    except ServiceError as error:
        event.warnings.append(str(error))


def forget(state: Path) -> None:
    """Begin to count anew."""
    state.unlink(missing_ok=True)


def _read_counts(state: Path) -> dict[str, int]:
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): int(count) for name, count in _items(found) if isinstance(count, int)}


def _items(found: object) -> Iterable[tuple[object, object]]:
    return found.items() if isinstance(found, dict) else ()


def _write_counts(state: Path, counts: dict[str, int]) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    draft = state.with_name(state.name + ".new")
    draft.write_text(json.dumps(counts), encoding="utf-8")
    draft.rename(state)
