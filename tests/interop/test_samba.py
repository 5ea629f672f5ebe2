# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's smbd, `clustering = yes`, on one node of ours: it serves, and says what it does on Debian's."""

from __future__ import annotations

import hashlib
import random
import re
from pathlib import Path

import pytest

from ctdbpy.lab import wait_until
from tests.interop.conftest import Pair
from tests.interop.masks import check_same, masked
from tests.interop.stand import USER, Stand

FILES = 1000
# Empty, tiny, around a block, around what smbclient sends at once, and larger.
SIZES = (0, 1, 511, 512, 4095, 4096, 4097, 65535, 65536, 65537, 200_000, 1_000_000)

SUITES = {"smb2.read": 5, "smb2.lock": 20, "smb2.oplock": 40}
_SUITE_LIMIT_S = 300

REGISTRY = [
    r"printf '[global]\n\tserver string = from the registry\n' >/tmp/import",
    r"printf '[extra]\n\tpath = /cluster/extra\n\tread only = no\n\tcomment = imported\n' >>/tmp/import",
    "net conf import /tmp/import",
    "net conf list",
    "net conf listshares",
    "net conf showshare extra",
    "net conf setparm extra 'guest ok' no",
    "net conf getparm extra 'guest ok'",
    "net conf delparm extra comment",
    "net conf showshare extra",
    r"net registry enumerate 'HKLM\Software\Samba\smbconf\extra'",
    r"net registry setvalue 'HKLM\Software\Samba\smbconf\extra' comment sz changed",
    r"net registry getvalue 'HKLM\Software\Samba\smbconf\extra' comment",
    r"net registry createkey 'HKLM\Software\Ours'",
    r"net registry setvalue 'HKLM\Software\Ours' number dword 42",
    r"net registry enumerate 'HKLM\Software\Ours'",
    r"net registry export 'HKLM\Software\Ours' /tmp/export && tr -d '\000' </tmp/export | tr -d '\377\376\r'",
    r"net registry deletekey 'HKLM\Software\Ours'",
    r"net registry enumerate 'HKLM\Software\Ours'",
    "net conf showshare nothing",
]

USERS = [
    "useradd --no-create-home --uid 20100 bob",
    "printf 'Word.1\\nWord.1\\n' | pdbedit -t -a -u bob",
    "pdbedit -L",
    "pdbedit -L -v bob",
    "pdbedit -r -u bob -f 'Bob the User'",
    "pdbedit -L -v bob | grep 'Full Name'",
    "pdbedit -P 'min password length' -C 7",
    "pdbedit -P 'min password length'",
    "pdbedit -x -u bob",
    "pdbedit -L",
    "net groupmap add ntgroup='Our Group' unixgroup=users type=local",
    "net groupmap list",
    "net groupmap delete ntgroup='Our Group'",
    "net getlocalsid",
]


@pytest.fixture(scope="module")
def served(pair: Pair) -> Pair:
    """The pair, with smbd on both."""
    pair.debian.serve()
    pair.ours.serve()
    return pair


@pytest.mark.timeout(300)
def test_a_thousand_files_of_mixed_sizes_come_back_as_they_went(served: Pair) -> None:
    stand = served.ours
    sent = stand.lab.path("c0", "/tmp/sent")
    back = stand.lab.path("c0", "/tmp/back")
    sent.mkdir()
    back.mkdir()
    dice = random.Random(1)
    for number in range(FILES):
        folder = sent / f"folder{number % 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number}").write_bytes(dice.randbytes(dice.choice(SIZES[:10] * 3 + SIZES)))
    stand.smbclient("mkdir many; cd many; lcd /tmp/sent; recurse on; prompt off; mput *", timeout_s=200)
    stand.smbclient("cd many; lcd /tmp/back; recurse on; prompt off; mget *", timeout_s=200)
    sums = _sums(sent)
    assert len(sums) == FILES
    assert _sums(back) == sums
    assert _sums(stand.lab.path("n0", "/cluster/share/many")) == sums


def test_smbstatus_shows_sessions_shares_and_open_files(served: Pair) -> None:
    shown = []
    for stand in (served.ours, served.debian):
        holder = stand.hold("held.txt")
        shown.append(_smbstatus(stand))
        holder.kill()
        gone = "nobody holds a file"
        wait_until(gone, lambda stand=stand: "held.txt" not in _smbstatus(stand), timeout_s=10)  # type: ignore[misc]
    check_same(*shown)
    assert re.search(rf"^<id> +{USER} ", shown[0], re.MULTILINE), "the session"
    assert re.search(r"^share +<id> +10\.78\.0\.101 ", shown[0], re.MULTILINE), "the share"
    assert re.search(r"DENY_ALL .* /cluster/share +held\.txt ", shown[0]), "the open file"


def test_every_samba_process_answers_a_ping(served: Pair) -> None:
    stand = served.ours
    stand.smbclient("ls")
    said = stand.lab.run("n0", ["smbcontrol", "all", "ping"], timeout_s=30).stdout.splitlines()
    assert all(re.fullmatch(r"PONG from pid 0:\d+", line) for line in said)
    running = stand.lab.run("n0", ["pgrep", "-x", "smbd"], timeout_s=10).stdout.split()
    assert {f"PONG from pid 0:{pid}" for pid in running} <= set(said)


def test_a_message_reaches_one_process(served: Pair) -> None:
    stand = served.ours
    pid = str(stand.samba.pid("n0"))
    stand.lab.run("n0", ["smbcontrol", pid, "debug", "3"], timeout_s=30)
    said = stand.lab.run("n0", ["smbcontrol", pid, "debuglevel"], timeout_s=30).stdout
    assert said.startswith(f"PID 0:{pid}: all:3 ")
    stand.lab.run("n0", ["smbcontrol", pid, "debug", "1"], timeout_s=30)


def test_the_daemon_knows_smbd_as_a_process(served: Pair) -> None:
    for stand in (served.ours, served.debian):
        pid = stand.samba.pid("n0")
        said = stand.cluster.tool("n0", "process-exists", str(pid))
        assert said.stdout == f"PID {pid} exists\n"


def test_the_registry_database_says_the_same(served: Pair) -> None:
    ours, debians = (masked(stand.converse(REGISTRY)) for stand in (served.ours, served.debian))
    check_same(ours, debians)
    assert 'Value      = "changed"' in ours


def test_a_share_from_the_registry_is_served(served: Pair) -> None:
    stand = served.ours
    stand.lab.run("n0", ["mkdir", "-p", "-m", "1777", "/cluster/late"], timeout_s=10)
    stand.lab.run("n0", ["net", "conf", "addshare", "late", "/cluster/late", "writeable=y"], timeout_s=30)
    stand.smbclient("put /etc/hosts hosts", share="late")
    assert (
        stand.lab.path("n0", "/cluster/late/hosts").read_bytes()
        == stand.lab.path("c0", "/etc/hosts").read_bytes()
    )


def test_the_user_database_says_the_same(served: Pair) -> None:
    ours, debians = (masked(stand.converse(USERS)) for stand in (served.ours, served.debian))
    check_same(ours, debians)


def test_a_user_logs_in_with_the_right_password_only(served: Pair) -> None:
    stand = served.ours
    assert "blocks available" in stand.smbclient("ls")
    argv = ["smbclient", "//n0-pub/share", "-U", f"{USER}%wrong", "-c", "ls"]
    refused = stand.lab.run("c0", argv, timeout_s=30, check=False)
    assert refused.returncode == 1
    assert "NT_STATUS_LOGON_FAILURE" in refused.stdout + refused.stderr


def test_samba_opened_the_same_databases(served: Pair) -> None:
    wanted = re.compile(
        r"\|(?!0x\w+\|(?:tool|counted|reset|moved|kept|copied|loose|flags|volatile|persistent|replicated))"
    )
    maps = []
    for stand in (served.ours, served.debian):
        rows = stand.cluster.tool("n0", "-X", "getdbmap").stdout.splitlines()
        maps.append(sorted(row for row in rows if wanted.match(row)))
    assert maps[0] == maps[1]
    assert len(maps[0]) > 12


@pytest.mark.timeout(_SUITE_LIMIT_S + 60)
@pytest.mark.parametrize("suite", SUITES)
def test_smbtorture_gives_the_same_verdicts(served: Pair, suite: str) -> None:
    for run in [stand.torture(suite) for stand in (served.ours, served.debian)]:
        run.wait(timeout_s=_SUITE_LIMIT_S)
    ours, debians = served.ours.verdicts(suite), served.debian.verdicts(suite)
    assert ours == debians
    assert len(ours) >= SUITES[suite]
    assert list(ours.values()).count("success") >= SUITES[suite] - 5


def _sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _smbstatus(stand: Stand) -> str:
    said = stand.lab.run("n0", ["smbstatus"], timeout_s=30).stdout
    said = re.sub(r"(?m)^(0:)?\d+ +(?=\S)", "<id> ", said)
    said = re.sub(r"(?<=^share) +(0:)?\d+ +", " <id> ", said, flags=re.MULTILINE)
    return re.sub(r":\d+\)", ":<port>)", masked(said))
