# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's `ctdb` tool, unmodified, says the same about one node of ours as about one of Debian's."""

from __future__ import annotations

import re

import pytest

from tests.interop.conftest import Pair
from tests.interop.masks import check_same, masked, outline

CONVERSATIONS = {
    "the node": [
        "ctdb status",
        "ctdb -X status",
        "ctdb -Y status",
        "ctdb -Y -x: status",
        "ctdb status -n 0",
        "ctdb status -n 1",
        "ctdb nodestatus",
        "ctdb nodestatus all",
        "ctdb nodestatus 0",
        "ctdb -X nodestatus all",
        "ctdb nodestatus 1",
        "ctdb pnn",
        "ctdb ping",
        "ctdb -n 0 ping",
        "ctdb uptime",
        "ctdb runstate",
        "ctdb runstate RUNNING",
        "ctdb runstate INIT STARTUP",
        "ctdb runstate FROBNICATE",
        "ctdb leader",
        "ctdb listnodes",
        "ctdb -X listnodes",
        "ctdb getcapabilities",
        "ctdb -X getcapabilities",
        "ctdb getreclock",
        "ctdb version",
        "ctdb frobnicate",
    ],
    "tunables": [
        "ctdb listvars",
        "ctdb getvar RecoverTimeout",
        "ctdb getvar recovertimeout",
        "ctdb setvar RecoverTimeout 31",
        "ctdb getvar RecoverTimeout",
        "ctdb setvar RecoverTimeout 30",
        "ctdb setvar MaxRedirectCount 4",
        "ctdb getvar MaxRedirectCount",
        "ctdb getvar Frobnicate",
        "ctdb setvar Frobnicate 1",
        "ctdb setvar RecoverTimeout",
        "ctdb listvars",
    ],
    "log level": [
        "ctdb getdebug",
        "ctdb setdebug DEBUG",
        "ctdb getdebug",
        "ctdb setdebug 3",
        "ctdb getdebug",
        "ctdb setdebug 0",
        "ctdb getdebug",
        "ctdb setdebug 1",
        "ctdb getdebug",
        "ctdb setdebug 7",
        "ctdb getdebug",
        "ctdb setdebug FROBNICATE",
        "ctdb setdebug NOTICE",
        "ctdb getdebug",
    ],
    "attach and detach": [
        "ctdb attach tool_v.tdb",
        "ctdb attach tool_p.tdb persistent",
        "ctdb attach tool_r.tdb replicated",
        "ctdb attach tool_v.tdb",
        "ctdb attach tool_v.tdb persistent",
        "ctdb attach tool_p.tdb",
        "ctdb attach tool_v.tdb frobnicate",
        "ctdb getdbmap",
        "ctdb -X getdbmap",
        "ctdb getdbstatus tool_v.tdb",
        "ctdb getdbstatus tool_p.tdb",
        "ctdb getdbstatus tool_r.tdb",
        "ctdb getdbstatus frobnicate.tdb",
        "ctdb getdbstatus 0x12345678",
        "ctdb detach tool_v.tdb",
        "ctdb detach tool_p.tdb",
        "ctdb setvar AllowClientDBAttach 0",
        "ctdb detach tool_p.tdb",
        "ctdb detach tool_v.tdb",
        "ctdb detach tool_r.tdb",
        "ctdb attach tool_w.tdb",
        "ctdb setvar AllowClientDBAttach 1",
        "ctdb getdbmap",
        "ls /var/lib/ctdb/volatile /var/lib/ctdb/persistent",
    ],
    "records of a volatile database": [
        "ctdb attach volatile.tdb",
        "ctdb readkey volatile.tdb nothing",
        "ctdb writekey volatile.tdb key1 value1",
        "ctdb writekey volatile.tdb key2 0x00ff10",
        "ctdb writekey volatile.tdb 0x6b657933 'with blanks'",
        "ctdb writekey volatile.tdb empty ''",
        "ctdb readkey volatile.tdb key1",
        "ctdb readkey volatile.tdb key1 readonly",
        "ctdb readkey volatile.tdb key3",
        "ctdb writekey volatile.tdb key1 changed",
        "ctdb readkey volatile.tdb key1",
        "ctdb catdb volatile.tdb",
        "ctdb cattdb volatile.tdb",
        "ctdb deletekey volatile.tdb key1",
        "ctdb deletekey volatile.tdb nothing2",
        "ctdb readkey volatile.tdb key1",
        "ctdb catdb volatile.tdb",
        "ctdb getdbseqnum volatile.tdb",
        "ctdb tfetch /var/lib/ctdb/volatile/volatile.tdb.0 key2",
        "ctdb tstore /var/lib/ctdb/volatile/volatile.tdb.0 key4 value4",
        "ctdb readkey volatile.tdb",
        "ctdb readkey frobnicate.tdb key",
        "ctdb pstore volatile.tdb key value",
        "ctdb pfetch volatile.tdb key2",
        "ctdb wipedb volatile.tdb",
        "ctdb catdb volatile.tdb",
        "ctdb cattdb volatile.tdb",
    ],
    "records of a persistent database": [
        "ctdb attach persistent.tdb persistent",
        "ctdb getdbseqnum persistent.tdb",
        "ctdb pfetch persistent.tdb nothing",
        "ctdb pstore persistent.tdb key1 value1",
        "ctdb getdbseqnum persistent.tdb",
        "ctdb pfetch persistent.tdb key1",
        "ctdb pstore persistent.tdb key1 value1",
        "ctdb getdbseqnum persistent.tdb",
        "ctdb pstore persistent.tdb key1 other",
        "ctdb pstore persistent.tdb 0x6b657932 0x76616c756532",
        "ctdb pfetch persistent.tdb key2",
        "ctdb catdb persistent.tdb",
        "ctdb cattdb persistent.tdb",
        "ctdb pdelete persistent.tdb key1",
        "ctdb pdelete persistent.tdb nothing",
        "ctdb pfetch persistent.tdb key1",
        "ctdb catdb persistent.tdb",
        """printf '"a" "1"\\n"b" "2"\\nbad\\n"c" "0x3334"\\n"key2" ""\\n' | ctdb ptrans persistent.tdb""",
        """printf '"a" "one"\\n' >/tmp/transaction; ctdb ptrans persistent.tdb /tmp/transaction""",
        "ctdb getdbseqnum persistent.tdb",
        "ctdb catdb persistent.tdb",
        "ctdb tfetch /var/lib/ctdb/persistent/persistent.tdb.0 b",
        "ctdb tfetch /var/lib/ctdb/persistent/persistent.tdb.0 b /tmp/fetched; od -An -tx1 /tmp/fetched",
        "ctdb tfetch /var/lib/ctdb/persistent/persistent.tdb.0 nothing",
        "ctdb tfetch /var/lib/ctdb/persistent/nothing.tdb.0 b",
        "ctdb tstore /var/lib/ctdb/persistent/persistent.tdb.0 d direct",
        "ctdb tstore /var/lib/ctdb/persistent/persistent.tdb.0 e direct 7 0",
        "ctdb catdb persistent.tdb",
        "ctdb readkey persistent.tdb a",
        "ctdb writekey persistent.tdb a value",
        "ctdb wipedb persistent.tdb",
        "ctdb getdbseqnum persistent.tdb",
        "ctdb catdb persistent.tdb",
        "ctdb pstore persistent.tdb again value",
        "ctdb getdbseqnum persistent.tdb",
        "tdbdump /var/lib/ctdb/persistent/persistent.tdb.0",
    ],
    "records of a replicated database": [
        "ctdb attach replicated.tdb replicated",
        "ctdb pstore replicated.tdb key value",
        "ctdb pfetch replicated.tdb key",
        "ctdb getdbseqnum replicated.tdb",
        "ctdb catdb replicated.tdb",
        "ctdb pdelete replicated.tdb key",
        "ctdb catdb replicated.tdb",
        "ctdb setdbreadonly replicated.tdb",
        "ctdb setdbsticky replicated.tdb",
    ],
    "backup and restore": [
        "ctdb attach kept.tdb persistent",
        """for i in $(seq 200); do echo "\\"key$i\\" \\"value$i\\""; done | ctdb ptrans kept.tdb""",
        "ctdb backupdb kept.tdb /tmp/kept.backup",
        "ctdb dumpdbbackup /tmp/kept.backup",
        "ctdb wipedb kept.tdb",
        "ctdb catdb kept.tdb",
        "ctdb restoredb /tmp/kept.backup",
        "ctdb catdb kept.tdb | sort",
        "ctdb getdbseqnum kept.tdb",
        "ctdb restoredb /tmp/kept.backup copied.tdb",
        "ctdb getdbstatus copied.tdb",
        "ctdb pfetch copied.tdb key200",
        "ctdb attach loose.tdb",
        "ctdb writekey loose.tdb key value",
        "ctdb backupdb loose.tdb /tmp/loose.backup",
        "ctdb dumpdbbackup /tmp/loose.backup",
        "ctdb restoredb /tmp/loose.backup",
        "ctdb catdb loose.tdb",
        "ctdb readkey loose.tdb key",
        "ctdb restoredb /tmp/nothing.backup",
        "ctdb backupdb frobnicate.tdb /tmp/x",
    ],
    "read-only and sticky": [
        "ctdb attach flags.tdb",
        "ctdb attach flags_p.tdb persistent",
        "ctdb setdbreadonly flags.tdb",
        "ctdb getdbstatus flags.tdb",
        "ctdb setdbsticky flags.tdb",
        "ctdb getdbstatus flags.tdb",
        "ctdb getdbmap | grep flags",
        "ctdb -X getdbmap | grep flags",
        "ctdb setdbreadonly flags_p.tdb",
        "ctdb setdbsticky flags_p.tdb",
        "ctdb setdbreadonly frobnicate.tdb",
        "ctdb writekey flags.tdb key value",
        "ctdb readkey flags.tdb key",
        "ctdb readkey flags.tdb key readonly",
        "ctdb catdb flags.tdb",
        "ctdb cattdb flags.tdb",
        "ctdb writekey flags.tdb key other",
        "ctdb cattdb flags.tdb",
    ],
    "processes": [
        "ctdb getpid | grep -c '^[0-9][0-9]*$'",
        'test "$(ctdb getpid)" = "$(cat /run/ctdb/ctdbd.pid)"',
        "ctdb process-exists 999999",
        "ctdb process-exists 1",
        "ctdb process-exists 999999 0x1234",
        "ctdb process-exists 0",
    ],
    "addresses, none configured": [
        "ctdb ip",
        "ctdb ip all",
        "ctdb -X ip",
        "ctdb ifaces",
        "ctdb ipinfo 10.78.0.200",
    ],
}

# The layout is compared, not the numbers: how many packets a daemon needs for a deed is its own affair.
COUNTERS = [
    "ctdb statistics",
    "ctdb -X statistics",
    "ctdb statisticsreset",
    "ctdb statistics -n 0",
    "ctdb attach counted.tdb",
    "ctdb dbstatistics counted.tdb | sed '/Num Hot Keys/,$d'",
    "ctdb dbstatistics frobnicate.tdb",
]


@pytest.mark.parametrize("topic", CONVERSATIONS)
def test_the_tool_says_the_same_about(pair: Pair, topic: str) -> None:
    lines = CONVERSATIONS[topic]
    ours, debians = (masked(stand.converse(lines)) for stand in (pair.ours, pair.debian))
    check_same(ours, debians)


def test_statistics_have_the_same_rows(pair: Pair) -> None:
    ours, debians = (outline(stand.converse(COUNTERS)) for stand in (pair.ours, pair.debian))
    check_same(ours, debians)


def test_a_reset_takes_the_counters_back(pair: Pair) -> None:
    stand = pair.ours
    stand.converse(
        ["ctdb attach reset.tdb", *(f"ctdb writekey reset.tdb k{number} v" for number in range(20))]
    )
    before = _counter(stand.converse(["ctdb statistics"]), "total_calls")
    stand.converse(["ctdb statisticsreset"])
    after = _counter(stand.converse(["ctdb statistics"]), "total_calls")
    assert after < before
    assert before >= 20


def test_the_memory_report_reads_like_a_talloc_report(pair: Pair) -> None:
    """What upstream's own test of `dumpmemory` asks of every line."""
    wanted = re.compile(
        r"(full )?talloc report on '?.+'? \(total +\d+ bytes in +\d+ blocks\)"
        r"| +.+ contains +\d+ bytes in +\d+ blocks \(ref -?\d+\)( 0x[0-9a-f]+)?"
        r"| +reference to: .+"
    )
    for stand in (pair.debian, pair.ours):
        report = stand.cluster.tool("n0", "dumpmemory").stdout.splitlines()
        assert len(report) >= 10
        assert [line for line in report if not wanted.fullmatch(line)] == []


def test_a_backup_of_either_flavour_restores_on_the_other(pair: Pair) -> None:
    fill = ["ctdb attach moved.tdb persistent", """printf '"a" "1"\\n"b" "2"\\n' | ctdb ptrans moved.tdb"""]
    for giver, taker in ((pair.ours, pair.debian), (pair.debian, pair.ours)):
        giver.converse([*fill, "ctdb backupdb moved.tdb /tmp/moved"])
        taker.lab.path("n0", "/tmp/moved").write_bytes(giver.lab.path("n0", "/tmp/moved").read_bytes())
        restored = taker.converse(
            ["ctdb restoredb /tmp/moved", "ctdb pfetch moved.tdb a", "ctdb pfetch moved.tdb b"]
        )
        assert restored.splitlines()[-4:] == [
            "$ ctdb pfetch moved.tdb a",
            "1",
            "$ ctdb pfetch moved.tdb b",
            "2",
        ]


def _counter(statistics: str, name: str) -> int:
    found = re.search(rf"^ +{name} +(\d+)$", statistics, re.MULTILINE)
    assert found, f"no row {name} in:\n{statistics}"
    return int(found[1])
