# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon is configured with, for scripts that need it: from the cluster file or upstream's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ctdbpy.config.paths import Paths
from ctdbpy.config.public_addresses import PublicAddress, load_public_addresses
from ctdbpy.config.settings import Settings, load_ctdb_conf
from ctdbpy.errors import ConfigError, ServiceError
from ctdbpy.services.event import Event

if TYPE_CHECKING:
    from ctdbpy.config.configuration import Configuration


def settings(event: Event) -> Settings:
    """The settings. Raises ServiceError."""
    try:
        cluster = _cluster(_places(event))
        return cluster.settings if cluster else load_ctdb_conf(event.base / "ctdb.conf")[0]
    except ConfigError as error:
        raise ServiceError(str(error)) from None


def paths(event: Event) -> Paths:
    """The directories and sockets, as set or by default. Raises ServiceError."""
    return _places(event).with_settings(settings(event))


def public_addresses(event: Event) -> tuple[PublicAddress, ...]:
    """The public addresses that this node may have. Raises ServiceError."""
    try:
        places = _places(event)
        cluster = _cluster(places)
        return cluster.public_addresses if cluster else load_public_addresses(places.public_addresses)
    except ConfigError as error:
        raise ServiceError(str(error)) from None


def has_cluster_file(event: Event) -> bool:
    """Whether the cluster file counts, and upstream's do not. Raises ServiceError."""
    try:
        return _places(event).cluster.exists()
    except ConfigError as error:
        raise ServiceError(str(error)) from None


def _places(event: Event) -> Paths:
    return replace(Paths.from_environment(event.environ), etc=event.base)


def _cluster(places: Paths) -> Configuration | None:
    """What the cluster file says, if that is what counts. Raises ConfigError."""
    if not places.cluster.exists():
        return None
    # Where upstream's files count, reading YAML is not paid for at every event.
    from ctdbpy.config.configuration import load

    return load(places)
