# SPDX-License-Identifier: GPL-3.0-or-later
"""The public addresses of a simulated machine, and the process that holds them as `host.address_helper` does.

The kernel keeps addresses while the power is on. The process removes what it put when its daemon ends, and
when the lease on addresses is over; it stands still with its machine, but not with its daemon.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

from ctdbpy.core import effects, inputs
from ctdbpy.sim.world import World

if TYPE_CHECKING:
    from ctdbpy.sim.node import SimNode

INTERFACE: Final = "pub0"
DEED_S: Final = (0.0001, 0.003)
#: From the daemon's end until its addresses are gone.
DROP_S: Final = (0.001, 0.01)
SEEN_S: Final = 0.01

_Deed = effects.PutAddress | effects.RemoveAddress


class SimHost:
    """One machine's addresses through all lives of its daemon."""

    def __init__(self, world: World, node: SimNode) -> None:
        self._world = world
        self._node = node
        # Its own: runs without addresses draw the same numbers as ever.
        self._random = Random(f"host {node.pnn} of {world.seed}")
        #: The address and its prefix length.
        self.carried: dict[str, int] = {}
        #: What the process that runs now has put.
        self._held: set[str] = set()
        self._free_s = 0.0
        self._wake_s: float | None = None
        self._is_telling = False
        self._grants_until_s: float | None = None

    @property
    def answers(self) -> frozenset[str]:
        """The addresses that this machine answers for just now."""
        return frozenset(self.carried) if self._node.has_power and not self._node.is_paused else frozenset()

    # -- its daemon ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """A daemon has started, and a process for it."""
        self._held = set()
        self._wake_s = None
        self._grants_until_s = None
        self._is_telling = False
        self._changed()

    def daemon_gone(self) -> None:
        """It has ended: what was put for it goes."""
        held, self._held = self._held, set()
        if not held:
            return

        def drop() -> None:
            if self._node.has_power:
                for address in sorted(held):
                    self.carried.pop(address, None)
                self._node.on_addresses(self._node)

        self._world.later(self._random.uniform(*DROP_S), drop)

    def power_lost(self) -> None:
        """The kernel is gone."""
        self._held = set()
        self.carried.clear()

    def carry_out(self, deed: _Deed) -> None:
        """Do it soon, and after what was asked for before."""
        now_s = self._world.now_s
        self._free_s = max(self._free_s, now_s) + self._random.uniform(*DEED_S)
        self._node.host_later(self._free_s - now_s, partial(self._do, deed))

    def _do(self, deed: _Deed) -> None:
        error = ""
        match deed:
            case effects.PutAddress(_, address, prefix):
                left_s = self._left_s()
                if left_s is not None and left_s <= 0:
                    error = "the lease is over"
                else:
                    self.carried[address] = prefix
                    self._held.add(address)
            case effects.RemoveAddress(_, address):
                self.carried.pop(address, None)
                self._held.discard(address)
        done = inputs.AddressDone(deed.deed_id, error)
        self._node.later(0.0, lambda: self._node.step(done))
        self._changed()
        self.look()

    def _changed(self) -> None:
        self._node.on_addresses(self._node)
        if not self._is_telling:
            self._is_telling = True
            self._node.host_later(SEEN_S, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        standing = tuple(inputs.HostAddress(*each, INTERFACE) for each in sorted(self.carried.items()))
        seen = inputs.HostSeen((inputs.LinkState(INTERFACE, True),), standing)
        self._node.later(0.0, lambda: self._node.step(seen))

    # -- the lease --------------------------------------------------------------------------------------

    def want_lease(self, grace_s: float | None) -> None:
        """Hold addresses only under the lease, which the guard writes down within this time."""
        if grace_s is None:
            self._grants_until_s = None
        elif self._grants_until_s is None:
            self._grants_until_s = self._world.now_s + grace_s

    def _left_s(self) -> float | None:
        until_s: float | None = self._node.guard.hold_until_s
        if until_s is None:
            until_s = self._grants_until_s
        return None if until_s is None else until_s - self._world.now_s

    def look(self) -> None:
        """Drop everything when the lease is over: now, if the guard has made it shorter, or when it ends."""
        left_s = self._left_s() if self._held else None
        if left_s is None:
            return
        if left_s <= 0:
            held, self._held = self._held, set()
            for address in held:
                self.carried.pop(address, None)
            self._world.say(f"n{self._node.pnn} drops {len(held)} addresses: its lease on them is over")
            self._changed()
            return
        wake_s = self._world.now_s + left_s
        if self._wake_s is None or not self._world.now_s < self._wake_s <= wake_s:
            self._wake_s = wake_s
            self._node.host_later(left_s, self._wake)

    def _wake(self) -> None:
        self._wake_s = None
        self.look()
