# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses by Debian's tool and scripts: three nodes of ours beside three of Debian's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.interop.conftest import OUR_FLAVOUR, Pair
from tests.interop.masks import check_same, masked
from tests.interop.stand import Stand

ADDRESSES = [f"10.78.0.{number}" for number in range(200, 206)]
ONE, TWO = ADDRESSES[0], ADDRESSES[1]
HERE = "ip -o -4 addr show dev pub0 | awk '{print $4}' | sort"
ALL = "ctdb ip all"

pytestmark = pytest.mark.timeout(600)

QUESTIONS = [
    "ctdb ip",
    "ctdb -n 2 ip",
    ALL,
    "ctdb -X ip",
    "ctdb -X ip all",
    "ctdb -v ip all",
    "ctdb -X -v ip all",
    f"ctdb ipinfo {ONE}",
    f"ctdb -n 1 ipinfo {ONE}",
    "ctdb ipinfo 192.0.2.1",
    "ctdb ipinfo nonsense",
    "ctdb ifaces",
    "ctdb -X ifaces",
    "ctdb -n 2 ifaces",
    "ctdb setifacelink pub9 down",
    HERE,
]

MOVES = [
    "ctdb disable",
    ALL,
    HERE,
    "ctdb disable",
    "ctdb enable",
    ALL,
    HERE,
    "ctdb -n 2 disable",
    "ctdb -n 1 disable",
    ALL,
    HERE,
    "ctdb -n 1 enable",
    "ctdb -n 2 enable",
    "ctdb ipreallocate",
    ALL,
    "ctdb -n 1 stop",
    ALL,
    "ctdb -n 1 continue; sleep 5; ctdb sync",
    ALL,
    HERE,
]

TABLES = [
    "ctdb addip 10.78.0.210/24 pub0",
    "ctdb addip 10.78.0.210/24 pub0",
    "ctdb addip 10.78.0.211 pub0",
    "ctdb sync",
    "ctdb ip",
    f"ctdb ipinfo {ONE}",
    # Debian's next run releases it, the one after that knows it no more; ours makes the first by itself.
    "ctdb delip 10.78.0.210",
    "ctdb sync; ctdb sync",
    "ctdb ip",
    "ctdb delip 10.78.0.210",
    "ctdb delip nonsense",
    f"sed -i '/^{TWO}/d' /etc/ctdb/public_addresses; ctdb reloadips",
    "ctdb ip",
    "ctdb ip all",
    f"echo '{TWO}/24 pub0' >> /etc/ctdb/public_addresses; ctdb reloadips all",
    "ctdb ip all",
    HERE,
]

TICKLES = [
    f"ctdb addtickle 10.78.0.99:1234 {ONE}:445",
    f"ctdb addtickle 10.78.0.99:1234 {ONE}:445",
    f"ctdb addtickle 10.78.0.99:1235 {ONE}:139",
    f"ctdb gettickles {ONE}",
    f"ctdb gettickles {ONE} 445",
    f"ctdb -X gettickles {ONE}",
    f"ctdb deltickle 10.78.0.99:1234 {ONE}:445",
    f"ctdb deltickle 10.78.0.99:1234 {ONE}:445",
    f"ctdb gettickles {ONE}",
    "ctdb gettickles 192.0.2.1",
    "ctdb addtickle 10.78.0.99:1234 192.0.2.1:445",
    f"ctdb gratarp {ONE} pub0",
]

MOVEIP = [
    f"ctdb moveip {ONE} 2",
    ALL,
    f"ctdb moveip {ONE} 0",
    ALL,
    HERE,
    f"ctdb moveip {ONE} 0",
    f"ctdb moveip {ONE} 7",
    f"ctdb moveip {ONE}",
    ALL,
]


@pytest.fixture(scope="module")
def trio() -> Iterator[Pair]:
    """Three nodes of each flavour with Debian's event scripts.

    Addresses are placed in turns: where they go depends on nothing that happened before.
    """
    with contextlib.ExitStack() as stack:
        stands = []
        for flavour in ("debian", OUR_FLAVOUR):
            lines = [f"{address}/24" for address in ADDRESSES]
            stand = Stand(flavour, 3, events=True, public_addresses=lines, tunables={"IPAllocAlgorithm": 0})
            stand.begin()
            stack.callback(stand.end)
            stands.append(stand)
        for stand in stands:
            stand.cluster.wait_healthy()
            stand.cluster.tool("n0", "sync")
        yield Pair(*stands)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(QUESTIONS, id="questions"),
        pytest.param(MOVES, id="moves"),
        pytest.param(TABLES, id="tables"),
        pytest.param(TICKLES, id="tickles"),
        pytest.param(MOVEIP, id="moveip"),
    ],
)
def test_the_tool_finds_and_moves_addresses_alike(trio: Pair, lines: list[str]) -> None:
    ours, debians = (masked(stand.converse(lines, "n0")) for stand in (trio.ours, trio.debian))
    check_same(ours, debians)
