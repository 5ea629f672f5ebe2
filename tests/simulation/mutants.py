# SPDX-License-Identifier: GPL-3.0-or-later
"""Mistakes made on purpose: each must be noticed by the checker that is there for it.

`./dev mutants` tries them all and prints a table. To add one, write a function that patches the code, and
a row in `TABLE` that says which faults bring the mistake out and which checkers may notice it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from ctdbpy.core.effects import JobKind, StartJob, TellGuard
from ctdbpy.core.failover import run as run_of_addresses
from ctdbpy.core.failover.addresses import Addresses
from ctdbpy.core.fencing import fencing
from ctdbpy.core.fencing.fencing import Fencing
from ctdbpy.core.inputs import Fenced, Sight
from ctdbpy.core.leader.cluster_lock import ClusterLock
from ctdbpy.core.leader.election import Election
from ctdbpy.core.leader.rebuild import Rebuild
from ctdbpy.core.leader.recovery import Recovery
from ctdbpy.core.leader.watch import Watch
from ctdbpy.core.membership.flags import Flags
from ctdbpy.core.membership.standing import Standing
from ctdbpy.core.records.commits import Commits
from ctdbpy.core.requests import OK, Reply
from ctdbpy.core.state import Client as CoreClient
from ctdbpy.core.state import Database, State
from ctdbpy.sim.checkers import Violation
from ctdbpy.sim.clients import Client
from ctdbpy.sim.cluster import run
from ctdbpy.sim.guards import SimGuard
from ctdbpy.sim.hosts import SimHost
from ctdbpy.sim.jobs import MemoryWorkers
from ctdbpy.sim.power import PowerSwitch
from ctdbpy.sim.records import MemoryRecords
from ctdbpy.store import sessions
from ctdbpy.store.bulk import pull
from ctdbpy.store.merge import Merge
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire import packets
from ctdbpy.wire.records import RecBuffer, RecordHeader

SEEDS = 30
_NETWORK = ("partition", "isolate", "cut", "revive")
_OUT_AND_DEAD = ("isolate", "long_pause", "power", "restart", "revive")
_FREEZES = ("long_pause", "isolate", "power", "revive")
_DEATHS = ("crash", "power", "restart", "recover", "revive")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake, what brings it out, and who has to notice."""

    name: str
    patch: Callable[[pytest.MonkeyPatch], None]
    checkers: tuple[str, ...]
    faults: tuple[str, ...] = _DEATHS
    nodes: int = 3
    addresses: int = 0
    fencing: bool = False
    #: The first seed, where many would be for nothing.
    first: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: who noticed, with which seed; nobody if `checker` is empty."""

    mutant: Mutant
    checker: str
    seed: int
    text: str

    @property
    def is_killed(self) -> bool:
        return self.checker in self.mutant.checkers


def hunt(mutant: Mutant) -> Verdict:
    """Run seeds with the mistake in place until one of its checkers notices it."""
    noticed = Verdict(mutant, "", 0, "nobody noticed")
    for seed in range(mutant.first, mutant.first + SEEDS):
        with pytest.MonkeyPatch.context() as patch:
            mutant.patch(patch)
            try:
                run(
                    seed,
                    nodes=mutant.nodes,
                    only=mutant.faults,
                    addresses=mutant.addresses,
                    fencing=mutant.fencing,
                )
            except Violation as violation:
                noticed = Verdict(mutant, violation.checker, seed, str(violation))
                if noticed.is_killed:
                    return noticed
    return noticed


# -- the mistakes -----------------------------------------------------------------------------------


class KeepsTheFirstCopy(Merge):
    """Whichever node is asked first is right about every record."""

    def add(self, buffer: bytes, pnn: int) -> int:
        known = self.__dict__.setdefault("known", set())
        records = RecBuffer.unpack(buffer)
        fresh = tuple(each for each in records.records if each.key not in known)
        known.update(each.key for each in fresh)
        super().add(RecBuffer(records.db_id, fresh).pack(), pnn)
        return len(records.records)

    def add_own(self, tdb: Tdb, pnn: int) -> int:
        return sum(self.add(buffer, pnn) for buffer in pull(tdb, db_id=0))


def _merge_keeps_the_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sessions, "Merge", KeepsTheFirstCopy)


def _push_stores_nothing(patch: pytest.MonkeyPatch) -> None:
    right = MemoryWorkers._parts

    def parts(self: MemoryWorkers, job: StartJob) -> Iterator[bytes]:
        if job.kind is JobKind.PUSH:
            yield len(RecBuffer.unpack(job.data).records).to_bytes(4, "little")
            return
        yield from right(self, job)

    patch.setattr(MemoryWorkers, "_parts", parts)


def _recovery_never_ends(patch: pytest.MonkeyPatch) -> None:
    async def never(_self: Recovery, *_args: object) -> bool:
        return False

    patch.setattr(Recovery, "run", never)


def _client_takes_what_is_not_its(patch: pytest.MonkeyPatch) -> None:
    right_try, right_unpack = Client._try, RecordHeader.unpack

    def everything_is_mine(self: Client) -> None:
        def unpack(data: bytes, offset: int = 0) -> RecordHeader:
            return replace(right_unpack(data, offset), dmaster=self.node.pnn)

        with patch.context() as inner:
            inner.setattr(RecordHeader, "unpack", staticmethod(unpack))
            right_try(self)

    patch.setattr(Client, "_try", everything_is_mine)


def _rsn_stays(patch: pytest.MonkeyPatch) -> None:
    right = MemoryRecords.feed_link

    def feed_link(self: MemoryRecords, link_id: int, data: bytes) -> None:
        fed = b""
        while data:
            size = packets.peek_length(data) or len(data)
            packet, data = data[:size], data[size:]
            decoded = packets.decode(packet)
            if isinstance(decoded, packets.ReqDmaster | packets.ReplyDmaster):
                decoded = replace(decoded, rsn=max(decoded.rsn - 2, 0))
                packet = decoded.encode()
            fed += packet
        right(self, link_id, fed)

    patch.setattr(MemoryRecords, "feed_link", feed_link)


def _lease_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimGuard, "lease_is_over", lambda _self: False)
    patch.setattr(Standing, "suspend", lambda _self, _reason: None)


def _minority_may_lead(patch: pytest.MonkeyPatch) -> None:
    right = SimGuard.tell

    def tell(self: SimGuard, facts: TellGuard) -> None:
        right(self, replace(facts, needed=0))
        self._node.node.state.has_lease = True

    patch.setattr(SimGuard, "tell", tell)


def _everybody_leads(patch: pytest.MonkeyPatch) -> None:
    def best_is_own(self: Election) -> None:
        if self._ends_s is not None:
            self._state.leader = self._state.pnn
            self._end()

    patch.setattr(Election, "_judge", best_is_own)
    patch.setattr(Election, "_leader_heard", lambda _self, _source, _data: None)


def _generation_is_used_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "_next_generation", lambda _self, _seen, _copies: 4711)


def _lock_is_not_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClusterLock, "is_needed", property(lambda _self: False))


def _calls_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    def set_recovery(self: MemoryRecords, active: bool) -> None:
        if active:
            super(MemoryRecords, self).set_recovery(True)

    patch.setattr(MemoryRecords, "set_recovery", set_recovery)


def _ban_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flags, "wake", lambda self, _now_s: setattr(self, "_ban_over_s", None))


def _failed_commit_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    right = Commits.commit

    async def commit(self: Commits, client: CoreClient, database: Database, buffer: bytes) -> Reply:
        await right(self, client, database, buffer)
        return OK

    patch.setattr(Commits, "commit", commit)


def _stale_copies_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rebuild, "_fresh", lambda self, _db_id: list(self._nodes))


def _answer_is_lost(patch: pytest.MonkeyPatch) -> None:
    """One of two hundred answers never reaches its client."""
    right = MemoryRecords.take_client
    taken = 0

    def take_client(self: MemoryRecords, client_id: int) -> bytes:
        nonlocal taken
        data = right(self, client_id)
        taken += bool(data)
        return b"" if data and taken % 200 == 0 else data

    patch.setattr(MemoryRecords, "take_client", take_client)


def _suspended_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Standing, "recovered", lambda _self: None)


def _addresses_outlive_the_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimHost, "_left_s", lambda _self: None)
    patch.setattr(Addresses, "_reason_to_drop", lambda _self: "")


def _who_is_left_out_keeps_its_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Standing, "leave_out", lambda _self, _lmasters: 0.0)


def _addresses_are_never_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run_of_addresses, "may_take", lambda _transfer, _released: False)


def _nobody_is_fenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fencing, "lost", lambda _self, _serving: ())


def _who_is_silent_is_harmless(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fencing, "_HARMLESS", (*fencing._HARMLESS, Sight.SILENT))


def _nobody_remembers_who_serves(patch: pytest.MonkeyPatch) -> None:
    nobody = property(lambda _self: set(), lambda _self, _serving: None)
    patch.setattr(State, "serving", nobody, raising=False)


def _fenced_once_is_fenced_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fencing, "_loss", lambda _self, _pnn: (0, 0.0))


def _an_error_is_taken_for_a_yes(patch: pytest.MonkeyPatch) -> None:
    right = Fencing.done
    patch.setattr(Fencing, "done", lambda self, fenced: right(self, Fenced(fenced.pnn)))


def _who_is_lost_in_a_recovery_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    right = Recovery.run

    async def run(self: Recovery, *args: object) -> bool:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self, "_fencing", Unconcerned())
            return await right(self, *args)  # type: ignore[arg-type]

    patch.setattr(Recovery, "run", run)


class Unconcerned:
    """Nobody is ever lost."""

    def lost(self, _serving: set[int]) -> tuple[int, ...]:
        return ()


def _a_leader_that_stood_still_fences(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PowerSwitch, "may_fence", lambda _self, _node, _decided_s: True)


def _a_command_is_never_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PowerSwitch, "stop", lambda _self, _node, _pnn: None)


def _a_lock_is_never_doubted(patch: pytest.MonkeyPatch) -> None:
    async def leads(_self: Watch) -> bool:
        return True

    patch.setattr(Watch, "_leads_by_lock", leads)


TABLE: tuple[Mutant, ...] = (
    Mutant("a merge keeps the first copy", _merge_keeps_the_first, ("NoLostWrites",)),
    Mutant("a push says stored, and stores nothing", _push_stores_nothing, ("NoLostWrites", "OneDmaster")),
    Mutant("stale copies count", _stale_copies_count, ("NoLostWrites",), _OUT_AND_DEAD),
    Mutant("an answer is lost", _answer_is_lost, ("ClientsAnswered",), ("recover",)),
    Mutant("a recovery never ends", _recovery_never_ends, ("ComesToRest",)),
    Mutant("a client takes what is not its", _client_takes_what_is_not_its, ("OneDmaster", "NoLostWrites")),
    Mutant("a record's rsn stays as it moves", _rsn_stays, ("RsnRises",)),
    Mutant("the end of a lease is ignored", _lease_is_ignored, ("MinorityStands",), _NETWORK),
    Mutant("a minority may lead", _minority_may_lead, ("MajorityOnly",), _NETWORK),
    Mutant("everybody leads", _everybody_leads, ("OneLeader", "ComesToRest"), _NETWORK),
    Mutant("a generation is used again", _generation_is_used_again, ("OneLeader",)),
    Mutant("the cluster lock is not taken", _lock_is_not_taken, ("LeaderHoldsLock",), _NETWORK, 2),
    Mutant("calls are forgotten in a recovery", _calls_are_forgotten, ("ClientsAnswered", "ComesToRest")),
    Mutant("a ban never ends", _ban_never_ends, ("ComesToRest",), ("disk_full",)),
    Mutant("a failed commit is acknowledged", _failed_commit_is_acknowledged, ("TransactionsLast",)),
    Mutant("a suspended node stays so", _suspended_for_ever, ("ComesToRest",), _NETWORK),
    Mutant("addresses outlive the lease", _addresses_outlive_the_lease, ("OneHost",), _NETWORK, addresses=6),
    Mutant(
        "who is left out keeps its lease",
        _who_is_left_out_keeps_its_lease,
        ("OneHost",),
        ("cut", "revive"),
        addresses=6,
    ),
    Mutant(
        "addresses are never taken", _addresses_are_never_taken, ("ComesToRest",), ("revive",), addresses=6
    ),
    Mutant("nobody is fenced", _nobody_is_fenced, ("FencedFirst",), _FREEZES, fencing=True),
    Mutant("who is silent is harmless", _who_is_silent_is_harmless, ("FencedFirst",), _FREEZES, fencing=True),
    Mutant(
        "nobody remembers who serves",
        _nobody_remembers_who_serves,
        ("FencedFirst",),
        ("stop_and_pause", "pause_in_recovery", "long_pause", "crash_leader_in_recovery", "revive"),
        fencing=True,
        first=30,
    ),
    Mutant(
        "fenced once is fenced for ever",
        _fenced_once_is_fenced_for_ever,
        ("FencedFirst",),
        ("pause_in_recovery", "revive"),
        fencing=True,
    ),
    Mutant(
        "an error is taken for a yes",
        _an_error_is_taken_for_a_yes,
        ("FencedFirst",),
        ("pause_in_recovery", "revive"),
        fencing=True,
    ),
    Mutant(
        "who is lost in a recovery is passed over",
        _who_is_lost_in_a_recovery_is_passed_over,
        ("FencedFirst",),
        ("stop_and_pause", "revive"),
        fencing=True,
        first=16,
    ),
    Mutant(
        "a leader that stood still fences",
        _a_leader_that_stood_still_fences,
        ("FewFenceNobody",),
        _FREEZES,
        fencing=True,
        first=30,
    ),
    Mutant(
        "a fence command is never ended",
        _a_command_is_never_ended,
        ("NoLateFence",),
        ("pause_in_recovery", "revive"),
        fencing=True,
        first=10,
    ),
    Mutant(
        "a lock is never doubted",
        _a_lock_is_never_doubted,
        ("FewFenceNobody",),
        ("long_pause", "isolate", "lock_lost"),
        2,
        fencing=True,
        first=22,
    ),
)


def main() -> int:
    """Try every mutant; 1 if one lives."""
    alive = 0
    print(f"{'mistake':44} {'noticed by':18} {'seed':>4} {'s':>5}")
    for mutant in TABLE:
        began_s = time.monotonic()
        verdict = hunt(mutant)
        took_s = time.monotonic() - began_s
        noticed = verdict.checker if verdict.is_killed else f"{verdict.checker or 'nobody'} (LIVES)"
        print(f"{mutant.name:44} {noticed:18} {verdict.seed:4} {took_s:5.1f}", flush=True)
        if not verdict.is_killed:
            alive += 1
            print(f"    should be noticed by {' or '.join(mutant.checkers)}: {verdict.text}")
    print(f"{len(TABLE)} mistakes, {alive} not noticed as they should be")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
