# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead man's switch where there is no nftables; tests/cluster/test_addresses_host.py has it at work."""

from __future__ import annotations

import pytest

from ctdbpy.errors import HostError
from ctdbpy.host import dead_man
from ctdbpy.host.dead_man import DeadMan

HELD = [b"\xc0\0\2\1"]


def test_without_nftables_addresses_are_held_all_the_same_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dead_man, "_LIBRARY", "libnftables-that-is-not-there.so")
    said: list[str] = []
    switch = DeadMan(said.append)
    for _ in range(3):
        switch.watch(HELD, 0.4)
        assert switch.deadline_s is None, "nothing is renewed"
    (text,) = said
    assert text.startswith("cannot load 'libnftables-that-is-not-there.so' (package libnftables1)")
    assert "its addresses are answered for here and elsewhere" in text
    switch.close()


class Balky:
    """nftables that refuse all commands, or do them."""

    is_refusing = False
    is_open = 0

    def __init__(self) -> None:
        Balky.is_open += 1

    def run(self, commands: str) -> None:
        if Balky.is_refusing:
            raise HostError("cannot have nftables watch over addresses: no memory")

    def close(self) -> None:
        Balky.is_open -= 1


def test_rules_that_can_be_neither_renewed_nor_removed_are_tried_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(dead_man, "time", clock)
    monkeypatch.setattr(dead_man, "_Nft", Balky)
    said: list[str] = []
    switch = DeadMan(said.append)
    switch.watch(HELD, 0.4)
    assert switch.deadline_s == pytest.approx(0.1)
    monkeypatch.setattr(Balky, "is_refusing", True)
    for clock.now_s in (0.1, 0.25, 0.4):
        switch.watch(HELD, 0.4)
        assert switch.deadline_s is not None
        assert clock.now_s < switch.deadline_s <= clock.now_s + 0.1
    assert len(said) == 1
    monkeypatch.setattr(Balky, "is_refusing", False)
    clock.now_s = 0.6
    switch.watch(HELD, 0.4)
    assert switch.deadline_s == pytest.approx(0.7)
    switch.watch(HELD, None)
    switch.watch(HELD, None)
    assert (switch.deadline_s, Balky.is_open) == (None, 0)


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_without_a_lease_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_man, "_LIBRARY", "libnftables-that-is-not-there.so")
    said: list[str] = []
    switch = DeadMan(said.append)
    switch.watch(HELD, None)
    assert (said, switch.deadline_s) == ([], None)


def test_many_addresses_are_one_command_for_each_table() -> None:
    addresses = [b"\xc0\0\2\1", b"\xc0\0\2\2", bytes(15) + b"\1"]
    assert dead_man._elements("add", addresses) == (
        "add element arp ctdbpy held4 { 192.0.2.1, 192.0.2.2 }\n"
        "add element inet ctdbpy held4 { 192.0.2.1, 192.0.2.2 }\n"
        "add element inet ctdbpy held6 { ::1 }\n"
    )
    assert dead_man._elements("add", []) == ""
