# SPDX-License-Identifier: GPL-3.0-or-later
"""One node of ours when something dies or rots under it: smbd, the daemon itself, a database file."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ctdbpy.lab import wait_until
from tests.interop.conftest import OUR_FLAVOUR
from tests.interop.masks import check_same, masked
from tests.interop.stand import USER, Stand

_HOLDING_TRIES = 2000

# Says which value was committed last; the next one may or may not be.
COUNT = """
n=0
while n=$((n + 1)); do
    ctdb pstore counter.tdb count $n || exit
    echo $n
done
"""

SHUTDOWN = [
    "ctdb attach kept.tdb persistent",
    "ctdb attach lost.tdb",
    "ctdb attach copied.tdb replicated",
    "ctdb pstore kept.tdb key value",
    "ctdb pstore copied.tdb key value",
    "ctdb writekey lost.tdb key value",
    "ctdb shutdown",
]

#: Asked when the daemon has ended: Debian's tool does not wait for that.
WITHOUT_DAEMON = [
    "ctdb status",
    "ctdb -X status",
    "ctdb pnn",
    "ctdb shutdown",
    "ctdb listnodes",
    "ls /run/ctdb/ctdbd.pid",
    "ls /var/lib/ctdb/persistent /var/lib/ctdb/volatile",
]

AFTERWARDS = [
    "ctdb status",
    "ctdb getdbmap",
    "ctdb pfetch kept.tdb key",
    "ctdb getdbseqnum kept.tdb",
    "ctdb attach lost.tdb",
    "ctdb catdb lost.tdb",
    "ctdb attach copied.tdb replicated",
    "ctdb catdb copied.tdb",
]


def test_a_shutdown_and_a_new_start_say_the_same(both: tuple[Stand, Stand]) -> None:
    said = []
    for stand in both:
        pid = stand.cluster.pid("n0")
        before = stand.converse(SHUTDOWN)
        stand.cluster.wait_gone("n0", pid)
        before += stand.converse(WITHOUT_DAEMON)
        stand.cluster.start("n0")
        stand.cluster.wait_healthy()
        # Debian's leaves its socket behind (connection refused), ours takes it away (no such file).
        before = re.sub(r"(?<=connect\(\) failed, errno=)(111|2)$", "<either>", before, flags=re.MULTILINE)
        said.append(masked(before + stand.converse(AFTERWARDS)))
    check_same(*said)
    assert "! Failed to connect to CTDB daemon (/run/ctdb/ctdbd.socket)" in said[0]
    assert "$ ctdb pfetch kept.tdb key\nvalue\n" in said[0]


def test_an_smbd_killed_while_it_holds_a_record_lock_leaves_the_database_usable(fresh: Stand) -> None:
    fresh.serve()
    fresh.keep_busy("busy.txt")
    status = fresh.lab.run("n0", ["smbstatus", "-p"], timeout_s=30).stdout
    session = re.search(rf"^(?:0:)?(\d+) +{USER} ", status, re.MULTILINE)
    assert session, status
    pid = session[1]
    _stop_while_holding(fresh, pid)
    # Held by a process that does not run: the daemon has to answer all the same.
    assert fresh.cluster.tool("n0", "ping").stdout.startswith("response from 0 ")
    fresh.cluster.tool("n0", "attach", "other.tdb")
    fresh.cluster.tool("n0", "writekey", "other.tdb", "key", "value")
    fresh.lab.run("n0", ["kill", "-KILL", pid], timeout_s=10)
    fresh.smbclient("put /etc/hosts busy.txt; get busy.txt /tmp/busy.back; rm busy.txt")
    assert (
        fresh.lab.path("c0", "/tmp/busy.back").read_bytes() == fresh.lab.path("c0", "/etc/hosts").read_bytes()
    )
    assert pid not in _holders(fresh)
    wait_until(
        "nobody has a file open",
        lambda: "Dumped 0 records" in fresh.cluster.tool("n0", "catdb", "locking.tdb").stdout,
        timeout_s=10,
    )


def test_a_daemon_killed_amid_commits_keeps_every_commit_it_confirmed(fresh: Stand) -> None:
    fresh.cluster.tool("n0", "attach", "counter.tdb", "persistent")
    fresh.cluster.tool("n0", "attach", "still.tdb", "persistent")
    fresh.cluster.tool("n0", "pstore", "still.tdb", "key", "value")
    log = fresh.lab.path("n0", "/tmp/counted")
    counting = fresh.lab.spawn("n0", ["sh", "-c", COUNT], log)
    wait_until("some commits are confirmed", lambda: len(log.read_text().split()) > 10, timeout_s=30)
    fresh.cluster.kill("n0")
    assert counting.wait(timeout_s=30) != 0
    confirmed = max(int(word) for word in log.read_text().split() if word.isdigit())
    assert fresh.lab.path("n0", "/run/ctdb/ctdbd.socket").is_socket(), "the new daemon finds a stale socket"
    fresh.cluster.start("n0")
    fresh.cluster.wait_healthy()
    assert int(fresh.cluster.tool("n0", "pfetch", "counter.tdb", "count").stdout) in (
        confirmed,
        confirmed + 1,
    )
    assert fresh.cluster.tool("n0", "pfetch", "still.tdb", "key").stdout == "value\n"
    assert fresh.cluster.tool("n0", "getdbseqnum", "still.tdb").stdout == "0x1\n"
    fresh.cluster.tool("n0", "pstore", "counter.tdb", "count", "done")
    assert fresh.cluster.tool("n0", "pfetch", "counter.tdb", "count").stdout == "done\n"


def test_a_second_daemon_is_refused_and_the_first_goes_on(fresh: Stand) -> None:
    pid = fresh.cluster.pid("n0")
    second = fresh.cluster.start_second("n0")
    if OUR_FLAVOUR != "debian":  # Debian's goes into the background before it finds out.
        assert second.returncode != 0
        assert str(pid) in second.stderr, "it says who runs already"
    assert fresh.cluster.pid("n0") == pid
    assert fresh.cluster.tool("n0", "getpid").stdout == f"{pid}\n"


@pytest.mark.skipif(
    OUR_FLAVOUR == "debian", reason="Debian's daemon aborts at start with one corrupt database"
)
@pytest.mark.parametrize("damage", ["rotten inside", "no database at all"])
def test_a_corrupt_persistent_database_is_refused_by_name_and_the_others_attach(
    fresh: Stand, damage: str
) -> None:
    for name in ("good.tdb", "bad.tdb"):
        fresh.cluster.tool("n0", "attach", name, "persistent")
        fresh.cluster.tool("n0", "pstore", name, "key", "value")
    fresh.cluster.stop("n0")
    path = fresh.lab.path("n0", "/var/lib/ctdb/persistent/bad.tdb.0")
    rotten = bytearray(path.read_bytes())
    if damage == "rotten inside":
        rotten[4096::3] = bytes(byte ^ 0x5A for byte in rotten[4096::3])
    else:
        rotten = bytearray(b"this is no database\n" * 100)
    path.write_bytes(rotten)
    fresh.cluster.log("n0").unlink()
    fresh.cluster.start("n0")
    fresh.cluster.wait_healthy()
    assert fresh.cluster.tool("n0", "pfetch", "good.tdb", "key").stdout == "value\n"
    assert fresh.cluster.tool("n0", "attach", "bad.tdb", "persistent", check=False).returncode != 0
    assert fresh.cluster.tool("n0", "pfetch", "bad.tdb", "key", check=False).returncode != 0
    said = fresh.cluster.log("n0").read_text().splitlines()
    assert any("bad.tdb" in line and "corrupt" in line.lower() for line in said), "\n".join(said)
    kept = [each.read_bytes() for each in path.parent.glob("bad.tdb*")]
    assert bytes(rotten) in kept, "what may still be saved by hand is not thrown away"
    fresh.cluster.tool("n0", "pstore", "good.tdb", "key", "more")


@pytest.fixture
def both() -> Iterator[tuple[Stand, Stand]]:
    """A node of ours and one of Debian's, which a test may break."""
    stands = Stand(OUR_FLAVOUR), Stand("debian")
    try:
        for stand in stands:
            stand.begin()
        for stand in stands:
            stand.cluster.wait_healthy()
        yield stands
    finally:
        for stand in stands:
            stand.end()


def _stop_while_holding(stand: Stand, pid: str) -> None:
    """SIGSTOP smbd again and again until it is caught with a record of locking.tdb locked."""
    for _ in range(_HOLDING_TRIES):
        stand.lab.run("n0", ["kill", "-STOP", pid], timeout_s=10)
        if pid in _holders(stand):
            return
        stand.lab.run("n0", ["kill", "-CONT", pid], timeout_s=10)
    pytest.fail(f"smbd was never caught with a record locked, in {_HOLDING_TRIES} tries")


def _holders(stand: Stand) -> set[str]:
    """The processes that hold a chain of locking.tdb, its name read from the file's robust mutexes."""
    argv = ["/usr/libexec/ctdb/tdb_mutex_check", "/var/lib/ctdb/volatile/locking.tdb.0"]
    return set(re.findall(r"pid=(\d+)", stand.lab.run("n0", argv, timeout_s=10).stdout))
