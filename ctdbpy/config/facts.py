# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration as facts, each a name and a text: to compare nodes, and before with after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ctdbpy.config.configuration import Configuration
from ctdbpy.config.loglevels import LOG_LEVELS
from ctdbpy.config.settings import Settings
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.values import Quorum
from ctdbpy.wire.tunables import OWN_TUNABLES, TUNABLES

#: What the facts of one kind begin with.
NODE: Final = "node "
ADDRESS: Final = "address "
HOME: Final = "home "
TUNABLE: Final = "tunable "
SERVICE: Final = "service "
FILES: Final = "configuration"

_LOCK: Final = "[cluster] cluster lock"
_QUORUM: Final = "[cluster] quorum"
_PORT: Final = "[cluster] port"
#: Facts made up of several settings, or told by others.
_TOGETHER: Final = ("cluster_lock", "recovery_lock", "quorum", "port", "nodes_list", "node_address")
_SHARED: Final = frozenset(f"[{row.section}] {row.option}" for row in SETTINGS if row.shared)
_LEVELS: Final = {number: name for name, number in LOG_LEVELS.items()}

Facts = Mapping[str, str]


def facts_of(configuration: Configuration) -> dict[str, str]:
    """Everything that decides how the daemon runs; no fact has a line break in it."""
    settings = configuration.settings
    facts = {
        _LOCK: settings.lock or "none",
        _QUORUM: configuration.quorum.value,
        _PORT: str(configuration.port),
    }
    for row in SETTINGS:
        if row.field not in _TOGETHER:
            facts[f"[{row.section}] {row.option}"] = setting_text(settings, row.field)
    for node in configuration.nodes:
        facts[f"{NODE}{node.pnn}"] = "deleted" if node.deleted else node.address
    for each in configuration.public_addresses:
        facts[f"{ADDRESS}{each.address}"] = f"/{each.prefix} on {','.join(each.interfaces)}"
    for address, pnn in configuration.home_nodes:
        facts[f"{HOME}{address}"] = str(pnn)
    for spec in (*TUNABLES, *OWN_TUNABLES):
        if not spec.obsolete:
            facts[f"{TUNABLE}{spec.name}"] = str(configuration.tunables.get(spec.name))
    for option in configuration.script_options or ():
        facts[f"{SERVICE}{option.script} {option.name}"] = option.value
    cluster = configuration.cluster
    facts[FILES] = "upstream's files" if cluster is None else f"cluster.yaml {cluster.digest}"
    return facts


def setting_text(settings: Settings, field: str) -> str:
    """A setting's value as a file would have it; "default" for what is not set."""
    value = getattr(settings, field)
    match value:
        case None:
            return "default"
        case bool():
            return "true" if value else "false"
        case Quorum():
            return value.value
        case int() if field.endswith("log_level"):
            return _LEVELS.get(value, str(value))
        case Path():
            return str(value)
        case _:
            return str(value)


def is_shared(name: str) -> bool:
    """Whether nodes that differ in this fact do harm to each other; others may differ for good reasons."""
    return name in _SHARED or name == FILES or name.startswith((NODE, HOME, TUNABLE))


def facts_text(facts: Facts) -> str:
    """The facts as lines, in their order."""
    return "".join(f"{name} = {value}\n" for name, value in facts.items())


def parse_facts(text: str) -> dict[str, str]:
    """What `facts_text` wrote."""
    pairs = (line.partition(" = ") for line in text.split("\n") if line)
    return {name: value for name, _equals, value in pairs}


def changes(before: Facts, after: Facts) -> Iterator[tuple[str, str | None, str | None]]:
    """(name, before, after) of every fact that changes; None where there is none."""
    for name in (*before, *(name for name in after if name not in before)):
        if before.get(name) != after.get(name):
            yield name, before.get(name), after.get(name)
