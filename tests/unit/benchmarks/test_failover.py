# SPDX-License-Identifier: GPL-3.0-or-later
"""What benchmarks/failover concludes from what its clients and its prober have seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.arp_prober import Seen
from benchmarks.blocks import ATTEMPT, block, spoilt
from benchmarks.interruptions import FAULTS, Run, load, render
from ctdbpy.errors import LabError

ONE, TWO = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
MS = 1_000_000
RUN = Run(
    flavour="ctdbpy",
    fault="power",
    began="2026-11-21T09:00:00.000",
    led=True,
    load=1.5,
    interruption=0.7,
    others=0.3,
    back=0.2,
    double=0.0,
    late=0,
    lost=0,
    course=("0.6 connected",),
)


def probe(answers: list[tuple[bytes, int]]) -> list[int | None]:
    seen = Seen()
    return [seen.note(hardware, at_ms * MS) for hardware, at_ms in answers]


def test_one_host_after_the_other_is_no_double() -> None:
    answers = [(ONE, 1000), (ONE, 1010), (TWO, 1020), (TWO, 1030), (ONE, 2000), (ONE, 2010)]
    assert probe(answers) == [0, None, 0, None, 0, None]


def test_two_that_answer_by_turns_are_double_for_as_long_as_they_do() -> None:
    by_turns = [each for at in range(1000, 1500, 10) for each in ((ONE, at), (TWO, at + 1))]
    alone = [(TWO, at) for at in range(1500, 1600, 10)]
    lengths = [length for length in probe(by_turns + alone) if length is not None]
    assert 480 * MS < max(lengths) <= 490 * MS
    # A line for each growth, not for each answer.
    assert len(lengths) <= 52


def test_a_second_double_begins_anew() -> None:
    moments = (1000, 1010, 1020, 9000, 9010, 9020)
    by_turns = [each for at in moments for each in ((ONE, at), (TWO, at + 1))]
    assert 10 * MS <= max(length or 0 for length in probe(by_turns)) <= 20 * MS


def test_blocks_written_late_and_lost_ones_are_told_apart() -> None:
    attempts = b"".join(ATTEMPT.pack(attempt) for attempt in (0, 2, 2, 3)) + b"\1"
    data = block(0, 0) + block(1, 1) + block(2, 3)
    assert list(spoilt(data, attempts)) == [(1, True), (2, False), (3, False)]


def test_the_table_says_what_was_missed() -> None:
    slow = dataclasses.replace(RUN, interruption=1.6, lost=1, flavour="ctdbpy")
    theirs = dataclasses.replace(RUN, interruption=30.0, flavour="debian")
    lines = render([RUN, slow, theirs]).splitlines()
    interruption = next(line for line in lines if line.startswith("power: interruption"))
    assert "30.00 (30.00 .. 30.00) x1" in interruption
    assert "1.15 (0.70 .. 1.60) x2  median <= 1 MISSED  most <= 1.5 MISSED" in interruption
    assert next(line for line in lines if line.startswith("power: lost")).endswith("most <= 0 MISSED")
    assert not any(line.startswith("frozen") for line in lines)


def test_runs_with_fencing_have_a_column_of_their_own_that_says_who_lost_power() -> None:
    frozen = dataclasses.replace(RUN, fault="frozen", late=3)
    fenced = dataclasses.replace(RUN, fault="frozen", fencing=True, off=True, interruption=0.8)
    killed = dataclasses.replace(RUN, fault="daemon", fencing=True)
    lines = render([frozen, fenced, killed, dataclasses.replace(killed, off=True)]).splitlines()

    def line(begin: str) -> str:
        return " ".join(next(line for line in lines if line.startswith(begin)).split())

    assert lines[0].split() == ["s", "Debian", "ctdbpy", "ctdbpy,", "fencing", "wanted"]
    assert "- 0.70 (0.70 .. 0.70) x1 0.80 (0.80 .. 0.80) x1 median <= 1 met" in line("frozen: interruption")
    assert line("frozen: late").endswith("3.00 (3.00 .. 3.00) x1 0.00 (0.00 .. 0.00) x1 most <= 0 met")
    assert line("frozen: off").endswith("1 of 1 all met")
    assert line("daemon: off").endswith("1 of 2 none MISSED")
    assert not any(line.startswith("frozen: off") for line in render([frozen]).splitlines())


def test_saved_runs_are_read_again(tmp_path: Path) -> None:
    saved = tmp_path / "runs"
    saved.write_text(json.dumps(dataclasses.asdict(RUN)) + "\n")
    (run,) = load(saved)
    assert dataclasses.replace(run, course=tuple(run.course)) == RUN
    saved.write_text("{}\n")
    with pytest.raises(LabError, match="cannot use the measurement"):
        load(saved)


def test_every_fault_that_nobody_wants_has_the_same_bounds() -> None:
    bounds = {name: (fault.middle_s, fault.most_s) for name, fault in FAULTS.items()}
    assert {bounds[name] for name in ("power", "unplugged", "private", "frozen", "daemon")} == {(1.0, 1.5)}
    assert bounds["moveip"] == bounds["drain"] == (None, 0.3)
