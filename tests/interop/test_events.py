# SPDX-License-Identifier: GPL-3.0-or-later
"""Event scripts: Debian's `ctdb event` and `ctdb scriptstatus` say the same of our runner as of Debian's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ctdbpy.lab import wait_until
from ctdbpy.lab.services import Cluster
from tests.interop.conftest import Pair, pair_of
from tests.interop.masks import check_same, masked

_LEGACY = "/etc/ctdb/events/legacy"


def _script(name: str, body: str, mode: str = "755", shell: str = "#!/bin/sh") -> str:
    """The line that makes a script."""
    path = f"{_LEGACY}/{name}.script"
    return f"""printf '%s\\n' '{shell}' '{body}' >{path} && chmod {mode} {path}"""


def _run(event: str, *args: str, timeout_s: int = 20) -> list[str]:
    return [
        f"ctdb event run {timeout_s} legacy {event} {' '.join(args)}",
        f"ctdb event status legacy {event}",
    ]


CONVERSATIONS = {
    "nothing to run": [
        "ctdb event run 10 legacy foo",
        "ctdb event status legacy foo",
        "ctdb event status legacy never",
        "ctdb scriptstatus never",
        "ctdb event run 10 frobnicate foo",
        "ctdb event status frobnicate foo",
        "ctdb event script list legacy",
        "ctdb event script list frobnicate",
        "ctdb event script enable legacy 99.nothing",
        "ctdb event script disable legacy 99.nothing",
        "ctdb event run",
        "ctdb event status legacy",
        "ctdb event frobnicate",
    ],
    "scripts that succeed and fail": [
        _script("10.first", 'echo "$0 $*"; echo error >&2'),
        _script("11.off", "exit 1", "644"),
        _script("12.second", '[ "$1" != bad ] || { echo "bad news"; exit 3; }'),
        _script("13.third", "cat; pwd"),
        *_run("fine"),
        *_run("fine", "one", '"two  three"', "four"),
        *_run("bad"),
        "ctdb event script list legacy | tail -5",
        "ctdb event script disable legacy 12.second",
        *_run("bad"),
        "ctdb event script enable legacy 11.off",
        *_run("bad"),
        "ctdb scriptstatus bad",
    ],
    "results": [
        *(
            line
            for number in (1, 2, 63, 64, 65, 66, 72, 77, 78, 126, 127, 128, 174, 254, 255)
            for line in (_script("10.first", f"exit {number}"), *_run(f"status{number}"))
        ),
        *(
            line
            for number in ("TERM", "KILL", "SEGV")
            for line in (_script("10.first", f"kill -{number} $$"), *_run(f"signal{number}"))
        ),
        _script("10.first", "exit 0", shell="#!/no/such/interpreter"),
        *_run("interpreter"),
        f"rm {_LEGACY}/10.first.script; ln -s /nowhere {_LEGACY}/10.first.script",
        *_run("dangling"),
        f"rm {_LEGACY}/10.first.script; mkdir {_LEGACY}/10.first.script",
        *_run("directory"),
        f"rmdir {_LEGACY}/10.first.script",
    ],
    "output": [
        _script("10.first", "seq 1000; exit 1"),
        *_run("long"),
        _script("10.first", "printf no.newline; exit 1"),
        *_run("newline"),
        _script("10.first", r"printf \\303\\244\\377\\n; exit 1"),
        *_run("bytes"),
        _script("10.first", r"printf before\\0after; exit 1"),
        *_run("nul"),
        _script("10.first", "exit 1"),
        *_run("silent"),
    ],
    "time": [
        _script("10.first", '[ "$1" != slow ] || { echo "Sleeping..."; sleep 1000; }'),
        _script("12.second", "echo never reached"),
        *_run("slow", timeout_s=3),
        "ctdb scriptstatus slow",
        *_run("quick"),
        *_run("quick", timeout_s=0),
        *_run("quick", timeout_s=-1),
    ],
    "names": [
        *(_script(name, 'echo "$0"') for name in ("1.x", "100.x", "20.a-b", "20.a", "20.B", "20.", "abc")),
        "ctdb event script list legacy | tail -6",
        *_run("names"),
        "ctdb event script disable legacy 20.a.script",
        "ctdb event script disable legacy abc",
        "ctdb event script disable legacy 1.x",
        *_run("names"),
    ],
    "environment": [
        _script("10.first", "env | grep ^CTDB_ | sort; id -u; ulimit -c; exit 1"),
        *_run("environment"),
    ],
}


@pytest.fixture(scope="module")
def event_pair() -> Iterator[Pair]:
    """Nodes whose scripts come and go."""
    with pair_of() as both:
        yield both


@pytest.mark.parametrize("topic", CONVERSATIONS)
def test_the_tool_says_the_same_about(event_pair: Pair, topic: str) -> None:
    said = []
    for stand in (event_pair.ours, event_pair.debian):
        said.append(_masked(stand.converse(CONVERSATIONS[topic])))
        stand.converse([f"rm -f {_LEGACY}/*.script"])
    check_same(*said)


def _masked(transcript: str) -> str:
    """Also without how long scripts took."""
    return re.sub(r"(?<=(?:OK   |ERROR)      )\d+\.\d{3} ", "<duration> ", masked(transcript))


def test_a_node_is_as_well_as_its_scripts_say(event_pair: Pair) -> None:
    for stand in (event_pair.ours, event_pair.debian):
        stand.converse([_script("50.service", '[ ! -e /tmp/sick ] || { echo "no answer"; exit 1; }')])
        cluster = stand.cluster

        def status(cluster: Cluster = cluster) -> int:
            return cluster.tool("n0", "nodestatus", check=False).returncode

        stand.converse(["ctdb setvar MonitorInterval 1", "touch /tmp/sick"])
        wait_until("the node is unhealthy", lambda: status() == 2, timeout_s=40)
        told = cluster.tool("n0", "scriptstatus", check=False).stdout
        assert re.match(r"50\.service +ERROR +\d+\.\d{3} .*\n  OUTPUT: no answer\n", told)
        stand.converse(["rm /tmp/sick"])
        wait_until("the node is healthy", lambda: status() == 0, timeout_s=40)
        stand.converse([f"rm {_LEGACY}/50.service.script", "ctdb setvar MonitorInterval 15"])


DEBIANS = [
    *(f"ctdb scriptstatus {event}" for event in ("init", "setup", "startup", "monitor", "ipreallocated")),
    "ctdb attach ctdb.tdb persistent",
    "ctdb getdbstatus ctdb.tdb",
    "ctdb event script list legacy",
    "ctdb event script disable legacy 05.system",
    "ctdb event script enable legacy 06.nfs",
    "ctdb event script list legacy",
    "ctdb event run 30 legacy monitor",
    "ctdb scriptstatus",
    "ctdb event script disable legacy 06.nfs",
    "ctdb event script enable legacy 05.system",
    "ls /var/lib/ctdb/scripts",
]


def test_the_scripts_that_debian_enables_run() -> None:
    with pair_of(events=True) as both:
        ours, debians = (_masked(stand.converse(DEBIANS)) for stand in (both.ours, both.debian))
        check_same(ours, debians)
        for stand in (both.ours, both.debian):
            pid = stand.cluster.pid("n0")
            stand.converse([_script("50.service", 'echo "$1" >>/tmp/heard; [ "$1" != shutdown ] || exit 1')])
            stand.cluster.tool("n0", "shutdown")
            stand.cluster.wait_gone("n0", pid)
            assert stand.lab.path("n0", "/tmp/heard").read_text().splitlines()[-1] == "shutdown"
