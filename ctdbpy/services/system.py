# SPDX-License-Identifier: GPL-3.0-or-later
"""The means of this node: file systems, memory, load; each may have a limit that warns and one that fails.

A warning is said once when usage passes the limit and once when it is back, what makes unhealthy each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psutil

from ctdbpy.errors import ServiceError
from ctdbpy.services import configured, directories, state
from ctdbpy.services.event import Event

FILE_SYSTEMS: Final = "CTDB_MONITOR_FILESYSTEM_USAGE"
MEMORY: Final = "CTDB_MONITOR_MEMORY_USAGE"
LOAD: Final = "CTDB_MONITOR_LOAD"

_WARN_FILE_SYSTEM: Final = 90
_WARN_MEMORY: Final = "80"
#: More than a busy file system takes, and all of them together less than an event may.
_HUNG_S: Final = 5.0
_LOAD_MAX: Final = 10_000
_PERCENT_MAX: Final = 100
_BIGGEST: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on usage is told, and makes the node unhealthy; in percent, None for never."""

    warn: int | None
    unhealthy: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of something is used, in percent."""

    what: str
    percent: int
    limits: Limits


def run(event: Event) -> None:
    """Do an event. Raises ServiceError."""
    if event.name != "monitor":
        return
    keep = event.keep("system")
    note = keep / "warned.json"
    kept = state.read(note)
    before = set(kept) if isinstance(kept, list) else set()
    warned: set[str] = set()
    bad: list[str] = []
    for usage in _usages(event, bad):
        if _is_over(usage.percent, usage.limits.unhealthy):
            bad.append(
                f"{usage.what} is used to {usage.percent} %, and {usage.limits.unhealthy} % is the limit"
            )
            if usage.what == "memory" and usage.what not in before:
                bad.append(f"the biggest processes are {_biggest()}")
        elif _is_over(usage.percent, usage.limits.warn):
            if usage.what not in before:
                event.warnings.append(
                    f"WARNING: {usage.what} is used to {usage.percent} %, {usage.limits.warn} % is a warning"
                )
        else:
            if usage.what in before:
                event.warnings.append(f"NOTICE: {usage.what} is used to {usage.percent} % again")
            continue
        warned.add(usage.what)
    if warned != before:
        state.write(note, sorted(warned))
    if bad:
        raise ServiceError("; ".join(bad))


def read_limits(event: Event, option: str, text: str, most: int = _PERCENT_MAX) -> Limits:
    """The limits in `WARN[:UNHEALTHY]`, either of them empty for none. Raises ServiceError."""
    warn, _, unhealthy = text.partition(":")
    try:
        limits = Limits(_number(warn, most), _number(unhealthy, most))
    except ValueError:
        raise event.misuse(
            option, f"'{text}' is no WARN[:UNHEALTHY] in percent, each up to {most} or empty"
        ) from None
    return limits


def _usages(event: Event, bad: list[str]) -> Iterator[Usage]:
    """What is to be looked at; what hangs is added to `bad`. Options are read before that."""
    file_systems = dict(_file_systems(event))
    memory = read_limits(event, MEMORY, event.text(MEMORY, _WARN_MEMORY))
    load = read_limits(event, LOAD, event.text(LOAD), _LOAD_MAX)
    for directory, limits in file_systems.items():
        usage = _file_system(event, directory, limits, len(file_systems), bad)
        if usage is not None:
            yield usage
    yield Usage("memory", _memory_percent(), memory)
    average = psutil.getloadavg()[1]
    yield Usage("the processors' load of 5 minutes", int(100 * average / (psutil.cpu_count() or 1)), load)


def _file_systems(event: Event) -> Iterator[tuple[str, Limits]]:
    words = event.words(FILE_SYSTEMS)
    for word in words:
        directory, colon, text = word.partition(":")
        if not directory.startswith("/") or not colon:
            raise event.misuse(FILE_SYSTEMS, f"'{word}' is no DIRECTORY:WARN[:UNHEALTHY]")
        yield directory, read_limits(event, FILE_SYSTEMS, text)
    if not words:
        for path in configured.paths(event).databases:
            yield str(path), Limits(_WARN_FILE_SYSTEM, None)


def _file_system(event: Event, directory: str, limits: Limits, count: int, bad: list[str]) -> Usage | None:
    # Each has its own memory of what hangs: one that does keeps none of the others from being looked at.
    keep = event.keep(f"system/{directory.strip('/').replace('/', '-') or 'root'}")
    try:
        directories.check("the directory", [directory], timeout_s=_HUNG_S / count, state=keep)
    except ServiceError as error:
        # Without a limit it was only to be told of.
        if limits.unhealthy is None:
            event.warnings.append(f"WARNING: {error}")
        else:
            bad.append(str(error))
        return None
    return Usage(f"file system '{directory}'", round(psutil.disk_usage(directory).percent), limits)


def _memory_percent() -> int:
    """Of memory and swap space together."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return int(100 * (memory.total - memory.available + swap.used) / (memory.total + swap.total))


def _biggest() -> str:
    found = [
        (p.info["memory_info"], p.info["name"], p.pid) for p in psutil.process_iter(["memory_info", "name"])
    ]
    known = sorted(((memory.rss >> 20, name, pid) for memory, name, pid in found if memory), reverse=True)
    return ", ".join(f"{name}[{pid}] with {size} MiB" for size, name, pid in known[:_BIGGEST])


def _number(text: str, most: int) -> int | None:
    if not text:
        return None
    number = int(text)
    if not 0 <= number <= most:
        raise ValueError
    return number


def _is_over(percent: int, limit: int | None) -> bool:
    return limit is not None and percent >= limit
