# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's workload for a long time, with a fault every half minute: nothing may get lost."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import Final

from ctdbpy.lab.demo import voicemail
from ctdbpy.lab.demo.programs import Program
from ctdbpy.lab.demo.screen import Screen
from ctdbpy.lab.demo.stage import ADDRESSES, Stage
from ctdbpy.lab.demo.story import Result

_EVERY_S: Final = 30.0
#: How long a fault lasts before it is mended.
_LASTS_S: Final = (3.0, 10.0)
_MAILBOXES: Final = 100
_LIMIT_S: Final = 120.0


def endure(stage: Stage, screen: Screen, seconds: float, seed: int) -> Result:
    """Have messages left at every address until time is up, with faults. Raises LabError."""
    seed = seed or secrets.randbelow(1_000_000) + 1
    chance = random.Random(seed)
    result = Result()
    screen.step(
        f"Three nodes start; then a fault every {_EVERY_S:g} s for {seconds / 60:g} minutes, seed {seed}"
    )
    stage.start()
    voicemail.make_tree(stage.store, _MAILBOXES)
    for path in stage.store.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    names = voicemail.mailboxes(_MAILBOXES)
    writers = [
        stage.client(f"writer-{number}", "write", address, f"caller-{number}", *names)
        for number, address in enumerate(ADDRESSES)
    ]
    stage.attend(writers, lambda: all(writer.lines for writer in writers), limit_s=_LIMIT_S)
    longest_s: dict[str, list[float]] = {}
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        next_s = time.monotonic() + _EVERY_S
        name = chance.choice(list(_FAULTS))
        host = chance.choice(stage.lab.nodes)
        for writer in writers:
            writer.longest_us = 0
        _FAULTS[name](stage, host)
        lasts_s = chance.uniform(*_LASTS_S)
        _attend_until(stage, writers, time.monotonic() + lasts_s)
        stage.serve_again(host)
        _attend_answers(stage, writers)
        stood_s = max(writer.longest_us for writer in writers) / 1e6
        longest_s.setdefault(name, []).append(stood_s)
        messages = sum("message" in line for writer in writers for line in writer.lines)
        screen.say(
            f"{host} {name} for {lasts_s:.1f} s: a client stood still for {stood_s:.2f} s; "
            f"{messages:,} messages so far"
        )
        _attend_until(stage, writers, min(next_s, end_s))
    for writer in writers:
        writer.finish()
    stage.attend(writers, lambda: all(writer.is_done for writer in writers), limit_s=_LIMIT_S)
    for name, found in longest_s.items():
        result.add(f"{name}, {len(found)} times: a client stood still", f"{max(found):.2f} s at most")
    left = [
        voicemail.Message(*line["message"])
        for writer in writers
        for line in writer.lines
        if "message" in line
    ]
    wrong = voicemail.check_messages(stage.store, left)
    for line in wrong[:20]:
        screen.say(line)
    result.add("messages left at three addresses", f"{len(left):,}, {len(wrong)} lost or wrong", not wrong)
    return result


def _attend_until(stage: Stage, writers: list[Program], moment_s: float) -> None:
    stage.attend(writers, lambda: time.monotonic() >= moment_s, limit_s=_LIMIT_S)


def _attend_answers(stage: Stage, writers: list[Program]) -> None:
    since_ns = time.monotonic_ns()
    stage.attend(
        writers, lambda: all(writer.lines[-1]["at_ns"] > since_ns for writer in writers), limit_s=_LIMIT_S
    )


_FAULTS: Final[dict[str, Callable[[Stage, str], None]]] = {
    "power off": lambda stage, host: stage.lab.power_off(host),
    "unplugged": lambda stage, host: stage.lab.cut(host, "all"),
    "private link cut": lambda stage, host: stage.lab.cut(host, "private"),
    "frozen": lambda stage, host: stage.lab.freeze(host),
    "daemon killed": lambda stage, host: stage.cluster.kill(host),
    "smbd killed": lambda stage, host: stage.kill_smbd(host),
}
