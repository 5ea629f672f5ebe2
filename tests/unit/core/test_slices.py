# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work comes in slices: none is long, and the result is the same."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from ctdbpy.core.failover.allocation import Address, Algorithm, Rules, allocate, allocate_in_slices
from ctdbpy.core.failover.slices import SLICE, Pace, Sliced, at_once
from ctdbpy.core.failover.transfers import Answer, survey_in_slices, transfers_in_slices
from ctdbpy.core.procedures import Runner
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.structures import PublicIp, SockAddr

NODES = 16
IPS = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(800)]
EVERYONE = frozenset(range(NODES))


def counted(work: Sliced[object], spent: list[int]) -> Generator[int, None, object]:
    while True:
        try:
            spent.append(next(work))
        except StopIteration as end:
            return end.value
        yield spent[-1]


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("crowd", [None, 0])
def test_no_part_of_a_plan_is_longer_than_a_slice(algorithm: Algorithm, crowd: int | None) -> None:
    addresses = [Address(ip, crowd, EVERYONE, EVERYONE) for ip in IPS]
    rules = Rules(NODES, algorithm)
    spent: list[int] = []
    plan = at_once(counted(allocate_in_slices(addresses, rules), spent))
    assert plan == allocate(addresses, rules)
    assert max(spent) <= SLICE
    if algorithm is Algorithm.LCP2:
        assert sum(spent) > 10 * SLICE


def test_nor_is_a_part_of_a_survey_or_of_orders() -> None:
    known = tuple(PublicIp(0, SockAddr(ip)) for ip in IPS)
    answers = [Answer(pnn, known, known) for pnn in range(NODES)]
    spent: list[int] = []
    flags = dict.fromkeys(range(NODES), NodeFlag(0))
    survey = at_once(survey_in_slices(answers, flags))
    at_once(counted(survey_in_slices(answers, flags), spent))
    plan = allocate(survey.addresses, Rules(NODES))
    transfers = at_once(counted(transfers_in_slices(survey, plan), spent))
    assert isinstance(transfers, tuple) and len(transfers) == len(IPS)
    assert max(spent) <= SLICE


def test_work_is_interrupted_after_a_slice_and_goes_on_at_the_next_turn() -> None:
    runner = Runner()
    pace = Pace(runner)

    def work() -> Sliced[str]:
        for _ in range(5):
            yield SLICE // 2
        return "done"

    procedure = runner.spawn("work", pace.do(work()))
    turns = 0
    while not procedure.done:
        runner.wake(0.0)
        runner.run()
        turns += 1
    assert procedure.result() == "done"
    assert turns == 3
