# SPDX-License-Identifier: GPL-3.0-or-later
"""Every checker must catch a mistake that is made on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ctdbpy.core.effects import JobKind, StartJob
from ctdbpy.core.leader.recovery import Recovery
from ctdbpy.sim.clients import Client
from ctdbpy.sim.cluster import run
from ctdbpy.sim.jobs import MemoryWorkers
from ctdbpy.sim.records import MemoryRecords
from ctdbpy.store.merge import Merge
from ctdbpy.wire.records import RecBuffer, RecordHeader

SEEDS = range(1, 13)


class KeepsTheFirstCopy(Merge):
    """Merges wrongly: whichever node is asked first is right about every record."""

    def add(self, buffer: bytes, pnn: int) -> int:
        known = self.__dict__.setdefault("known", set())
        records = RecBuffer.unpack(buffer)
        fresh = tuple(each for each in records.records if each.key not in known)
        known.update(each.key for each in fresh)
        super().add(RecBuffer(records.db_id, fresh).pack(), pnn)
        return len(records.records)


def _is_caught() -> bool:
    for seed in SEEDS:
        try:
            run(seed)
        except AssertionError:
            return True
    return False


def test_a_merge_that_keeps_old_copies_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def new_merge(_self: MemoryRecords, db_id: int, leader: int, is_volatile: bool) -> Merge:
        return KeepsTheFirstCopy(db_id, leader, is_volatile)

    monkeypatch.setattr(MemoryRecords, "new_merge", new_merge)
    assert _is_caught()


def test_a_commit_that_drops_what_it_was_given_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MemoryWorkers._parts

    def parts(self: MemoryWorkers, job: StartJob) -> Iterator[bytes]:
        if job.kind is JobKind.PUSH:
            # Says that all is stored, and stores nothing.
            yield RecBuffer.unpack(job.data).records.__len__().to_bytes(4, "little")
            return
        yield from right(self, job)

    monkeypatch.setattr(MemoryWorkers, "_parts", parts)
    assert _is_caught()


def test_a_recovery_that_never_ends_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_self: Recovery, _reason: str, _lmasters: tuple[int, ...]) -> bool:
        return False

    monkeypatch.setattr(Recovery, "run", never)
    with pytest.raises(AssertionError, match="does not come to rest"):
        run(1)


def test_a_client_that_ignores_ownership_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RecordHeader.unpack

    def everything_is_mine(self: Client) -> None:
        mine = self.node.pnn

        def unpack(data: bytes, offset: int = 0) -> RecordHeader:
            return replace(right(data, offset), dmaster=mine)

        with monkeypatch.context() as patch:
            patch.setattr(RecordHeader, "unpack", staticmethod(unpack))
            right_try(self)

    right_try = Client._try
    monkeypatch.setattr(Client, "_try", everything_is_mine)
    assert _is_caught()
