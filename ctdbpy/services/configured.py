# SPDX-License-Identifier: GPL-3.0-or-later
"""What ctdb.conf says, for scripts that need it."""

from __future__ import annotations

from dataclasses import replace

from ctdbpy.config.paths import Paths
from ctdbpy.config.settings import Settings, load_ctdb_conf
from ctdbpy.errors import ConfigError, ServiceError
from ctdbpy.services.event import Event


def settings(event: Event) -> Settings:
    """The settings. Raises ServiceError."""
    try:
        return load_ctdb_conf(event.base / "ctdb.conf")[0]
    except ConfigError as error:
        raise ServiceError(str(error)) from None


def paths(event: Event) -> Paths:
    """The directories and sockets, as set or by default. Raises ServiceError."""
    try:
        return replace(Paths.from_environment(event.environ), etc=event.base).with_settings(settings(event))
    except ConfigError as error:
        raise ServiceError(str(error)) from None
