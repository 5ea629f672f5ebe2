# SPDX-License-Identifier: GPL-3.0-or-later
"""The asyncio selector whose `select` is the record engine's wait loop.

Stock asyncio runs on top: its own descriptors stay in an epoll of their own, which is
nested in the poller's. `select` returns for them and for upcalls of the engine; records
and messages never come up to Python.
"""

from __future__ import annotations

import os
import selectors

from ctdbpy.daemon.poller import Poller


class EngineSelector(selectors.EpollSelector):
    """Waits inside the engine. `on_upcalls` runs on the loop whenever the engine has something to say."""

    def __init__(self, poller: Poller) -> None:
        super().__init__()
        self._poller = poller
        poller.nest(self.fileno())
        # Never readable: only its key serves, as the name of "the engine has upcalls".
        self._upcalls_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def upcalls_fd(self) -> int:
        """Descriptor to `add_reader` for the callback that takes upcalls."""
        return self._upcalls_fd

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve records until asyncio or the core has something to do, or time is up."""
        is_inner_ready, has_upcalls = self._poller.wait(-1.0 if timeout is None else max(timeout, 0.0))
        # Upcalls first: that the lease is over comes before all that was heard while this host stood still.
        ready = [(self.get_key(self._upcalls_fd), selectors.EVENT_READ)] if has_upcalls else []
        return ready + super().select(0) if is_inner_ready else ready

    def close(self) -> None:
        """Close asyncio's epoll; the poller is closed by its owner."""
        super().close()
        os.close(self._upcalls_fd)
