# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction as a block of code."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctdbpy.store.tdb import Tdb


class Transaction:
    """`with tdb.transaction():` commits at the end of the block, cancels when an exception leaves it."""

    def __init__(self, tdb: Tdb, frozen: bool) -> None:
        self._tdb = tdb
        self._frozen = frozen

    def __enter__(self) -> Tdb:
        self._tdb.transaction_start(frozen=self._frozen)
        return self._tdb

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._tdb.transaction_commit(frozen=self._frozen)
        elif not self._tdb.closed:
            self._tdb.transaction_cancel(frozen=self._frozen)
