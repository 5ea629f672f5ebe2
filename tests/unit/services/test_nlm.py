# SPDX-License-Identifier: GPL-3.0-or-later
"""61.nlm-forward and statd's callout, with stub programs and without a daemon. With both: tests/cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services import nlm_forwarding, nsm
from ctdbpy.services.nfs_records import Member
from ctdbpy.services.nlm import fit
from ctdbpy.services.nlm_forwarding import Forwarding
from tests.unit.services.stand import ROOT, Ended, Stand

NODES = {0: "198.51.100.1", 1: "198.51.100.2", 2: "198.51.100.3"}
PUBLIC = ("192.0.2.1", "192.0.2.2", "2001:db8::1")


class Nlm(Stand):
    """A node with one public address, and an nft that keeps what it is given."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (self.base / "public_addresses").write_text("192.0.2.1/24 eth9\n")
        self.given = directory / "given"
        self.program("nft", f'cat >"{self.given}"')
        self.program("conntrack", "echo 'conntrack v1: 0 flow entries have been deleted.' >&2; exit 1")

    def event(self, *arguments: str, **options: str) -> Ended:
        return self.run(
            "61.nlm-forward",
            *arguments,
            **{"CTDB_SERVICE_MANAGER": "systemd", "CTDB_NFS_SERVER": "ganesha", **options},
        )

    def statd(self, *arguments: str) -> Ended:
        shutil.copy(ROOT / "eventscripts" / "statd-callout", self.base)
        return self._run([str(self.base / "statd-callout"), *arguments])


@pytest.fixture
def nlm(tmp_path: Path) -> Nlm:
    return Nlm(tmp_path)


# -- the script ---------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["init", "shutdown"])
def test_a_node_without_a_cluster_gives_out_no_locks(nlm: Nlm, event: str) -> None:
    ended = nlm.event(event, CTDB_NFS_LOCK_PORT="4001")
    assert (ended.status, ended.said) == (0, "")
    assert dropped(json.loads(nlm.given.read_text())["nftables"]) == {"lo"}, "all from elsewhere"
    calls = nlm.calls()
    assert calls[0] == "nft -j -f -"
    assert "conntrack -D -p udp --orig-port-dst 4001" in calls
    assert "conntrack -D -p tcp --orig-port-dst 595" in calls


def test_an_nft_that_fails_is_told_of(nlm: Nlm) -> None:
    nlm.program("nft", "echo 'Error: syntax error' >&2; exit 1")
    ended = nlm.event("init")
    assert ended.status == 1
    assert ended.said == "cannot run 'nft -j -f -': exit status 1: Error: syntax error\n"


def test_connections_that_cannot_be_forgotten_are_told_of(nlm: Nlm) -> None:
    nlm.program("conntrack", "echo 'Operation not supported' >&2; exit 1")
    ended = nlm.event("init")
    assert ended.status == 1
    assert ended.said.startswith("cannot forget connections by 'conntrack -D -p tcp ")
    assert ended.said.endswith(": Operation not supported\n")


@pytest.mark.parametrize("event", ["startup", "startipreallocate", "ipreallocated"])
def test_addresses_do_not_wait_for_locks(nlm: Nlm, event: str) -> None:
    ended = nlm.event(event)
    assert ended.status == 0
    assert ended.said.startswith("cannot connect to the daemon at ")
    assert ended.said.endswith(": locks wait\n")
    assert dropped(json.loads(nlm.given.read_text())["nftables"]) == {"lo"}, "all from elsewhere"


def test_a_node_that_cannot_agree_with_the_others_is_not_well(nlm: Nlm) -> None:
    ended = nlm.event("monitor")
    assert ended.status == 1
    assert ended.said.startswith("cannot connect to the daemon at ")
    assert ended.said.count("\n") == 1


def test_a_broken_option_gives_one_clear_line(nlm: Nlm) -> None:
    ended = nlm.event("init", CTDB_NFS_STATUS_PORT="many")
    assert ended.status == 1
    assert ended.said.startswith("cannot use CTDB_NFS_STATUS_PORT='many' of ")


def test_other_events_are_not_ours(nlm: Nlm) -> None:
    assert nlm.event("takeip", "eth9", "192.0.2.1", "24") == Ended(0, "")
    assert nlm.calls() == []


# -- statd's callout ----------------------------------------------------------------------------


def test_a_client_that_cannot_be_noted_in_the_cluster_is_noted_here(nlm: Nlm) -> None:
    noted = nlm.state / "lasting" / "nfs-clients" / "192.0.2.9"
    ended = nlm.statd("add-client", "192.0.2.9")
    assert ended.status == 1
    assert ended.said.startswith("cannot note that '192.0.2.9' holds locks; it is tried again: ")
    assert noted.exists()
    assert nlm.statd("del-client", "192.0.2.9") == Ended(0, "")
    assert noted.exists(), "a server that ends says so of all, and they have to be told"


def test_a_client_without_an_address_is_told_of(nlm: Nlm) -> None:
    ended = nlm.statd("add-client", "nobody.invalid")
    assert ended.status == 1
    assert ended.said.startswith("cannot find the address of client 'nobody.invalid': ")


def test_statd_asks_for_nothing_else(nlm: Nlm) -> None:
    assert nlm.statd("unmount", "192.0.2.9").said == (
        "cannot do 'unmount': it must be add-client, del-client or notify\n"
    )


# -- who may be the lock node -------------------------------------------------------------------


def test_healthy_nodes_come_first_and_in_order() -> None:
    ill = Member(0, NODES[0], is_active=True, is_healthy=False)
    gone = Member(1, NODES[1], is_active=False, is_healthy=False)
    well = [Member(pnn, "", is_active=True, is_healthy=True) for pnn in (2, 3)]
    assert fit([ill, gone, *well]) == [2, 3]
    assert fit([ill, gone]) == [0], "better one that is ill than none"
    assert fit([gone]) == []


# -- rules --------------------------------------------------------------------------------------


def forwarding(pnn: int, lock_node: int | None) -> Forwarding:
    return Forwarding(pnn, NODES, lock_node, PUBLIC, (599, 595))


def rules(pnn: int, lock_node: int | None) -> list[dict[str, Any]]:
    """The expressions of each rule of a node's table."""
    return nlm_forwarding.rules(forwarding(pnn, lock_node))


def dropped(commands: list[dict[str, Any]]) -> set[str]:
    """The addresses whose lock traffic is dropped."""
    found = set()
    for command in commands:
        expressions = command["add"]["rule"]["expr"] if "rule" in command.get("add", {}) else []
        if {"drop": None} in expressions and command["add"]["rule"]["chain"] == "early":
            found.add(expressions[0]["match"]["right"])
    return found


def test_a_forwarder_drops_what_it_cannot_forward_and_what_comes_too_late() -> None:
    assert dropped(rules(1, 0)) == {NODES[1], "2001:db8::1"}


def test_without_a_lock_node_all_is_dropped() -> None:
    assert dropped(rules(1, None)) == {NODES[1], *PUBLIC}


def test_the_lock_node_drops_nothing() -> None:
    assert dropped(rules(0, 0)) == set()
    alone = Forwarding(0, {0: NODES[0]}, 0, PUBLIC, (599,))
    assert dropped(nlm_forwarding.rules(alone)) == set()


@pytest.mark.parametrize("pnn", NODES)
@pytest.mark.parametrize("lock_node", [0, None])
def test_a_table_is_replaced_as_a_whole(pnn: int, lock_node: int | None) -> None:
    verbs = [next(iter(command)) for command in rules(pnn, lock_node)]
    assert verbs[:3] == ["add", "delete", "add"]
    assert set(verbs[3:]) == {"add"}


def test_what_cannot_be_forwarded_to_is_refused() -> None:
    with pytest.raises(ServiceError, match="node address 'fd00::1' is not an IPv4 one"):
        nlm_forwarding.apply(Forwarding(0, {0: "fd00::1"}, 0, PUBLIC, (599,)))
    many = dict.fromkeys(range(64), "198.51.100.1")
    with pytest.raises(ServiceError, match="there are more than 63 nodes"):
        nlm_forwarding.apply(Forwarding(0, many, 0, PUBLIC, (599,)))


# -- notices ------------------------------------------------------------------------------------


def test_each_client_is_told_from_each_address_under_its_names() -> None:
    found = nsm.notices(["192.0.2.9", "2001:db8::9"], PUBLIC, ["nas.example"])
    told = {(notice.client, notice.source, notice.name) for notice in found}
    assert told == {
        ("192.0.2.9", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.9", "192.0.2.1", "nas.example"),
        ("192.0.2.9", "192.0.2.2", "192.0.2.2"),
        ("192.0.2.9", "192.0.2.2", "nas.example"),
        ("2001:db8::9", "2001:db8::1", "2001:db8::1"),
        ("2001:db8::9", "2001:db8::1", "nas.example"),
    }


@pytest.mark.parametrize("epoch", [1, 1795251239, 1 << 33])
def test_each_epoch_is_another_odd_state(epoch: int) -> None:
    assert nsm.state_of(epoch) % 2 == 1
    assert nsm.state_of(epoch) != nsm.state_of(epoch + 1)
    assert 0 < nsm.state_of(epoch) < 1 << 31


def test_who_does_not_answer_is_left_over() -> None:
    nowhere = nsm.Notice("127.9.9.9", "127.0.0.1", "127.0.0.1")
    assert nsm.send([nowhere], 1, limit_s=0.1) == [nowhere]
    assert nsm.send([], 1, limit_s=0.1) == []
