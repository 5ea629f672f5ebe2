# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's smbd when connections to a public address end: it goes on, and gives back what they held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ctdbpy.lab import wait_until
from tests.cluster.test_addresses_host import Holder
from tests.interop.stand import LOGIN, Stand

ADDRESS = "10.78.0.200"
PORT = 445


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    stand = Stand("ctdbpy")
    stand.begin()
    try:
        stand.cluster.wait_healthy()
        stand.serve()
        yield stand
    finally:
        stand.end()


@pytest.mark.parametrize("deed", ["kill", "remove"])
def test_smbd_outlives_the_end_of_its_connections(stand: Stand, deed: str) -> None:
    lab = stand.lab
    parent = stand.samba.pid("n0")
    lab.run("c0", ["sed", "-i", "/n0-moving/d", "/etc/hosts"], timeout_s=5)
    hosts = lab.path("c0", "/etc/hosts")
    hosts.write_text(hosts.read_text() + f"{ADDRESS} n0-moving-pub\n")
    holder = Holder(lab, "n0")
    try:
        holder.take(ADDRESS, 24)
        client = stand.hold(f"{deed}.txt", node="n0-moving")
        assert _connections(stand) == 1
        if deed == "kill":
            holder.say(f"kill {ADDRESS}")
        else:
            assert holder.do("remove", ADDRESS) == ""
            holder.take(ADDRESS, 24)
        wait_until("the connection is gone", lambda: not _connections(stand), timeout_s=10)
        # The open file is given back: another client may have it for itself.
        again = stand.hold(f"{deed}.txt", node="n0-moving")
        assert stand.samba.pid("n0") == parent
        listed = lab.run(
            "c0", ["smbclient", f"//{ADDRESS}/share", "-U", LOGIN, "-c", "ls"], timeout_s=20
        ).stdout
        assert f"{deed}.txt" in listed
        for each in (client, again):
            each.kill()
        said = stand.samba.log_end("n0", 200)
        assert "PANIC" not in said and "INTERNAL ERROR" not in said, said
    finally:
        holder.close()


def _connections(stand: Stand) -> int:
    """Connections that smbd has at the address."""
    wanted = ["ss", "-Htn", "state", "established", "src", ADDRESS, "sport", "=", f":{PORT}"]
    return len(stand.lab.run("n0", wanted, timeout_s=5).stdout.splitlines())
