# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead man's switch where there is no nftables; tests/cluster/test_addresses_host.py has it at work."""

from __future__ import annotations

import pytest

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
