# SPDX-License-Identifier: GPL-3.0-or-later
"""Persistent and replicated databases: one client's transaction becomes an update on every node.

Source: reference/ctdb.md 7.6.
"""

from __future__ import annotations

from typing import Final

from ctdbpy.core.effects import JobKind
from ctdbpy.core.jobs import Jobs, Outcome
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.requests import OK, Reply, refuse
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Client, Database, State
from ctdbpy.wire.constants import RecoveryMode
from ctdbpy.wire.controls import Control

#: Status of TRANS3_COMMIT, as clients know it.
COMMIT_ENDED_BY_RECOVERY: Final = 2
ENDED_BY_RECOVERY: Final = "trans3 commit ended by recovery"

#: Statuses of UPDATE_RECORD: the records were refused, or it took too long.
UPDATE_REFUSED: Final = 1
_LATE: Final = Outcome(status=-1, error="the worker took longer than ControlTimeout")


class Commits:
    """Commits under way on this node, one for each database, and updates of our copies."""

    def __init__(self, state: State, runner: Runner, routing: Routing, jobs: Jobs) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._jobs = jobs
        self._recovery_over: list[Promise[None]] = []

    async def commit(self, client: Client, database: Database, buffer: bytes) -> Reply:
        """Have every node of the map store these records; the client may believe only status 0."""
        reason = self._cannot(client, database)
        if reason:
            return refuse(f"cannot commit to {database.name!r}: {reason}")
        state = self._state
        # All of the map, however their flags look from here: that may be late news.
        nodes = list(state.lmasters) or [state.pnn]
        database.committing = client.client_id
        try:
            answers = [
                self._routing.call(pnn, Control.UPDATE_RECORD, buffer, client_id=client.client_id)
                for pnn in nodes
            ]
            failed = ""
            for pnn, answer in zip(nodes, answers, strict=True):
                reply = await answer
                if not reply.is_good:
                    failed = failed or f"node {pnn}: {reply.error or f'status {reply.status}'}"
        finally:
            database.committing = 0
        if client.client_id not in state.clients:
            # Nobody is left who could repeat the commit: copies may differ.
            state.want_recovery(f"client {client.pid} vanished while committing to {database.name!r}")
            return refuse("the client is gone")
        if not failed and state.recmode is RecoveryMode.NORMAL:
            return OK
        if failed:
            state.want_recovery(f"commit to {database.name!r} failed on {failed}")
        over: Promise[None] = Promise()
        self._recovery_over.append(over)
        await self._runner.limit(over, state.tunables.control_timeout, None)
        return refuse(ENDED_BY_RECOVERY, COMMIT_ENDED_BY_RECOVERY)

    async def update(self, database: Database, buffer: bytes, *, counts: int) -> Reply:
        """Store records on this node, all or none, durably if the database is persistent."""
        state = self._state
        if state.is_recovering:
            return refuse(f"cannot update {database.name!r}: recovery is active")
        if database.unhealthy:
            return refuse(f"cannot update {database.name!r}: it is unhealthy: {database.unhealthy}")
        if not counts:
            return OK
        job = self._jobs.start(JobKind.UPDATE, database.db_id, buffer)
        outcome = await self._runner.limit(job.ended, state.tunables.control_timeout, _LATE)
        if outcome is _LATE:
            self._jobs.stop(job.job_id)
            return refuse(f"cannot update {database.name!r}: {outcome.error}")
        if not outcome.is_good:
            return refuse(f"cannot update {database.name!r}: {outcome.error}", UPDATE_REFUSED)
        return OK

    def settle(self) -> None:
        """Recovery over: the clients whose commits it ended may hear so."""
        if self._recovery_over and not self._state.is_recovering:
            over, self._recovery_over = self._recovery_over, []
            for promise in over:
                promise.resolve(None)

    def client_gone(self, client: Client) -> None:
        """A client with old-style persistent updates open leaves copies that may differ."""
        for db_id, number in client.updates.items():
            database = self._state.databases.get(db_id)
            if number and database is not None:
                self._state.want_recovery(f"client {client.pid} vanished while updating {database.name!r}")

    def _cannot(self, client: Client, database: Database) -> str:
        if self._state.is_recovering:
            return "recovery is active"
        if database.is_volatile:
            return "it is volatile"
        if database.unhealthy:
            return f"it is unhealthy: {database.unhealthy}"
        if database.committing:
            return "another commit is under way"
        if any(each.committing == client.client_id for each in self._state.databases.values()):
            return "this client has a commit under way"
        return ""
