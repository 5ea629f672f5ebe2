# SPDX-License-Identifier: GPL-3.0-or-later
"""Types of bulk.pyx; what the functions do stands there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

from ctdbpy.errors import StoreError
from ctdbpy.store.tdb import Tdb

LMASTER_ANY: Final = 0xFFFFFFFF

class RecordRefused(StoreError): ...

@final
class Walk(Iterator[bytes]):
    def __iter__(self) -> Walk: ...
    def __next__(self) -> bytes: ...
    @property
    def count(self) -> int: ...

def traverse(
    tdb: Tdb, *, reqid: int, owner: int | None = None, with_empty: bool = False, limit: int = 131072
) -> Walk: ...
def pull(
    tdb: Tdb, *, db_id: int, lmaster: int = LMASTER_ANY, lmasters: tuple[int, ...] = (), limit: int = 1000000
) -> Walk: ...
def vacuum_scan(tdb: Tdb, *, pnn: int, limit: int = 131072) -> Walk: ...
def count(tdb: Tdb) -> tuple[int, int]: ...
def push(
    tdb: Tdb, buffer: bytes, *, db_id: int, is_volatile: bool, pnn: int, lmasters: tuple[int, ...] = ()
) -> tuple[int, list[bytes]]: ...
def update_records(
    tdb: Tdb,
    buffer: bytes,
    *,
    db_id: int,
    is_volatile: bool = False,
    pnn: int = 0xFFFFFFFF,
    lmasters: tuple[int, ...] = (),
) -> int: ...
