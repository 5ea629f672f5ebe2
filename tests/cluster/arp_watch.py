# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the public network again and again who has an address, and writes down every answer.

Run on a client host as `python -m tests.cluster.arp_watch INTERVAL_S INTERFACE OWN_ADDRESS ADDRESS...`. A
line of output is the number of the question, the address, and the card that answered.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise

INTERVAL_S = 0.02
_ARP = 0x0806
_SO_RCVBUFFORCE = 33
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_EVERYBODY = b"\xff" * 6


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answered a question."""

    question: int
    address: str
    card: str


def read_answers(text: str) -> list[Answer]:
    """What has been written so far; a last line may be half there."""
    words = (line.split() for line in text.splitlines(keepends=True) if line.endswith("\n"))
    return [Answer(int(question), address, card) for question, address, card in words]


def longest_silence_s(
    answers: Iterable[Answer], address: str, *, since: int, until: int, interval_s: float = INTERVAL_S
) -> float:
    """For how long nobody answered for an address, between two questions."""
    heard = sorted({each.question for each in answers if each.address == address})
    moments = [since, *(each for each in heard if since < each < until), until]
    return max(after - before for before, after in pairwise(moments)) * interval_s


def longest_double_s(answers: Iterable[Answer], address: str, *, interval_s: float = INTERVAL_S) -> float:
    """For how long two cards answered for an address."""
    cards: dict[int, set[str]] = {}
    for each in answers:
        if each.address == address:
            cards.setdefault(each.question, set()).add(each.card)
    doubles = {question for question, who in cards.items() if len(who) > 1}
    return max((_run(doubles, first) for first in doubles), default=0) * interval_s


def _run(doubles: set[int], first: int) -> int:
    return next(length for length in count() if first + length not in doubles)


def _questions(own_card: bytes, own: str, addresses: list[str]) -> Iterator[bytes]:
    for address in addresses:
        target = socket.inet_aton(address)
        head = (_EVERYBODY, own_card, _ARP, 1, 0x0800, 6, 4, 1)
        yield _FRAME.pack(*head, own_card, socket.inet_aton(own), bytes(6), target)


def main(argv: list[str]) -> None:
    """Ask until killed."""
    interval_s = float(argv[0])
    interface, own, *addresses = argv[1:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ARP)) as wire:
        wire.bind((interface, _ARP))
        wire.setblocking(False)
        # All answers to a question come at once.
        wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, len(addresses) << 13)
        own_card = wire.getsockname()[4]
        frames = list(_questions(own_card, own, addresses))
        for question in count():
            for frame in frames:
                # The cable may be out for a moment.
                with contextlib.suppress(OSError):
                    wire.send(frame)
            until_s = time.monotonic() + interval_s
            while (left_s := until_s - time.monotonic()) > 0:
                if select.select([wire], [], [], left_s)[0]:
                    _note(question, wire.recv(2048), addresses)
            sys.stdout.flush()


def _note(question: int, data: bytes, addresses: list[str]) -> None:
    if len(data) < _FRAME.size:
        return
    fields = _FRAME.unpack_from(data)
    address = socket.inet_ntoa(fields[9])
    if fields[7] == 2 and fields[0] != _EVERYBODY and address in addresses:
        sys.stdout.write(f"{question} {address} {fields[8].hex(':')}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
