# SPDX-License-Identifier: GPL-3.0-or-later
"""Read-only copies of a record taken back before somebody writes it.

Source: reference/ctdb.md 7.4.
"""

from __future__ import annotations

from ctdbpy.core.inputs import RevokeWanted
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import State
from ctdbpy.wire.controls import Control


async def revoke(state: State, routing: Routing, wanted: RevokeWanted) -> None:
    """Have every node that has a copy store the record without read-only flags; all must, or none counts."""
    generation = state.generation
    answers = [routing.call(pnn, Control.UPDATE_RECORD, wanted.buffer) for pnn in wanted.nodes]
    good = True
    for answer in answers:
        good = (await answer).is_good and good
    # A recovery has voided every copy; an answer from before it must not end a revocation begun since.
    if wanted.db_id in state.databases and state.generation == generation:
        state.records.revoked(wanted.db_id, wanted.key, good)
