# SPDX-License-Identifier: GPL-3.0-or-later
"""The frozen settings the daemon starts with, and how they are read from ctdb.conf."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ctdbpy.config.files import read_text
from ctdbpy.config.inifile import Malformed, Option, Section, parse_items
from ctdbpy.config.loglevels import LOG_LEVELS
from ctdbpy.config.table import SETTINGS, SettingSpec
from ctdbpy.config.values import Context, Invalid, Quorum, Value
from ctdbpy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything ctdb.conf can say. Directories that are None are `Paths`' to choose."""

    log_location: str = "file:/var/log/ctdb/log.ctdb"
    log_level: int = LOG_LEVELS["NOTICE"]
    log_format: str = "text"
    cluster_lock: str | None = None
    recovery_lock: str | None = None
    leader_capability: bool = True
    leader_timeout_s: int = 5
    node_address: str | None = None
    transport: str = "tcp"
    nodes_list: str | None = None
    quorum: Quorum = Quorum.AUTO
    fence_command: str | None = None
    fence_timeout_s: int = 20
    port: int | None = None
    volatile_directory: Path | None = None
    persistent_directory: Path | None = None
    state_directory: Path | None = None
    lock_debug_script: Path | None = None
    tdb_mutexes: bool = True
    event_debug_script: Path | None = None
    failover_disabled: bool = False
    puts_addresses: bool = True
    scripts_first: bool | None = None
    shutdown_failover_timeout_s: int = 10
    shutdown_extra_timeout_s: int = 0
    realtime_scheduling: bool = True
    lmaster_capability: bool = True
    start_as_stopped: bool = False
    start_as_disabled: bool = False
    script_log_level: int = LOG_LEVELS["ERROR"]

    @property
    def lock(self) -> str | None:
        """The cluster lock: a file, or `!` and a command. The old name counts when the new one is not set."""
        return self.cluster_lock if self.cluster_lock is not None else self.recovery_lock

    def quorum_for(self, nodes: int) -> Quorum:
        """What a cluster of this size needs: a majority from three nodes up, else the lock if one is set."""
        if self.quorum is not Quorum.AUTO:
            return self.quorum
        if nodes >= 3:
            return Quorum.MAJORITY
        return Quorum.LOCK if self.lock is not None else Quorum.NONE


_SECTIONS = {spec.section for spec in SETTINGS}
_BY_NAME = {(spec.section, spec.option): spec for spec in SETTINGS}


def load_ctdb_conf(path: Path) -> tuple[Settings, tuple[str, ...]]:
    """Read ctdb.conf; a missing file gives the defaults. Return the settings and warnings for the log.

    What upstream accepts is accepted: unknown sections and options are only warned about. Scripts are looked
    for in the file's own directory. Raises ConfigError that lists every wrong line.
    """
    text = read_text(path)
    if text is None:
        return Settings(), (f"'{path}' is not there; every setting has its default",)
    problems: list[str] = []
    warnings: list[str] = []
    values: dict[str, Value] = {}
    for line, spec, raw in _known_options(text, str(path), problems, warnings):
        where = f"{path}:{line}: [{spec.section}] {spec.option}"
        if raw == "":
            problems.append(f"{where}: the value is empty; give one or leave the line out")
            continue
        context = Context(path.parent, lambda note, where=where: warnings.append(f"{where}: {note}"))  # type: ignore[misc]
        try:
            values[spec.field] = spec.read(raw, context)
        except Invalid as error:
            problems.append(f"{where}: '{raw}' is not valid: {error}")
    settings = replace(Settings(), **values)  # type: ignore[arg-type]
    if settings.quorum is Quorum.LOCK and settings.lock is None:
        where = place_of(path, "cluster", "quorum")
        problems.append(f"{where}: 'lock' needs a lock; set 'cluster lock' too")
    if problems:
        raise ConfigError("cannot load the settings: " + "\n".join(problems))
    return settings, tuple(warnings)


def place_of(path: Path, section: str, option: str) -> str:
    """Where ctdb.conf sets an option, as errors name it; of several lines the one that counts, the last."""
    text = read_text(path) or ""
    places = [
        f"{path}:{line}: [{section}] {option}"
        for line, spec, _raw in _known_options(text, str(path), [], [])
        if (spec.section, spec.option) == (section, option)
    ]
    return places[-1] if places else f"{path}: [{section}] {option}"


def _known_options(
    text: str, path: str, problems: list[str], warnings: list[str]
) -> Iterator[tuple[int, SettingSpec, str]]:
    """Yield (line, row, text) of each option that has a row; sections in any case, options as written."""
    section: str | None = None
    for item in parse_items(text):
        match item:
            case Malformed(line, bad, reason):
                problems.append(f"{path}:{line}: '{bad}': {reason}")
            case Section(line, name):
                section = name.lower() if name.lower() in _SECTIONS else None
                if section is None:
                    warnings.append(
                        f"{path}:{line}: unknown section '[{name}]' is ignored{_like(name, _SECTIONS)}"
                    )
            case Option(line, name, None):
                warnings.append(f"{path}:{line}: '{name}' is ignored: it has no '='")
            case Option(line, name, str(raw)):
                if section is None:
                    warnings.append(f"{path}:{line}: '{name}' is ignored: it stands in no known section")
                elif (spec := _BY_NAME.get((section, name))) is not None:
                    yield line, spec, raw
                else:
                    options = {option for of, option in _BY_NAME if of == section}
                    hint = _like(name, options)
                    warnings.append(f"{path}:{line}: unknown option '{name}' in [{section}] is ignored{hint}")


def _like(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
