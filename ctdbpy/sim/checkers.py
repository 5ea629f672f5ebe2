# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold in every run, looked at from outside the code that is tested.

Each checker is a small class that hears what happens. One that finds a mistake raises `Violation`, which
carries the checker's name. What changes a record may rely on: it is safe while a member of the newest
generation holds a copy. A change on a node that the others went on without is as lost as that of a dead
one; what such a node had sent before may still arrive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ctdbpy.core.state import Freeze, Quorum
from ctdbpy.sim.clients import COUNTER, Program
from ctdbpy.sim.history import Change, Generation, History
from ctdbpy.sim.locks import ClusterLock
from ctdbpy.sim.network import Network
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.transactions import TXN_KEY
from ctdbpy.wire.constants import RecoveryMode, RunState, flag_names
from ctdbpy.wire.records import RecordHeader

#: What a host that was paused may still write before its databases are frozen, in time it ran itself.
LATE_S: Final = 0.05
#: So long two machines may answer for an address: what clients have learnt lasts longer.
TWICE_S: Final = 0.2
#: A node that was heard since then may confirm that it hears, by what it has sent before.
WITNESS_S: Final = 0.6


class Violation(AssertionError):
    """Something that must hold does not; `checker` says which of them found it."""

    def __init__(self, checker: Checker, text: str) -> None:
        super().__init__(f"{checker.name}: {text}")
        self.checker = checker.name


class Checker:
    """Hears everything and minds nothing; each real one minds something."""

    def __init__(self, history: History) -> None:
        self.history = history

    @property
    def name(self) -> str:
        """As failures and the table of mutants call it."""
        return type(self).__name__

    def fail(self, text: str) -> Violation:
        return Violation(self, text)

    def changed(self, change: Change) -> None:
        """A client has changed a record."""

    def went_on(self, generation: Generation) -> None:
        """Its members have the copies of a new generation, and the first record is changed in it."""

    def recovered(self, generation: Generation) -> None:
        """Its leader says that the recovery to this generation is done."""

    def node_gone(self, node: SimNode) -> None:
        """A node is dead, or stopped: what it alone held is gone."""

    def committed(self, node: SimNode, value: int) -> None:
        """A client on this node has been told that its transaction is committed."""

    def addresses_changed(self, node: SimNode) -> None:
        """A machine answers for other public addresses than before."""

    def fencing(self, node: SimNode, target: SimNode) -> None:
        """A node begins to have another's power taken."""

    def switched_off(self, node: SimNode, target: SimNode) -> None:
        """The switch takes the power of a machine, as a node has asked it to."""

    def at_rest(self) -> None:
        """After peace: nothing moves any more."""


class OneDmaster(Checker):
    """A record has one owner among the nodes that serve it in the same generation."""

    def changed(self, change: Change) -> None:
        node, db_id = change.node, change.db_id
        generation = node.node.state.databases[db_id].generation
        for other in self.history.nodes:
            if other is node or not other.is_up:
                continue
            database = other.node.state.databases.get(db_id)
            if database is None or database.generation != generation or database.freeze is not Freeze.THAWED:
                continue
            header = other.records.tdb(db_id).read_header(change.key)
            if header is not None and header[1] == other.pnn:
                raise self.fail(
                    f"{change.key!r} is owned by n{node.pnn} and n{other.pnn} in generation {generation}"
                )

    def at_rest(self) -> None:
        keys = {(db_id, key) for node in self.history.nodes for db_id, key in volatile_keys(node)}
        for db_id, key in sorted(keys):
            owners = [
                node.pnn
                for node in self.history.nodes
                if (header := node.records.tdb(db_id).read_header(key)) and header[1] == node.pnn
            ]
            if len(owners) != 1:
                raise self.fail(f"{key!r} has owners {owners}, not one")


class NoLostWrites(Checker):
    """A change that a client made is there while a member holds a copy; what was lost does not come back.

    For each key the least and the most its counter may be. They part when a node dies: what only it had is
    gone, what it had sent may still arrive. They meet again when others go on with what they have.
    """

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self.least: dict[tuple[int, bytes], int] = {}
        self.most: dict[tuple[int, bytes], int] = {}
        self.changes = 0

    def changed(self, change: Change) -> None:
        key = (change.db_id, change.key)
        self.changes += 1
        if self.history.is_excluded(change.node):
            return
        self.most[key] = self.most.get(key, 0) + 1
        self.least[key] = least = self.least.get(key, 0) + 1
        if not least <= change.counter <= self.most[key]:
            raise self.fail(
                f"the counter of {change.key!r} is {change.counter} on n{change.node.pnn}, "
                f"{least} to {self.most[key]} changes were made"
            )

    def went_on(self, generation: Generation) -> None:
        for db_id in {db_id for db_id, _ in self.least}:
            survivors = self.history.survivors(db_id)
            self._only(db_id, survivors)
            if survivors:
                for each in self.most:
                    if each[0] == db_id:
                        held = (survivors, *self.history.departed)
                        self.most[each] = max(counters.get(each[1], 0) for counters in held)

    def node_gone(self, node: SimNode) -> None:
        for db_id in {db_id for db_id, _ in self.least}:
            self._only(db_id, self._best_copies(node, db_id))

    def at_rest(self) -> None:
        for (db_id, key), least in self.least.items():
            counters = [
                COUNTER.unpack_from(record, RecordHeader.SIZE)[0]
                for node in self.history.nodes
                if (record := node.records.tdb(db_id).fetch(key)) and len(record) > RecordHeader.SIZE
                if RecordHeader.unpack(record).dmaster == node.pnn
            ]
            most = self.most[db_id, key]
            if not least <= max(counters, default=0) <= most:
                raise self.fail(f"{key!r} counts {counters} at rest, {least} to {most} changes were made")

    def _only(self, db_id: int, survivors: Mapping[bytes, int]) -> None:
        for each in self.least:
            if each[0] == db_id:
                self.least[each] = min(self.least[each], survivors.get(each[1], 0))

    def _best_copies(self, without: SimNode, db_id: int) -> dict[bytes, int]:
        """The furthest counters on other nodes that count: those of the latest generation."""
        found: list[tuple[int, SimNode]] = []
        for node in self.history.nodes:
            database = node.node.state.databases.get(db_id) if node.is_up else None
            if node is without or database is None:
                continue
            if node.node.state.own.is_active and not database.is_invalid:
                found.append((self.history.order(database.generation), node))
        latest = max((order for order, _ in found), default=-1)
        best: dict[bytes, int] = {}
        for order, node in found:
            if order == latest:
                for key in {key for each, key in self.least if each == db_id}:
                    record = node.workers.committed(db_id, key)
                    if record is not None and len(record) > RecordHeader.SIZE:
                        counter = COUNTER.unpack_from(record, RecordHeader.SIZE)[0]
                        best[key] = max(best.get(key, 0), counter)
        return best


class RsnRises(Checker):
    """A record that moves to another owner takes a higher rsn along; its rsn never falls in a generation."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._last: dict[tuple[int, bytes], tuple[int, int, int]] = {}

    def changed(self, change: Change) -> None:
        generation = change.node.node.state.databases[change.db_id].generation
        last = self._last.get((change.db_id, change.key))
        rsn = change.header.rsn
        self._last[change.db_id, change.key] = (generation, rsn, change.node.pnn)
        if last is None or last[0] != generation:
            return
        if rsn < last[1] or (rsn == last[1] and change.node.pnn != last[2]):
            raise self.fail(
                f"{change.key!r} had rsn {last[1]} on n{last[2]}, now {rsn} on n{change.node.pnn}, "
                f"in generation {generation}"
            )


class OneLeader(Checker):
    """A generation has one leader: nobody else completes a recovery to it, no other member leads then."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._done: dict[int, int] = {}

    def recovered(self, generation: Generation) -> None:
        earlier = self._done.setdefault(generation.number, generation.leader)
        if earlier != generation.leader:
            raise self.fail(
                f"generation {generation.number} was completed by n{earlier} and by n{generation.leader}"
            )
        for node in self.history.nodes:
            state = node.node.state if node.is_up and not node.is_held else None
            if state is None or node.pnn == generation.leader or node.pnn not in generation.members:
                continue
            # Who has claimed already, or tries for the lock, does not lead yet.
            leads = state.is_leader and not state.is_electing
            if leads and state.generation == generation.number:
                raise self.fail(
                    f"n{generation.leader} and n{node.pnn} both lead generation {generation.number}"
                )


class LeaderHoldsLock(Checker):
    """Where the cluster lock decides, only its holder completes a recovery."""

    def __init__(self, history: History, lock: ClusterLock) -> None:
        super().__init__(history)
        self._lock = lock

    def recovered(self, generation: Generation) -> None:
        quorum = self.history.nodes[generation.leader].quorum
        if quorum is Quorum.LOCK and not self._lock.is_held_for_all_it_knows(generation.leader):
            raise self.fail(
                f"n{generation.leader} completed generation {generation.number}, "
                f"the cluster lock is held by {self._lock.holder}"
            )


class MajorityOnly(Checker):
    """Where the majority decides, whoever leads a generation was heard by one when it began to serve.

    A stopped node is no member and still a witness. One that has died just now was heard a moment ago.
    """

    def __init__(self, history: History, network: Network) -> None:
        super().__init__(history)
        self._network = network

    def recovered(self, generation: Generation) -> None:
        leader = self.history.nodes[generation.leader]
        if leader.quorum is not Quorum.MAJORITY:
            return
        since_s = leader.world.now_s - WITNESS_S
        witnesses = [pnn for pnn in leader.peers if self._network.heard_s(leader.pnn, pnn) >= since_s]
        if (len(witnesses) + 1) * 2 <= len(leader.addresses):
            raise self.fail(
                f"n{leader.pnn} completed generation {generation.number} with nodes "
                f"{sorted(generation.members)}, and has lately heard only {witnesses} of {len(leader.peers)}"
            )


class MinorityStands(Checker):
    """Whom the others went on without serves nobody: before their map was made, or it was stopped since."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        #: By pnn: its life, and how long it had run when it had to have stopped.
        self._left: dict[int, tuple[int, float]] = {}
        self._changed: dict[int, tuple[int, float]] = {}

    def went_on(self, generation: Generation) -> None:
        for node in self.history.nodes:
            if node.pnn in generation.members or not node.is_up:
                self._left.pop(node.pnn, None)
                continue
            known = self._left.get(node.pnn)
            if known is None or known[0] != node.life:
                is_mapped = node.pnn in generation.mapped
                self._left[node.pnn] = (node.life, node.ran_s if is_mapped else generation.ran_s[node.pnn])
            last = self._changed.get(node.pnn)
            if last is not None and last[0] == node.life:
                self._look(node, last[1])

    def changed(self, change: Change) -> None:
        node = change.node
        number = node.node.state.databases[change.db_id].generation
        newest = self.history.newest
        if newest is not None and number == newest.number:
            self._left.pop(node.pnn, None)
        self._changed[node.pnn] = (node.life, node.ran_s)
        if self._left:
            self._look(node, node.ran_s)

    def _look(self, node: SimNode, ran_s: float) -> None:
        left = self._left.get(node.pnn)
        if left is not None and left[0] == node.life and ran_s > left[1] + LATE_S:
            raise self.fail(
                f"n{node.pnn} still changes records {ran_s - left[1]:.3f} s of its own time after the others "
                f"went on without it"
            )


class TransactionsLast(Checker):
    """What TRANS3_COMMIT acknowledged is on every node afterwards, and all persistent databases are equal."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self.acknowledged = 0

    def committed(self, node: SimNode, value: int) -> None:
        if node.quorum is Quorum.LOCK and self.history.is_excluded(node):
            return
        members = self.history.newest.members if self.history.newest else frozenset()
        if node.quorum is Quorum.MAJORITY and len(members) * 2 <= len(self.history.nodes):
            # The rest was stopped, or has died just now: they may go on without those that have it.
            return
        self.acknowledged = max(self.acknowledged, value)

    def recovered(self, generation: Generation) -> None:
        values = [persistent_value(node) for node in self.history.nodes if node.pnn in generation.members]
        leader = self.history.nodes[generation.leader]
        if leader.quorum is Quorum.LOCK or len(generation.members) * 2 <= len(self.history.nodes):
            # The lock, and stopped witnesses, let a node serve that has missed what others committed.
            self.acknowledged = min(self.acknowledged, max(values, default=0))
        if values and min(values) < self.acknowledged:
            raise self.fail(
                f"transaction {self.acknowledged} was acknowledged; after generation {generation.number} "
                f"its members have {values}"
            )

    def at_rest(self) -> None:
        contents = {node.pnn: persistent_content(node) for node in self.history.nodes}
        first = next(iter(contents.values()))
        for pnn, content in contents.items():
            if content != first:
                raise self.fail(f"the persistent database of n{pnn} has {content}, another node {first}")
        value = persistent_value(self.history.nodes[0])
        if value < self.acknowledged:
            raise self.fail(f"transaction {self.acknowledged} was acknowledged, {value} is the last at rest")


class ComesToRest(Checker):
    """In peace everybody agrees on one leader and one generation, and nothing is left over."""

    def unrest(self) -> list[str]:
        """What still moves, in words."""
        found = []
        generations, leaders = set(), set()
        for node in self.history.nodes:
            if not node.is_up or node.is_held:
                found.append(f"n{node.pnn} is not up")
                continue
            state = node.node.state
            generations.add(state.generation)
            leaders.add(state.leader)
            if state.runstate is not RunState.RUNNING or state.recmode is not RecoveryMode.NORMAL:
                found.append(f"n{node.pnn} is {state.runstate.name}, {state.recmode.name}")
            if state.suspended:
                found.append(f"n{node.pnn} is suspended: {state.suspended}")
            for peer in state.nodes:
                if peer.flags:
                    found.append(f"n{node.pnn} sees node {peer.pnn} with flags {flag_names(peer.flags)}")
            for each in node.public_addresses:
                hosts = [other.pnn for other in self.history.nodes if each.address in other.host.answers]
                if len(hosts) != 1:
                    found.append(f"{each.address} is on nodes {hosts}")
            for database in state.databases.values():
                waiting = node.records.queues(database.db_id)
                if waiting["recovery"] or waiting["late"]:
                    found.append(f"n{node.pnn} has waiting packets {waiting}")
                if database.freeze is not Freeze.THAWED:
                    found.append(f"{database.name!r} on n{node.pnn} is {database.freeze.value}")
        if len(generations) > 1 or len(leaders) > 1:
            found.append(f"generations {sorted(generations)}, leaders {sorted(leaders)}")
        return found

    def give_up(self) -> None:
        """It has had time enough."""
        raise self.fail("the cluster does not come to rest: " + "; ".join(self.unrest()))


class ClientsAnswered(Checker):
    """No client waits for ever: what it asked is answered, at the latest when peace has come."""

    def __init__(self, history: History, programs: list[Program]) -> None:
        super().__init__(history)
        self._programs = programs

    def at_rest(self) -> None:
        waiting = [program for program in self._programs if program.lives and program.asked_s is not None]
        if waiting:
            first = waiting[0]
            raise self.fail(
                f"{len(waiting)} clients wait for an answer, one on n{first.node.pnn} for "
                f"{first.world.now_s - (first.asked_s or 0.0):.1f} s"
            )


class OneHost(Checker):
    """No two machines answer for a public address for longer than a moment; at rest all know who does."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        #: Since when more than one does.
        self._since_s: dict[str, float] = {}

    def addresses_changed(self, node: SimNode) -> None:
        now_s = node.world.now_s
        hosts: dict[str, list[int]] = {}
        for each in self.history.nodes:
            for address in each.host.answers:
                hosts.setdefault(address, []).append(each.pnn)
        twice = {address: pnns for address, pnns in hosts.items() if len(pnns) > 1}
        for address, since_s in list(self._since_s.items()):
            if now_s - since_s > TWICE_S:
                raise self.fail(f"for {now_s - since_s:.3f} s two nodes have answered for {address}")
            if address not in twice:
                del self._since_s[address]
        for address in twice:
            self._since_s.setdefault(address, now_s)

    def at_rest(self) -> None:
        if self._since_s:
            raise self.fail(f"two nodes answer for {sorted(self._since_s)}")
        for node in self.history.nodes:
            table = node.node.rooms.addresses.table
            for address, entry in table.entries.items():
                hosts = [each.pnn for each in self.history.nodes if address in each.host.answers]
                if hosts != [entry.pnn]:
                    raise self.fail(f"n{node.pnn} thinks {address} is on node {entry.pnn}, it is on {hosts}")


def volatile_keys(node: SimNode) -> Iterator[tuple[int, bytes]]:
    """Every record with data of a node's volatile databases."""
    for database in node.node.state.databases.values():
        if database.is_volatile:
            for key, record in node.records.tdb(database.db_id).traverse():
                if len(record) > RecordHeader.SIZE:
                    yield database.db_id, key


def persistent_content(node: SimNode) -> dict[bytes, bytes]:
    """Key to data of a node's persistent database, with no headers."""
    for database in node.node.state.databases.values():
        if database.is_persistent:
            records = node.records.tdb(database.db_id).traverse()
            return {key: bytes(record[RecordHeader.SIZE :]) for key, record in records}
    return {}


def persistent_value(node: SimNode) -> int:
    """The number of the last transaction that a node has."""
    data = persistent_content(node).get(TXN_KEY, b"")
    return int(COUNTER.unpack(data)[0]) if len(data) == COUNTER.size else 0


def referee(history: History, lock: ClusterLock, network: Network) -> tuple[Checker, ...]:
    """Every checker there is, for one run."""
    plain = (
        OneDmaster,
        NoLostWrites,
        RsnRises,
        OneLeader,
        MinorityStands,
        TransactionsLast,
        OneHost,
    )
    return (
        *(each(history) for each in plain),
        MajorityOnly(history, network),
        LeaderHoldsLock(history, lock),
    )
