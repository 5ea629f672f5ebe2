# SPDX-License-Identifier: GPL-3.0-or-later
"""The two sides that are compared: `debian`, and `ours`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.interop.stand import Stand

# "debian" here compares Debian's daemon with itself: it shows that the masks hide all that is chance.
OUR_FLAVOUR = os.environ.get("CTDBPY_INTEROP_FLAVOUR", "ctdbpy")


@dataclass(frozen=True, slots=True)
class Pair:
    """The same lab twice; only the cluster daemon differs."""

    debian: Stand
    ours: Stand


@contextlib.contextmanager
def pair_of(
    nodes: int = 1, options: Mapping[str, str] | None = None, *, events: bool = False
) -> Iterator[Pair]:
    """Both flavours, started side by side and healthy; `options` are for smb.conf.

    With `events`, the event scripts that Debian enables run.
    """
    with contextlib.ExitStack() as stack:
        stands = []
        for flavour in ("debian", OUR_FLAVOUR):
            stand = Stand(flavour, nodes, options=options, events=events)
            stand.begin()
            stack.callback(stand.end)
            stands.append(stand)
        for stand in stands:
            stand.cluster.wait_healthy()
        yield Pair(*stands)


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """One node of each flavour; tests leave it healthy and use databases of their own."""
    with pair_of() as both:
        yield both


@pytest.fixture
def fresh() -> Iterator[Stand]:
    """A node of ours that a test may break."""
    stand = Stand(OUR_FLAVOUR)
    stand.begin()
    try:
        stand.cluster.wait_healthy()
        yield stand
    finally:
        stand.end()
