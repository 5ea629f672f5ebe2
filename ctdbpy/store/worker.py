# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that does bulk jobs on handles of its own.

Started as `python -m ctdbpy.store.worker FD` by the daemon's main thread; FD is one end of a stream socket
pair that the daemon made, and `jobs` says what goes over it. Jobs run one after the other; only a FREEZE,
which waits for other programs, lets jobs of other databases overtake it. A STOP ends the running job at its
next chunk, or one that waits. The worker ends when the socket closes, when the daemon does, and when the
process that keeps one of its databases frozen is lost: then nothing it could say about that database would
be true.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
from collections import deque
from dataclasses import dataclass, field

from ctdbpy.errors import ProtocolError, StoreError
from ctdbpy.store.jobs import Answer, Database, Kind, Plain, Request, take_request, widen
from ctdbpy.store.lifeline import die_with_parent
from ctdbpy.store.lockwaits import ANSWER_SIZE, Op, WaitRequest
from ctdbpy.store.sessions import Session, status_of
from ctdbpy.store.tdb import SEQNUM, Tdb
from ctdbpy.store.waiter import peer_pid, serve

# What may wait in line, in bytes; more stays in the socket, whose other end then feels it.
_WAITING_MAX = 4 << 20


class Stopped(Exception):
    """The job was stopped by STOP."""


class Frozen:
    """A child process that holds all chains of a database, so that this one can use libtdb as if it did."""

    def __init__(self, session: Session, inherited: list[int]) -> None:
        # A transaction refuses to start while its own process holds locks.
        self.socket, theirs = socket.socketpair()
        self._path = session.database.path
        self._is_held = False
        me = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self.socket.close()
                for descriptor in inherited:
                    os.close(descriptor)
                die_with_parent(me)
                # libtdb opens a file once per process, and the child has inherited the parent's.
                session.tdb.close()
                serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        self.socket.sendall(WaitRequest(0, Op.LOCKALL, session.tdb.open_flags, self._path).pack())

    def settle(self) -> None:
        """Once `socket` is readable: the locks are held. Raises StoreError if they cannot be."""
        answer = self.socket.recv(ANSWER_SIZE, socket.MSG_WAITALL)
        if len(answer) < ANSWER_SIZE or answer[4:8] != bytes(4):
            raise StoreError(
                f"cannot freeze {self._path!r}: the process that locks it failed; can it open the file?"
            )
        self._is_held = True

    def end(self) -> None:
        """Give the locks up, or the wait for them."""
        if self._is_held:
            try:
                self.socket.sendall(WaitRequest(0, Op.RELEASE).pack())
                self.socket.recv(ANSWER_SIZE, socket.MSG_WAITALL)
            except (BrokenPipeError, ConnectionResetError):
                pass
        self.socket.close()
        # It may be in the middle of a wait, which only a signal ends.
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


@dataclass(slots=True)
class Freezing:
    """A FREEZE under way, and jobs of its database that came after it."""

    job_id: int
    frozen: Frozen
    session: Session
    held: deque[Request] = field(default_factory=deque)


class Poll:
    """Requests from the daemon, also while a job runs."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.running: int | None = None
        #: Jobs to stop that neither run nor wait in line.
        self.unknown: list[int] = []
        self._received = bytearray()
        self._waiting: deque[Request] = deque()
        # Bytes read since nothing was in line.
        self._size = 0
        self._stopped = False

    @property
    def sockets(self) -> list[socket.socket]:
        """What to wait on for requests: nothing while enough of them are in line."""
        return [self.socket] if self._size < _WAITING_MAX else []

    def next(self) -> Request | None:
        """The next job in line, if any came."""
        self._stopped = False
        request = self._waiting.popleft() if self._waiting else None
        if not self._waiting:
            self._size = len(self._received)
        self.running = request.job_id if request else None
        return request

    def put_back(self, requests: deque[Request]) -> None:
        """Let these be next in line."""
        self._waiting.extendleft(reversed(requests))

    def check(self, *, block: bool) -> None:
        """Take in what came. Raises Stopped when the running job is to end, EOFError when the daemon left."""
        if block or select.select(self.sockets, [], [], 0)[0]:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError
            self._received += data
            self._size += len(data)
        while request := take_request(self._received):
            if request.task == Plain(Kind.STOP):
                self._stop(request.job_id)
            else:
                self._waiting.append(request)
        if self._stopped:
            raise Stopped

    def _stop(self, job_id: int) -> None:
        if job_id == self.running:
            self._stopped = True
            return
        waiting = [request for request in self._waiting if request.job_id == job_id]
        for request in waiting:
            self._waiting.remove(request)
            self.socket.sendall(Answer(job_id, errno.ECANCELED, True).pack())
        if not waiting:
            self.unknown.append(job_id)


class Worker:
    """Runs the daemon's jobs and keeps sessions between them."""

    def __init__(self, connection: socket.socket) -> None:
        self._poll = Poll(connection)
        self._connection = connection
        self._sessions: dict[str, Session] = {}
        self._frozen: dict[str, Frozen] = {}
        self._freezing: dict[str, Freezing] = {}

    def run(self) -> None:
        """Until the daemon closes the socket (EOFError) or a frozen database is lost (StoreError)."""
        while True:
            request = self._poll.next()
            if request is None:
                self._wait([self._connection], None)
                continue
            freezing = self._freezing.get(request.database.path)
            if freezing is not None:
                freezing.held.append(request)
            else:
                self._answer(request)
            if self._freezing:
                self._wait(self._poll.sockets, 0)

    def _wait(self, sockets: list[socket.socket], timeout_s: float | None) -> None:
        """For requests on `sockets`, for locks that are held at last, and for the loss of any."""
        holders = {frozen.socket: path for path, frozen in self._frozen.items()}
        freezing = {each.frozen.socket: path for path, each in self._freezing.items()}
        ready, _, _ = select.select([*sockets, *holders, *freezing], [], [], timeout_s)
        for each in ready:
            if each in holders:
                raise StoreError(f"cannot keep {holders[each]!r} frozen: the process that locked it is gone")
            if each in freezing:
                self._settle(freezing[each])
        if self._connection in ready:
            self._poll.check(block=True)
        while self._poll.unknown:
            self._stop(self._poll.unknown.pop())

    def _answer(self, request: Request) -> None:
        status, data = 0, b""
        try:
            if request.task == Plain(Kind.FREEZE):
                if self._begin_freeze(request):
                    return
            else:
                data = self._do(request)
        except Stopped:
            status = errno.ECANCELED
        except (StoreError, ProtocolError) as error:
            status, data = status_of(error), str(error).encode("utf-8", "replace")
        self._poll.running = None
        self._connection.sendall(Answer(request.job_id, status, True, data).pack())

    def _do(self, request: Request) -> bytes:
        path = request.database.path
        if request.task == Plain(Kind.FORGET):
            self._thaw(path)
            if forgotten := self._sessions.pop(path, None):
                forgotten.tdb.close()
            return b""
        session = self._session(request.database)
        if request.task == Plain(Kind.THAW):
            self._thaw(path)
            return b""
        parts = session.perform(request.task)
        try:
            while True:
                part = next(parts)
                self._connection.sendall(Answer(request.job_id, 0, False, part).pack())
                self._poll.check(block=False)
        except StopIteration as end:
            return bytes(end.value)
        finally:
            parts.close()

    def _begin_freeze(self, request: Request) -> bool:
        """Have a process wait for all locks; False if the database is frozen already."""
        path = request.database.path
        if path in self._frozen:
            return False
        session = self._session(request.database)
        holding = [*self._frozen.values(), *(each.frozen for each in self._freezing.values())]
        inherited = [self._connection.fileno(), *(frozen.socket.fileno() for frozen in holding)]
        self._freezing[path] = Freezing(request.job_id, Frozen(session, inherited), session)
        self._poll.running = None
        return True

    def _settle(self, path: str) -> None:
        """A FREEZE is over, well or not; what waited for it goes on."""
        freezing = self._freezing.pop(path)
        status, data = 0, b""
        try:
            freezing.frozen.settle()
        except StoreError as error:
            freezing.frozen.end()
            status, data = status_of(error), str(error).encode("utf-8", "replace")
        else:
            self._frozen[path] = freezing.frozen
            freezing.session.is_frozen = True
        self._poll.put_back(freezing.held)
        self._connection.sendall(Answer(freezing.job_id, status, True, data).pack())

    def _stop(self, job_id: int) -> None:
        for path, freezing in list(self._freezing.items()):
            if freezing.job_id == job_id:
                del self._freezing[path]
                freezing.frozen.end()
                self._poll.put_back(freezing.held)
            elif held := [request for request in freezing.held if request.job_id == job_id]:
                freezing.held.remove(held[0])
            else:
                continue
            self._connection.sendall(Answer(job_id, errno.ECANCELED, True).pack())

    def _thaw(self, path: str) -> None:
        if session := self._sessions.get(path):
            session.thaw()
        if frozen := self._frozen.pop(path, None):
            frozen.end()

    def _session(self, database: Database) -> Session:
        session = self._sessions.get(database.path)
        if session is None:
            tdb = Tdb.open(database.path, flags=database.tdb_flags, open_flags=os.O_RDWR)
            session = self._sessions[database.path] = Session(tdb, database)
        if database.tdb_flags & SEQNUM and not session.tdb.flags & SEQNUM:
            # libtdb counts changes only through handles that were told to.
            session.tdb.enable_seqnum()
        session.database = database
        session.is_frozen = database.is_frozen or database.path in self._frozen
        return session


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = 0
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        die_with_parent(peer_pid(connection))
        widen(connection)
        try:
            Worker(connection).run()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass
        except (StoreError, ProtocolError) as error:
            sys.stderr.write(f"bulk worker: {error}\n")
            sys.stderr.flush()
            status = 1
    # As a waiter: the kernel frees robust mutexes only while they are mapped. Holders die with this process.
    os._exit(status)


if __name__ == "__main__":
    main()
