# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutated packets and control data into the Python codec: they parse or raise ProtocolError, nothing else."""

from __future__ import annotations

import contextlib
import random

from ctdbpy.errors import ProtocolError
from ctdbpy.wire import controls, packets
from ctdbpy.wire.controls import Control
from tests.fuzz.mutation import client_packets, mutated, node_packets
from tests.fuzz.test_engine_packets import DB, GENERATION, NODES, SEED

PACKETS = 100_000


def test_a_mutated_packet_parses_or_is_refused() -> None:
    chance = random.Random(SEED)
    valid = client_packets(DB) + node_packets(GENERATION, DB, NODES)
    refused = 0
    for _ in range(PACKETS):
        try:
            packets.decode(mutated(chance, chance.choice(valid), False))
        except ProtocolError:
            refused += 1
    assert PACKETS // 4 < refused < PACKETS


def test_control_data_parses_or_is_refused() -> None:
    chance = random.Random(SEED)
    opcodes = [int(control) for control in Control]
    for _ in range(PACKETS // 2):
        data = bytearray(chance.randbytes(chance.choice((4, 8, 28, 56, 64, 200))))
        for at in range(0, len(data) - 3, 4):
            if chance.random() < 0.7:
                data[at : at + 4] = chance.choice((0, 1, 2, 3, 8, 0xFFFFFFFF, 0x7FFFFFFF)).to_bytes(
                    4, "little"
                )
        with contextlib.suppress(ProtocolError):
            controls.decode_request(chance.choice(opcodes), bytes(data))
        with contextlib.suppress(ProtocolError):
            controls.decode_reply(chance.choice(opcodes), bytes(data))
