# SPDX-License-Identifier: GPL-3.0-or-later
"""From an administrator's files to frozen settings: reads files, hands out plain values.

Public names: `load`, `Configuration`, `Paths`, `Settings`, `NodeAddress`, `PublicAddress`, `find_own_node`.
"""

from __future__ import annotations

from ctdbpy.config.configuration import Configuration, load
from ctdbpy.config.nodes import NodeAddress, find_own_node, load_nodes
from ctdbpy.config.paths import Paths
from ctdbpy.config.public_addresses import PublicAddress, load_public_addresses
from ctdbpy.config.settings import Settings, load_ctdb_conf
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.tunables_file import load_tunables
from ctdbpy.config.values import Quorum

__all__ = [
    "SETTINGS",
    "Configuration",
    "NodeAddress",
    "Paths",
    "PublicAddress",
    "Quorum",
    "Settings",
    "find_own_node",
    "load",
    "load_ctdb_conf",
    "load_nodes",
    "load_public_addresses",
    "load_tunables",
]
