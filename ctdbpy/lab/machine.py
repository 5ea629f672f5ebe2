# SPDX-License-Identifier: GPL-3.0-or-later
"""Process 1 of a lab host: builds the host's root directory, then runs commands that arrive on its console.

One connection is one command. The caller sends a JSON object and three file descriptors; the host answers
with the process id, later with the wait status. A caller that hangs up first has its command killed with all
its group, unless the command was started to stay. All of it dies at once when this process is killed: that is
the power switch.

    -> {"argv": [...], "env": {...}, "stay": false}  + stdin, stdout, stderr
    <- {"pid": 17}                                   or {"error": "..."}
    -> {"signal": 15}                                any number of times
    <- {"status": 256}
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from ctdbpy.errors import LabError
from ctdbpy.lab import kernel, power
from ctdbpy.lab.places import KEPT_PARTS, LOST_PARTS, Place

REQUEST_BYTES_MAX = 1 << 17
_OWN_TREES = frozenset(("proc", "sys", "dev", "etc", "run", "tmp", "cluster", "power"))


def main() -> None:
    """Boot the host named on the command line; `ready_fd` gets "ok", or the reason why not, and is closed."""
    name, root, host, console_fd, ready_fd, kind = sys.argv[1:]
    place = Place(name, Path(root))
    ready = int(ready_fd)
    # They were handed to us over an exec; what the host starts must not have them.
    os.set_inheritable(ready, False)
    os.set_inheritable(int(console_fd), False)
    try:
        socket.sethostname(host)
        kernel.make_mounts_private()
        _build_root(place, host, is_node=kind == "node")
        console = Console(socket.socket(fileno=int(console_fd)))
    except (LabError, OSError) as error:
        os.write(ready, str(error).encode())
        sys.exit(1)
    os.write(ready, b"ok")
    os.close(ready)
    console.serve()


def _build_root(place: Place, host: str, *, is_node: bool) -> None:
    """Compose the host's root, the machine's trees read-only with its own parts over them; enter it."""
    disk = place.disk(host)
    for part in LOST_PARTS:
        _empty(disk / part[1:])
    new = str(place.new_root(host))
    kernel.mount("tmpfs", new, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    for entry in os.scandir("/"):
        target = f"{new}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
        elif entry.is_dir():
            os.mkdir(target, 0o755)
            if entry.name not in _OWN_TREES:
                kernel.bind(entry.path, target, read_only=True)
    kernel.mount("proc", f"{new}/proc", "proc")
    kernel.mount("sysfs", f"{new}/sys", "sysfs")
    kernel.bind("/dev", f"{new}/dev")
    for part in KEPT_PARTS + LOST_PARTS:
        if os.path.isdir(new + part):
            kernel.bind(str(disk / part[1:]), new + part)
    if is_node:
        os.makedirs(f"{new}/cluster", exist_ok=True)
        kernel.bind(str(place.cluster), f"{new}/cluster")
        switch = new + os.path.dirname(power.SOCKET)
        os.makedirs(switch, exist_ok=True)
        kernel.bind(str(place.power), switch, read_only=True)
    for tree in _program_trees():
        if not os.path.isdir(new + tree):
            os.makedirs(new + tree)
            kernel.bind(tree, new + tree, read_only=True)
    kernel.mount("tmpfs", f"{new}/dev/shm", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV)
    kernel.enter_root(new)


def _program_trees() -> list[str]:
    """Where this package and its interpreter are: a clone in /tmp would vanish under the host's own /tmp."""
    package = Path(__file__).resolve().parents[2]
    return sorted({str(package), sys.prefix, sys.base_prefix})


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    directory.chmod(0o755 if directory.name == "run" else 0o1777)


@dataclass(slots=True)
class _Job:
    """A command that runs; `caller` is None once nobody waits for it."""

    pid: int
    caller: socket.socket | None
    stays: bool


class Console:
    """Runs commands for whoever connects, and reaps every orphan of the host."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._welcome)
        self._jobs: dict[int, _Job] = {}
        self._wakeup, wakeup_write = socket.socketpair()
        self._wakeup.setblocking(False)
        wakeup_write.setblocking(False)
        self._wakeup_write = wakeup_write
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._reap)

    def serve(self) -> None:
        """Work until the power goes."""
        while True:
            for key, _events in self._selector.select():
                key.data(key.fileobj)

    def _welcome(self, _listener: socket.socket) -> None:
        caller, _address = self._listener.accept()
        self._selector.register(caller, selectors.EVENT_READ, self._start)

    def _start(self, caller: socket.socket) -> None:
        self._selector.unregister(caller)
        message, descriptors, _flags, _address = socket.recv_fds(caller, REQUEST_BYTES_MAX, 3)
        try:
            if len(descriptors) != 3:
                caller.close()  # It hung up before it asked for anything.
                return
            request = json.loads(message)
            pid = _spawn(request["argv"], request["env"], descriptors)
        except OSError as error:
            _tell(caller, {"error": error.strerror or str(error)})
            caller.close()
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._jobs[pid] = _Job(pid, caller, bool(request["stay"]))
        _tell(caller, {"pid": pid})
        self._selector.register(caller, selectors.EVENT_READ, lambda _caller: self._hear(pid))

    def _hear(self, pid: int) -> None:
        job = self._jobs.get(pid)
        if job is None or job.caller is None:
            return  # It ended, and that was dealt with in the same turn.
        try:
            message = job.caller.recv(REQUEST_BYTES_MAX)
        except ConnectionError:
            message = b""
        if message:
            # The job is not reaped before it leaves the table, so the pid is still its own.
            os.kill(pid, json.loads(message)["signal"])
            return
        self._let_go(job)
        if not job.stays:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # It ended at the same moment.

    def _reap(self, _wakeup: socket.socket) -> None:
        try:
            self._wakeup.recv(4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            job = self._jobs.pop(pid, None)
            if job is not None and job.caller is not None:
                _tell(job.caller, {"status": status})
                self._let_go(job)

    def _let_go(self, job: _Job) -> None:
        assert job.caller is not None, "a caller is let go once"
        self._selector.unregister(job.caller)
        job.caller.close()
        job.caller = None


def _spawn(argv: list[str], env: dict[str, str], descriptors: list[int]) -> int:
    for descriptor in descriptors:
        # Sent descriptors come inheritable; a daemon would keep its starter's files open.
        os.set_inheritable(descriptor, False)
    moves = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(descriptors)]
    # Python ignores SIGPIPE; a program in the host expects to find it as a shell would leave it.
    restored = [signal.SIGPIPE, signal.SIGXFSZ]
    # Where the command itself would look, not where whoever built the lab has its programs.
    program = shutil.which(argv[0], path=env["PATH"])
    if program is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    return os.posix_spawn(program, argv, env, file_actions=moves, setsid=True, setsigdef=restored)


def _tell(caller: socket.socket, answer: dict[str, object]) -> None:
    try:
        caller.send(json.dumps(answer).encode())
    except (BrokenPipeError, ConnectionError):
        pass  # The caller's hang-up is read next.


if __name__ == "__main__":
    main()
