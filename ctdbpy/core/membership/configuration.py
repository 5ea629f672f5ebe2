# SPDX-License-Identifier: GPL-3.0-or-later
"""How the node runs, set beside how it would: asked by tools before anything is changed."""

from __future__ import annotations

from ctdbpy.core.effects import LookAtConfiguration
from ctdbpy.core.inputs import ConfigurationSeen, NodeAddress, PublicAddress
from ctdbpy.core.procedures import Promise
from ctdbpy.core.state import HEARD, State
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.structures import ConfigurationAction


class Configuration:
    """Looks at the configuration that are under way."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._looks: dict[int, Promise[ConfigurationSeen]] = {}
        self._last_look = 0

    def look(
        self, action: ConfigurationAction, text: str, addresses: tuple[PublicAddress, ...]
    ) -> Promise[ConfigurationSeen]:
        """Have it looked at; `addresses` are the public ones that this node knows."""
        state = self._state
        self._last_look += 1
        promise: Promise[ConfigurationSeen] = Promise()
        self._looks[self._last_look] = promise
        nodes = tuple(
            NodeAddress(node.pnn, node.address, bool(node.flags & NodeFlag.DELETED)) for node in state.nodes
        )
        unheard = tuple(
            node.pnn
            for node in state.others()
            if node.is_connected and state.sights.get(node.pnn) not in HEARD
        )
        state.emit(
            LookAtConfiguration(
                self._last_look, action, text, nodes, addresses, state.tunables, state.log_level, unheard
            )
        )
        return promise

    def seen(self, seen: ConfigurationSeen) -> None:
        """It was looked at."""
        promise = self._looks.pop(seen.look_id, None)
        if promise is not None:
            promise.resolve(seen)
