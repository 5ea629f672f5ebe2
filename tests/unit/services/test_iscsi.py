# SPDX-License-Identifier: GPL-3.0-or-later
"""70.iscsi with stubs for tgtd and tgtadm: what each event does, and what is said when it cannot.

The public address is 127.0.0.1, which every machine has. The daemon is a socket that answers who it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.host.children import Children
from ctdbpy.lab import waiting
from ctdbpy.services.iscsi import events, health, launch, orders
from ctdbpy.services.iscsi.posts import Post
from ctdbpy.wire import packets
from tests.unit.services.stand import Ended, Stand

LIMIT_S = 30.0
ADDRESS = "127.0.0.1"
TARGETS = """\
targets:
- name: iqn.2026-11.com.example:mail
  address: 127.0.0.1
  initiators: [iqn.2026-11.com.example:host]
  luns:
  - number: 1
    file: {disk}
"""


def wait_until(claim: str, probe: Callable[[], bool]) -> None:
    waiting.wait_until(claim, probe, timeout_s=LIMIT_S)


class Daemon:
    """Answers every control with 0, which is its own number, until it is closed."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            asked = packets.decode(client.recv(4096))
            client.sendall(packets.ReplyControl(0, 0, 0, asked.reqid, 0).encode(padded=False))

    def close(self) -> None:
        # Closing alone wakes nobody who waits for a connection.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(LIMIT_S)
        for client in self._clients:
            client.close()
        self._clients.clear()


class Iscsi:
    """A stand with one target and its disk."""

    def __init__(self, directory: Path) -> None:
        self.stand = Stand(directory)
        self.disk = directory / "disk"
        self.disk.write_bytes(bytes(4096))
        self.file = self.stand.base / "iscsi.yaml"
        self.declare()
        (self.stand.base / "public_addresses").write_text(f"{ADDRESS}/8 lo\n")
        self.state = self.stand.state / "lasting" / "iscsi"
        self.stand.program("tgtd", "exec sleep 600")
        self.stand.program("tgtadm", "")
        self._socket = directory / "socket"
        self.daemon = Daemon(self._socket)
        self._is_open = True

    def declare(self, text: str = TARGETS) -> None:
        self.file.write_text(text.format(disk=self.disk))

    def run(self, event: str, *arguments: str, **options: str) -> Ended:
        return self.stand.run("70.iscsi", event, *arguments, CTDB_SOCKET=str(self._socket), **options)

    def hang_up(self) -> None:
        """The daemon ends."""
        if self._is_open:
            self.daemon.close()
        self._is_open = False

    @property
    def tgtd(self) -> int:
        """The process that has the address; 0 if there is none."""
        return orders.holder(self.state / f"{ADDRESS}.note")

    @property
    def keeper(self) -> int:
        return orders.holder(self.state / "keeper")

    def phase(self) -> str:
        return str(orders.ask(self.state, "status")[ADDRESS]["phase"])

    def start(self) -> None:
        assert self.run("startup") == Ended(0, "")
        wait_until("it serves", lambda: self.phase() == "serving")

    def close(self) -> None:
        if self.state.exists():
            events._end_everything(self.state)
        self.hang_up()


@pytest.fixture
def iscsi(tmp_path: Path) -> Iterator[Iscsi]:
    made = Iscsi(tmp_path)
    yield made
    made.close()


EVENTS = [
    ("startup",),
    ("monitor",),
    ("takeip", "lo", ADDRESS, "8"),
    ("updateip", "lo", "lo", ADDRESS, "8"),
    ("releaseip", "lo", ADDRESS, "8"),
    ("ipreallocated",),
    ("shutdown",),
    ("init",),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event[0])
def test_without_targets_there_is_nothing_to_do(iscsi: Iscsi, event: tuple[str, ...]) -> None:
    iscsi.file.unlink()
    assert iscsi.run(*event) == Ended(0, "")
    assert iscsi.stand.calls() == []


# -- serving ------------------------------------------------------------------------------------------------


def test_a_tgtd_holds_the_lock_of_its_disk_and_opens_its_portal_last(iscsi: Iscsi) -> None:
    iscsi.start()
    assert orders.holder(iscsi.disk) == iscsi.tgtd != 0
    told = iscsi.stand.calls("tgtadm")
    assert told[-1].endswith(f"--mode portal --param portal={ADDRESS}:3260")
    assert [line.split()[6] for line in told[1:]] == [
        "target",
        "logicalunit",
        "logicalunit",
        "target",
        "portal",
    ]
    assert (iscsi.state / "declared.json").stat().st_mode & 0o77 == 0


def test_a_tgtd_that_ends_is_started_anew(iscsi: Iscsi) -> None:
    iscsi.start()
    first = iscsi.tgtd
    os.kill(first, signal.SIGKILL)
    wait_until("there is another", lambda: iscsi.tgtd not in (0, first) and iscsi.phase() == "serving")
    said = (iscsi.state / "log").read_text()
    assert f"cannot serve '{ADDRESS}' without a break: its tgtd ended" in said


def test_a_released_address_has_no_tgtd_until_it_is_taken_again(iscsi: Iscsi) -> None:
    iscsi.start()
    assert iscsi.run("releaseip", "lo", ADDRESS, "8") == Ended(0, "")
    assert iscsi.tgtd == 0
    assert orders.holder(iscsi.disk) == 0
    assert iscsi.run("monitor") == Ended(
        1, f"cannot serve '{ADDRESS}': it is here, but was given up; 'ctdb ipreallocate' takes it\n"
    )
    assert iscsi.run("takeip", "lo", ADDRESS, "8") == Ended(0, "")
    wait_until("it serves", lambda: iscsi.phase() == "serving")
    assert iscsi.run("releaseip", "lo", ADDRESS, "8") == Ended(0, "")
    assert iscsi.run("ipreallocated") == Ended(0, "")
    wait_until("it serves", lambda: iscsi.phase() == "serving")
    assert iscsi.run("releaseip", "lo", "192.0.2.77", "8") == Ended(0, "")
    assert iscsi.tgtd


def test_a_release_does_without_a_keeper_that_stands_still(iscsi: Iscsi) -> None:
    iscsi.start()
    os.kill(iscsi.keeper, signal.SIGSTOP)
    done = iscsi.run("releaseip", "lo", ADDRESS, "8")
    assert done.status == 0
    assert done.said.startswith("cannot ask the keeper of iSCSI: no answer to 'release 127.0.0.1' within")
    assert (iscsi.keeper, iscsi.tgtd, orders.holder(iscsi.disk)) == (0, 0, 0)


def test_a_keeper_that_stands_still_is_ended_by_the_monitor_with_what_it_does_not_watch(iscsi: Iscsi) -> None:
    iscsi.start()
    keeper, tgtd = iscsi.keeper, iscsi.tgtd
    os.kill(keeper, signal.SIGSTOP)
    done = iscsi.run("monitor", CTDB_ISCSI_TIMEOUT="1")
    assert done == Ended(1, "cannot ask the keeper of iSCSI: no answer to 'status' within 1 s\n")
    wait_until("both are gone", lambda: iscsi.keeper == 0 and not _runs(tgtd))
    done = iscsi.run("monitor")
    assert "the keeper of iSCSI had ended: it was started anew" in done.said
    assert iscsi.keeper not in (0, keeper)


def test_when_the_daemon_goes_everything_goes(iscsi: Iscsi) -> None:
    iscsi.start()
    tgtd = iscsi.tgtd
    iscsi.hang_up()
    wait_until("nothing is left", lambda: iscsi.keeper == 0 and not _runs(tgtd))
    assert "the daemon is gone: nothing is served any more" in (iscsi.state / "log").read_text()
    done = iscsi.run("startup")
    assert done.status == 1
    assert done.said.startswith("cannot start the keeper of iSCSI: it ended at once;")
    assert "cannot connect to the daemon at" in done.said


def test_shutdown_leaves_nothing(iscsi: Iscsi) -> None:
    iscsi.start()
    assert iscsi.run("shutdown") == Ended(0, "")
    assert (iscsi.keeper, iscsi.tgtd) == (0, 0)


def test_a_startup_ends_what_an_earlier_daemon_left(iscsi: Iscsi) -> None:
    iscsi.start()
    keeper, tgtd = iscsi.keeper, iscsi.tgtd
    os.kill(keeper, signal.SIGSTOP)
    iscsi.start()
    assert iscsi.keeper not in (0, keeper)
    assert not _runs(tgtd)


# -- disks --------------------------------------------------------------------------------------------------


def test_a_disk_that_is_still_locked_is_waited_for_and_nobody_is_unhealthy(iscsi: Iscsi) -> None:
    with _held(iscsi.disk):
        assert iscsi.run("startup") == Ended(0, "")
        wait_until("it waits", lambda: iscsi.phase() == "waiting")
        said = f"'{ADDRESS}' waits for '{iscsi.disk}': who served it before still has it locked\n"
        assert iscsi.run("monitor") == Ended(0, said)
        assert iscsi.stand.calls("tgtd") == [], "no tgtd runs before the lock is there"
        # Released while it waits: the wait itself ends.
        assert iscsi.run("releaseip", "lo", ADDRESS, "8") == Ended(0, "")
        assert iscsi.phase() == "idle"
        assert iscsi.run("takeip", "lo", ADDRESS, "8") == Ended(0, "")
        wait_until("it waits again", lambda: iscsi.phase() == "waiting")
    wait_until("it serves", lambda: iscsi.phase() == "serving")


def test_a_disk_that_is_not_there_is_said(iscsi: Iscsi) -> None:
    iscsi.start()
    iscsi.disk.unlink()
    assert iscsi.run("monitor") == Ended(
        1, f"cannot serve LUN '{iscsi.disk}': there is no such file here; is its file system mounted?\n"
    )
    iscsi.disk = iscsi.disk.parent / "gone" / "disk"
    iscsi.declare()
    done = iscsi.run("ipreallocated")
    assert done.status == 0, "no takeover run fails for it"
    assert f"cannot reach the directory of iSCSI '{iscsi.disk.parent}'" in done.said
    assert iscsi.run("monitor").status == 1


def test_a_disk_that_was_replaced_is_said(iscsi: Iscsi) -> None:
    iscsi.start()
    other = iscsi.disk.with_name("other")
    other.write_bytes(bytes(4096))
    events._check_lock(ADDRESS, str(iscsi.disk), iscsi.tgtd)
    other.rename(iscsi.disk)
    said = rf"\(process {iscsi.tgtd}\) has lost the lock on '{iscsi.disk}'; the file was replaced"
    with pytest.raises(ServiceError, match=said):
        events._check_lock(ADDRESS, str(iscsi.disk), iscsi.tgtd)


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 bytes are not whole blocks"), (700, "700 bytes are not whole")]
)
def test_a_disk_has_whole_blocks(iscsi: Iscsi, size: int, said: str) -> None:
    os.truncate(iscsi.disk, size)
    assert iscsi.run("startup").status == 0
    wait_until("it fails", lambda: iscsi.phase() == "failed")
    done = iscsi.run("monitor")
    assert done.status == 1
    assert said in done.said


def test_a_disk_is_a_plain_file(iscsi: Iscsi) -> None:
    with pytest.raises(launch.Refused, match="it is no plain file"):
        launch.look("/dev/null", os.stat("/dev/null"))


def test_holes_are_said_unless_they_are_meant(iscsi: Iscsi) -> None:
    with iscsi.disk.open("wb") as disk:
        disk.truncate(1 << 20)
    done = iscsi.run("startup")
    assert done.status == 0
    assert f"LUN '{iscsi.disk}' has holes" in done.said
    iscsi.declare(TARGETS + "    sparse: yes\n")
    assert iscsi.run("ipreallocated") == Ended(0, "")


def test_a_disk_of_two_names_is_one_disk(iscsi: Iscsi) -> None:
    second = iscsi.disk.with_name("second")
    second.hardlink_to(iscsi.disk)
    iscsi.declare(TARGETS + f"  - number: 2\n    file: {second}\n")
    assert iscsi.run("startup").status == 0
    wait_until("it fails", lambda: iscsi.phase() == "failed")
    said = f"cannot serve '{second}': it is the same file as '{iscsi.disk}'; a file is one LUN\n"
    assert iscsi.run("monitor") == Ended(1, said)


def test_what_is_wanted_no_more_is_not_begun(tmp_path: Path) -> None:
    said: list[str] = []

    async def want_for_no_time() -> None:
        post = Post(tmp_path, ADDRESS, (), Children(), said.append)
        run = asyncio.create_task(post.run())
        await asyncio.sleep(0)
        post.want(True)
        post.want(False)
        for _ in range(5):
            await asyncio.sleep(0)
        assert (post.pid, post.phase) == (0, "idle")
        run.cancel()

    asyncio.run(want_for_no_time())
    assert said == []


# -- what is wrong ------------------------------------------------------------------------------------------


def test_a_file_that_is_wrong_stops_a_start_and_nothing_that_runs(iscsi: Iscsi) -> None:
    iscsi.start()
    tgtd = iscsi.tgtd
    iscsi.declare(TARGETS.replace("address:", "adress:"))
    done = iscsi.run("ipreallocated")
    assert done.status == 0
    assert f"{iscsi.file}:3: a target has nothing called 'adress'" in done.said
    assert "until it is mended, what was served before is served" in iscsi.run("monitor").said
    assert iscsi.tgtd == tgtd
    done = iscsi.run("startup")
    assert done.status == 1
    assert done.said.startswith("cannot load the iSCSI targets: ")


def test_only_what_has_changed_is_served_anew(iscsi: Iscsi) -> None:
    iscsi.start()
    first = iscsi.tgtd
    assert iscsi.run("ipreallocated") == Ended(0, "")
    assert iscsi.tgtd == first
    iscsi.declare(TARGETS.replace("number: 1", "number: 2"))
    assert "'ctdb ipreallocate' makes it count" in iscsi.run("monitor").said
    assert iscsi.tgtd == first
    assert iscsi.run("ipreallocated") == Ended(0, "")
    wait_until("there is another", lambda: iscsi.tgtd not in (0, first) and iscsi.phase() == "serving")
    iscsi.file.unlink()
    assert iscsi.run("ipreallocated") == Ended(0, "")
    assert (iscsi.keeper, iscsi.tgtd) == (0, 0)


def test_a_tgtd_that_cannot_be_set_up_is_said(iscsi: Iscsi) -> None:
    iscsi.stand.program("tgtadm", 'case "$*" in *portal*) echo "tgtadm: no such address"; exit 22;; esac')
    assert iscsi.run("startup").status == 0
    wait_until("it fails", lambda: iscsi.phase() == "failed")
    done = iscsi.run("monitor")
    assert done.status == 1
    assert (
        "cannot set up the tgtd of '127.0.0.1': 'tgtadm --op new --mode portal' failed: tgtadm: no such"
        in done.said
    )
    wait_until("nothing of it is left", lambda: iscsi.tgtd == 0)


def test_a_tgtd_that_ends_at_once_is_said(iscsi: Iscsi) -> None:
    iscsi.stand.program("tgtadm", "exit 107")
    iscsi.stand.program("tgtd", "echo 'no memory'; exit 1")
    assert iscsi.run("startup").status == 0
    wait_until("it fails", lambda: iscsi.phase() == "failed")
    assert "it ended at once; it said 'no memory'" in iscsi.run("monitor").said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"CTDB_ISCSI_TARGETS": "/nowhere/iscsi.yaml"}, "cannot reach the directory of iSCSI '/nowhere'"),
        ({"CTDB_ISCSI_TARGETS": "/etc/nothing.yaml"}, "cannot use CTDB_ISCSI_TARGETS='/etc/nothing.yaml'"),
        ({"CTDB_ISCSI_TIMEOUT": "soon"}, "cannot use CTDB_ISCSI_TIMEOUT='soon'"),
        ({"CTDB_START_ISCSI_SCRIPTS": "/cluster/scripts"}, "no scripts are run; declare the targets in"),
    ],
)
def test_an_option_that_is_wrong_is_one_clear_line(iscsi: Iscsi, options: dict[str, str], said: str) -> None:
    iscsi.file.unlink()
    for event in ("startup", "monitor"):
        if "TIMEOUT" in str(options) and event == "startup":
            continue  # Nothing is looked at.
        done = iscsi.run(event, **options)
        assert done.status == 1
        assert said in done.said
        assert done.said.count("\n") == 1


def test_targets_are_served_at_public_addresses_alone(iscsi: Iscsi) -> None:
    (iscsi.stand.base / "public_addresses").write_text("192.0.2.1/24 lo\n")
    done = iscsi.run("startup")
    assert done.status == 1
    assert "none of its addresses is in" in done.said


def test_without_the_programs_there_is_one_clear_line(iscsi: Iscsi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ServiceError, match="there is no program 'tgtd'; install the package tgt"):
        events._check_programs()


def test_an_event_of_an_address_needs_one(iscsi: Iscsi) -> None:
    iscsi.start()
    for event in ("takeip", "releaseip"):
        done = iscsi.run(event, "lo")
        assert done == Ended(1, f"cannot do '{event}': it needs an interface, an address and its mask bits\n")


# -- asking a tgtd ------------------------------------------------------------------------------------------


def _answer(opcode: int, status: int = 0) -> bytes:
    return bytes((opcode, 0x80)).ljust(36, b"\0") + bytes((status, 0)).ljust(12, b"\0")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([_answer(0x23), _answer(0x24)], ""),
        ([_answer(0x23, 2)], r"cannot log in to '127\.0\.0\.1:\d+': status 2\.0"),
        ([_answer(0x3F)], "cannot use what a tgtd answers: kind 0x3f"),
        ([_answer(0x23)[:20]], "it closed the connection"),
        ([], "no answer within 0.3 s"),
    ],
)
def test_a_tgtd_is_asked_as_an_initiator_would(answers: list[bytes], said: str) -> None:
    with socket.create_server((ADDRESS, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    head = _read(connection, 48)
                    _read(connection, (struct.unpack("!I", head[4:8])[0] + 3) & ~3)
                    connection.sendall(answer)
                if not answers:
                    connection.recv(4096)
                    connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        limit_s = LIMIT_S if answers else 0.3
        if said:
            with pytest.raises(ServiceError, match=said):
                health.discover(ADDRESS, port, timeout_s=limit_s)
        else:
            health.discover(ADDRESS, port, timeout_s=limit_s)
        thread.join(LIMIT_S)


def _read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (part := connection.recv(count - len(found))):
        found += part
    return found


# -- helpers ------------------------------------------------------------------------------------------------


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Another process has a file locked."""
    code = f"import fcntl, sys; f = open({str(path)!r}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); "
    code += "print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
