# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner: procedures advance in order, end, fail, sleep and are cancelled."""

from __future__ import annotations

import pytest

from ctdbpy.core.procedures import Cancelled, Promise, Runner
from ctdbpy.errors import StoreError


def test_a_procedure_goes_on_when_its_promise_is_kept() -> None:
    runner, promise, seen = Runner(), Promise[int](), []

    async def wait() -> str:
        seen.append(await promise)
        return "done"

    procedure = runner.spawn("wait", wait())
    runner.run()
    assert not procedure.done
    promise.resolve(5)
    promise.resolve(6)
    runner.run()
    assert (seen, procedure.result()) == ([5], "done")


def test_procedures_advance_in_the_order_of_what_woke_them() -> None:
    runner, seen = Runner(), []
    promises = [Promise[None]() for _ in range(3)]

    async def wait(number: int) -> None:
        await promises[number]
        seen.append(number)

    for number in range(3):
        runner.spawn("wait", wait(number))
    runner.run()
    for number in (2, 0, 1):
        promises[number].resolve(None)
    runner.run()
    assert seen == [2, 0, 1]


def test_sleepers_wake_when_their_time_has_come() -> None:
    runner, seen = Runner(), []

    async def wait(seconds: float) -> None:
        await runner.sleep(seconds)
        seen.append(seconds)

    for seconds in (3.0, 1.0, 2.0):
        runner.spawn("wait", wait(seconds))
    runner.run()
    assert runner.deadline_s == 1.0
    runner.wake(2.0)
    runner.run()
    assert (seen, runner.deadline_s) == ([1.0, 2.0], 3.0)


def test_a_limit_gives_the_late_value_and_an_early_one_ends_the_alarm() -> None:
    runner = Runner()
    late, early = Promise[int](), Promise[int]()
    runner.limit(late, 1, -1)
    runner.limit(early, 1, -1)
    early.resolve(7)
    runner.wake(1)
    assert (late.result(), early.result(), runner.deadline_s) == (-1, 7, None)


def test_an_exception_goes_to_whoever_awaits_and_else_to_the_caller() -> None:
    runner, caught = Runner(), []

    async def fail() -> None:
        raise StoreError("no")

    async def outer() -> None:
        try:
            await runner.spawn("fail", fail())
        except StoreError as error:
            caught.append(str(error))

    runner.spawn("outer", outer())
    runner.run()
    assert caught == ["no"]
    runner.spawn("fail", fail())
    with pytest.raises(StoreError):
        runner.run()


def test_a_cancelled_procedure_runs_its_finally_and_nothing_more() -> None:
    runner, promise, seen = Runner(), Promise[None](), []

    async def wait() -> None:
        try:
            await promise
            seen.append("went on")
        finally:
            seen.append("cleaned up")

    procedure = runner.spawn("wait", wait())
    runner.run()
    procedure.cancel()
    promise.resolve(None)
    runner.run()
    assert seen == ["cleaned up"]
    with pytest.raises(Cancelled):
        procedure.result()


def test_gather_gives_results_in_order_and_cancels_the_rest_when_one_fails() -> None:
    runner, never, seen = Runner(), Promise[int](), []

    async def give(number: int) -> int:
        await runner.sleep(10 - number)
        return number

    async def wait() -> int:
        try:
            return await never
        finally:
            seen.append("cancelled")

    async def fail() -> int:
        raise StoreError("no")

    good = runner.spawn("good", runner.gather("give", [give(1), give(2)]))
    runner.run()
    runner.wake(9)
    runner.run()
    assert good.result() == [1, 2]

    async def outer() -> str:
        try:
            await runner.gather("bad", [fail(), wait()])
        except StoreError:
            return "failed"
        return "went well"

    bad = runner.spawn("bad", outer())
    runner.run()
    assert (bad.result(), seen) == ("failed", ["cancelled"])
