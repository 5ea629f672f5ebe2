# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk work given to worker processes, and what comes back from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ctdbpy.core.effects import JobKind, StartJob, StopJob
from ctdbpy.core.inputs import JobAnswered
from ctdbpy.core.procedures import Promise
from ctdbpy.core.state import State


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: status 0, or a positive errno with `error` in words; `data` of its last answer."""

    status: int = 0
    data: bytes = b""
    error: str = ""

    @property
    def is_good(self) -> bool:
        return self.status == 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job under way; await `ended`."""

    job_id: int
    ended: Promise[Outcome]


class Jobs:
    """Every job under way."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._running: dict[int, tuple[Promise[Outcome], Callable[[bytes], None] | None]] = {}
        self._last_id = 0
        self._last_session = 0

    def new_session(self) -> int:
        """A number for a session that no job has used yet."""
        self._last_session += 1
        return self._last_session

    def start(
        self,
        kind: JobKind,
        db_id: int,
        data: bytes = b"",
        *,
        session: int = 0,
        pnn: int = -1,
        on_part: Callable[[bytes], None] | None = None,
    ) -> Job:
        """Give work to a worker; `on_part` gets each part before the job ends."""
        self._last_id += 1
        ended: Promise[Outcome] = Promise()
        self._running[self._last_id] = (ended, on_part)
        self._state.emit(StartJob(self._last_id, kind, db_id, session, data, pnn))
        return Job(self._last_id, ended)

    def stop(self, job_id: int) -> None:
        """End a job whose answer nobody wants any more; its promise is never kept."""
        if self._running.pop(job_id, None) is not None:
            self._state.emit(StopJob(job_id))

    def answered(self, answer: JobAnswered) -> None:
        """A worker produced a part, or ended."""
        known = self._running.get(answer.job_id)
        if known is None:
            return
        ended, on_part = known
        if on_part is not None and answer.status == 0 and answer.data and not answer.last:
            on_part(answer.data)
        if answer.last:
            del self._running[answer.job_id]
            ended.resolve(Outcome(answer.status, answer.data, answer.error))

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        return len(self._running)
