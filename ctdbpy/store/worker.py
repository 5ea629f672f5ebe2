# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that does bulk jobs on handles of its own.

Started as `python -m ctdbpy.store.worker FD` by the daemon's main thread; FD is one end of a stream socket
pair that the daemon made, and `jobs` says what goes over it. Jobs run one after the other; a STOP ends the
running one at its next chunk, or one that waits in line. The worker ends when the socket closes, when the
daemon does, and when the process that keeps one of its databases frozen is lost: then nothing it could say
about that database would be true.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
from collections import deque

from ctdbpy.errors import ProtocolError, StoreError
from ctdbpy.store.jobs import Answer, Database, Kind, Plain, Request, take_request
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

    def wait(self, stop: Poll) -> None:
        """Until the locks are held. Raises StoreError, or Stopped when `stop` says so."""
        while True:
            ready, _, _ = select.select([self.socket, *stop.sockets], [], [])
            if self.socket in ready:
                break
            stop.check(block=False)
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


class Poll:
    """Requests from the daemon, also while a job runs."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.running: int | None = None
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

    def check(self, *, block: bool) -> None:
        """Take in what came. Raises Stopped when the running job is to end, EOFError when the daemon left."""
        if block or select.select(self.sockets, [], [], 0)[0]:
            data = self.socket.recv(1 << 18)
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
        for request in [request for request in self._waiting if request.job_id == job_id]:
            self._waiting.remove(request)
            self.socket.sendall(Answer(job_id, errno.ECANCELED, True).pack())


class Worker:
    """Runs the daemon's jobs and keeps sessions between them."""

    def __init__(self, connection: socket.socket) -> None:
        self._poll = Poll(connection)
        self._connection = connection
        self._sessions: dict[str, Session] = {}
        self._frozen: dict[str, Frozen] = {}

    def run(self) -> None:
        """Until the daemon closes the socket (EOFError) or a frozen database is lost (StoreError)."""
        while True:
            request = self._poll.next()
            if request is None:
                self._wait()
            else:
                self._answer(request)

    def _wait(self) -> None:
        holders = {frozen.socket: path for path, frozen in self._frozen.items()}
        ready, _, _ = select.select([self._connection, *holders], [], [])
        for holder in ready:
            if holder in holders:
                raise StoreError(
                    f"cannot keep {holders[holder]!r} frozen: the process that locked it is gone"
                )
        self._poll.check(block=True)

    def _answer(self, request: Request) -> None:
        status, data = 0, b""
        try:
            data = self._do(request)
        except Stopped:
            status = errno.ECANCELED
        except (StoreError, ProtocolError) as error:
            status, data = status_of(error), str(error).encode("utf-8", "replace")
        self._connection.sendall(Answer(request.job_id, status, True, data).pack())

    def _do(self, request: Request) -> bytes:
        path = request.database.path
        if request.task == Plain(Kind.FORGET):
            self._thaw(path)
            if forgotten := self._sessions.pop(path, None):
                forgotten.tdb.close()
            return b""
        session = self._session(request.database)
        if request.task == Plain(Kind.FREEZE):
            return self._freeze(path, session)
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

    def _freeze(self, path: str, session: Session) -> bytes:
        if path in self._frozen:
            return b""
        inherited = [self._connection.fileno(), *(frozen.socket.fileno() for frozen in self._frozen.values())]
        frozen = Frozen(session, inherited)
        try:
            frozen.wait(self._poll)
        except BaseException:
            frozen.end()
            raise
        self._frozen[path] = frozen
        session.is_frozen = True
        return b""

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
