# SPDX-License-Identifier: GPL-3.0-or-later
"""Every control and what answers it: one table, `TABLE`.

A handler gets the rooms, the request and the request's decoded value. It returns its reply, or a
procedure that ends with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ctdbpy.core.controls import (
    addresses,
    clients,
    cluster,
    databases,
    diagnostics,
    freezes,
    nodes,
    own,
    traverses,
    tunables,
)
from ctdbpy.core.controls.handlers import Handler
from ctdbpy.wire.controls import Control

TABLE: Final[Mapping[Control, Handler]] = MappingProxyType(
    {
        **addresses.HANDLERS,
        **clients.HANDLERS,
        **cluster.HANDLERS,
        **databases.HANDLERS,
        **diagnostics.HANDLERS,
        **freezes.HANDLERS,
        **nodes.HANDLERS,
        **own.HANDLERS,
        **traverses.HANDLERS,
        **tunables.HANDLERS,
    }
)

#: Their data may be megabytes of records that only a worker reads: handlers get it as it is.
RAW: Final = frozenset({Control.TRANS3_COMMIT, Control.UPDATE_RECORD, Control.TRAVERSE_DATA})
