# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's smbd on three nodes of ours, one share: what one node does binds the others."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import termios
from collections.abc import Iterator

import pytest

from ctdbpy.errors import LabError
from ctdbpy.lab import wait_until
from tests.interop.conftest import Pair, pair_of
from tests.interop.masks import check_same, masked
from tests.interop.stand import LOGIN, USER, Stand

SUITES = {"smb2.lock": 20, "smb2.oplock": 40}
_SUITE_LIMIT_S = 300

pytestmark = pytest.mark.timeout(_SUITE_LIMIT_S + 60)

TALK = [
    "ctdb status",
    "ctdb -X status",
    "ctdb nodestatus all",
    "ctdb pnn",
    "ctdb -n 1 pnn",
    "ctdb ping -n 2",
    "ctdb attach three.tdb",
    "ctdb attach three_p.tdb persistent",
    "ctdb -n 2 getdbstatus three_p.tdb",
    "ctdb pstore three_p.tdb key value",
    "ctdb -n 1 getvar RecoverTimeout",
    "ctdb -n 1 setvar RecoverTimeout 31",
    "ctdb -n 1 getvar RecoverTimeout",
    "ctdb getvar RecoverTimeout",
    "ctdb -n 1 setvar RecoverTimeout 30",
    "ctdb getcapabilities -n 2",
    "ctdb runstate -n 1",
]

BANS = [
    "ctdb ban",
    "ctdb ban 0",
    "ctdb ban soon",
    "ctdb -n 7 ban 60",
    "ctdb unban",
    "ctdb -n 1 ban 300",
    "ctdb nodestatus all",
    "ctdb -X nodestatus 1",
    "ctdb -n 1 nodestatus",
    "ctdb -n 1 ban 200",
    "ctdb -n 1 nodestatus",
    "ctdb -n 1 unban",
    "ctdb nodestatus all",
    "ctdb -n 1 unban",
    "ctdb -n 1 stop",
    "ctdb -n 1 ban 300",
    "ctdb nodestatus all",
    "ctdb -n 1 continue",
    "ctdb nodestatus all",
    "ctdb -n 1 unban",
    "ctdb nodestatus all",
    "ctdb setvar EnableBans 0",
    "timeout 3 ctdb ban 60",
    "ctdb nodestatus all",
    "ctdb setvar EnableBans 1",
]


@pytest.fixture(scope="module")
def trio() -> Iterator[Pair]:
    """Three nodes of each flavour, smbd on all."""
    # SMB1 as well: only its UNIX extensions let smbclient lock a byte range.
    with pair_of(nodes=3, options={"server min protocol": "NT1"}) as both:
        both.ours.serve()
        both.debian.serve()
        yield both


def test_the_tool_says_the_same_about_three_nodes(trio: Pair) -> None:
    for host in ("n0", "n2"):
        said = [masked(stand.converse(TALK, host)) for stand in (trio.ours, trio.debian)]
        # Which node leads is chance.
        ours, debians = (re.sub(r"(?<=^Leader:)[0-2]$", "<node>", each, flags=re.MULTILINE) for each in said)
        check_same(ours, debians)


def test_the_tool_bans_and_lets_in_again_alike(trio: Pair) -> None:
    ours, debians = (masked(stand.converse(BANS, "n0")) for stand in (trio.ours, trio.debian))
    check_same(ours, debians)
    for stand in (trio.ours, trio.debian):
        stand.cluster.wait_healthy()


def test_a_commit_on_one_node_is_read_on_all(trio: Pair) -> None:
    stand = trio.ours
    for number, host in enumerate(stand.lab.nodes):
        stand.cluster.tool(host, "attach", "commits.tdb", "persistent")
        stand.cluster.tool(host, "pstore", "commits.tdb", "key", f"from {host}")
        for reader in stand.lab.nodes:
            assert stand.cluster.tool(reader, "pfetch", "commits.tdb", "key").stdout == f"from {host}\n"
            assert stand.cluster.tool(reader, "getdbseqnum", "commits.tdb").stdout == f"{number + 1:#x}\n"


def test_a_record_moves_to_who_asks_for_it_and_keeps_its_value(trio: Pair) -> None:
    stand = trio.ours
    stand.cluster.tool("n0", "attach", "moves.tdb")
    for number in range(30):
        writer, reader = f"n{number % 3}", f"n{(number + 1) % 3}"
        stand.cluster.tool(writer, "writekey", "moves.tdb", "key", f"value {number}")
        said = stand.cluster.tool(reader, "readkey", "moves.tdb", "key").stdout
        assert said == f"Data: size:{len(f'value {number}')} ptr:[value {number}]\n"
    everywhere = [stand.cluster.tool(host, "catdb", "moves.tdb").stdout for host in stand.lab.nodes]
    assert all("Dumped 1 records" in said and "value 29" in said for said in everywhere)


def test_a_file_written_through_one_node_is_read_and_deleted_through_others(trio: Pair) -> None:
    stand = trio.ours
    stand.smbclient("put /etc/hosts moving.txt", node="n0")
    stand.smbclient("get moving.txt /tmp/moving.back", node="n1")
    sent, back = (stand.lab.path("c0", path).read_bytes() for path in ("/etc/hosts", "/tmp/moving.back"))
    assert back == sent
    stand.smbclient("rm moving.txt", node="n2")
    assert "moving.txt" not in stand.smbclient("ls", node="n0")


def test_a_file_held_through_one_node_is_refused_through_the_others(trio: Pair) -> None:
    stand = trio.ours
    holder = stand.hold("mine.txt", node="n1")
    for node in ("n0", "n2"):
        with_the_file = ["smbclient", f"//{node}-pub/share", "-U", LOGIN, "-c", "put /etc/hosts mine.txt"]
        refused = stand.lab.run("c0", with_the_file, timeout_s=30, check=False)
        assert "NT_STATUS_SHARING_VIOLATION" in refused.stdout + refused.stderr
    holder.kill()
    wait_until("the file is free", lambda: "mine.txt" not in _smbstatus(stand, "n0"), timeout_s=10)
    stand.smbclient("put /etc/hosts mine.txt; rm mine.txt", node="n2")


def test_the_same_bytes_cannot_be_locked_through_two_nodes(trio: Pair) -> None:
    stand = trio.ours
    stand.smbclient("put /etc/hosts locked.txt", node="n0")
    with _Locker(stand, "n0") as first:
        first.lock("0", "10")
        first.wait_locked()
        for node in ("n1", "n2"):
            with _Locker(stand, node) as other:
                other.lock("20", "10")
                other.wait_locked()  # Other bytes are free.
                other.lock("8", "10")
                with pytest.raises(LabError, match="cannot wait longer"):
                    other.wait_locked(timeout_s=1)
    # The bytes are free once their holder is gone.
    with _Locker(stand, "n2") as last:
        last.lock("0", "30")
        last.wait_locked()


def test_smbstatus_on_any_node_lists_the_sessions_of_all(trio: Pair) -> None:
    stand = trio.ours
    holders = [stand.hold(f"by-{node}.txt", node=node) for node in stand.lab.nodes]
    for host in stand.lab.nodes:
        said = _smbstatus(stand, host)
        assert {found[1] for found in re.finditer(rf"^(\d):\d+ +{USER} ", said, re.MULTILINE)} == {
            "0",
            "1",
            "2",
        }
        assert all(f"by-{node}.txt" in said for node in stand.lab.nodes)
    for holder in holders:
        holder.kill()


def test_every_samba_process_of_the_cluster_answers_a_ping(trio: Pair) -> None:
    stand = trio.ours
    said = stand.lab.run("n1", ["smbcontrol", "all", "ping"], timeout_s=60).stdout
    assert {found[1] for found in re.finditer(r"^PONG from pid (\d):\d+$", said, re.MULTILINE)} == {
        "0",
        "1",
        "2",
    }


@pytest.mark.parametrize("suite", SUITES)
def test_smbtorture_over_three_nodes_gives_the_same_verdicts(trio: Pair, suite: str) -> None:
    runs = []
    for stand in (trio.ours, trio.debian):
        shares = "".join(f"//{node}-pub/share\n" for node in stand.lab.nodes)
        stand.lab.path("c0", "/tmp/shares").write_text(shares)
        runs.append(stand.torture(suite, "--unclist=/tmp/shares"))
    for run in runs:
        run.wait(timeout_s=_SUITE_LIMIT_S)
    ours, debians = trio.ours.verdicts(suite), trio.debian.verdicts(suite)
    assert ours == debians
    assert len(ours) >= SUITES[suite]


def _smbstatus(stand: Stand, host: str) -> str:
    return stand.lab.run(host, ["smbstatus"], timeout_s=30).stdout


_serial = itertools.count()


class _Locker:
    """An smbclient that has locked.txt open through one node and locks bytes of it."""

    def __init__(self, stand: Stand, node: str) -> None:
        # One of its own: who is killed may still write, and would do so amid another's words.
        self._log = stand.lab.path("c0", f"/tmp/locker-{next(_serial)}.log")
        commands, self._commands = os.pipe()
        smb1 = ["-m", "NT1", "--option=client min protocol=NT1"]
        argv = ["stdbuf", "-oL", "smbclient", f"//{node}-pub/share", *smb1, "-U", LOGIN]
        with open(commands, "rb") as stdin, self._log.open("wb") as out:
            self._process = stand.lab.connect("c0", argv, (stdin, out, out))
        self._seen = 0
        try:
            self._say("posix")
            self._say("posix_open locked.txt 0644")
            opened = wait_until("it is open", lambda: re.search(r"fnum (\d+)", self._news()), timeout_s=20)
        except BaseException:
            self.__exit__()
            raise
        assert opened is not None
        self._handle = opened[1]

    def __enter__(self) -> _Locker:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._commands)
        self._process.kill()
        self._process.close()

    def lock(self, start: str, length: str) -> None:
        """Ask for a write lock; start and length are hexadecimal. It waits for who holds the bytes."""
        self._seen = len(self._log.read_text())
        self._say(f"lock {self._handle} w {start} {length}")
        # A lock that is granted says nothing: the next command's answer shows that it was.
        os.write(self._commands, b"pwd\n")

    def wait_locked(self, *, timeout_s: float = 20) -> None:
        """Wait until the lock that was asked for last is granted."""
        wait_until("the lock is granted", lambda: "Current directory" in self._news(), timeout_s=timeout_s)
        assert "lock failed" not in self._news()

    def _news(self) -> str:
        return self._log.read_text()[self._seen :]

    def _say(self, line: str) -> None:
        os.write(self._commands, f"{line}\n".encode())
        # smbclient takes all that it finds but then waits for more, not for the second line it has got.
        wait_until(f"smbclient has read '{line}'", self._has_read_all, timeout_s=20, pause_s=0.005)

    def _has_read_all(self) -> bool:
        waiting = bytearray(4)
        fcntl.ioctl(self._commands, termios.FIONREAD, waiting)
        return not any(waiting)
