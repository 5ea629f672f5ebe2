# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo itself, step by step, and what it checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from impacket import nt_errors

from ctdbpy.lab.demo import voicemail
from ctdbpy.lab.demo.programs import Program
from ctdbpy.lab.demo.screen import Screen
from ctdbpy.lab.demo.stage import ADDRESSES, Stage
from ctdbpy.lab.waiting import wait_until

#: No address may be unserved for longer.
UNSERVED_MAX_S: Final = 2.0
_COPY_LIMIT_S: Final = 900.0
_STEP_LIMIT_S: Final = 120.0
_POWER_OFF_AT: Final = 0.5
_WRITTEN_TO: Final = 5
#: Where the client host has the store that it copies.
_SOURCE: Final = "/var/tmp/store"


@dataclass(slots=True)
class Result:
    """What came out: rows of (what, how much, is it right)."""

    rows: list[tuple[str, str, bool | None]] = field(default_factory=list)

    def add(self, what: str, found: str, is_right: bool | None = None) -> None:
        self.rows.append((what, found, is_right))

    @property
    def is_good(self) -> bool:
        return all(is_right is not False for _, _, is_right in self.rows)


def play(stage: Stage, screen: Screen, mailboxes: int) -> Result:
    """Tell the story on a stage that is up. Raises LabError when it cannot go on."""
    result = Result()
    screen.step("Three nodes start: ctdbpyd, and Debian's Samba on top of it")
    stage.start()
    _say_where(stage, screen)
    files = voicemail.make_tree(stage.lab.path("c0", _SOURCE), mailboxes)

    screen.step("The same file from two nodes: one client has it, the other is refused until it lets go")
    _show_locking(stage, screen, result)

    screen.step(
        f"A client copies a voicemail store ({mailboxes} mailboxes, {files:,} files); two leave messages"
    )
    victim, taker = _copy_through_a_power_cut(stage, screen, result, mailboxes, files)

    screen.step("Every checksum, through another node and on the cluster file system")
    _verify(stage, screen, result, mailboxes, files, taker)

    screen.step(f"The power of {victim} comes back")
    began_s = time.monotonic()
    stage.lab.power_on(victim)
    stage.cluster.start(victim)
    stage.wait_spread()
    screen.say(f"{victim} is healthy, and has an address again")
    result.add(
        f"{victim} back, healthy, with an address", f"{time.monotonic() - began_s:.1f} s after its power"
    )
    _say_where(stage, screen)
    return result


def _say_where(stage: Stage, screen: Screen) -> None:
    leader = stage.leader(stage.lab.nodes[0])
    screen.say(f"all nodes are healthy, {leader} leads (a majority has chosen it; there is no lock file)")
    holders = stage.holders(stage.lab.nodes[0])
    screen.say(", ".join(f"{address} is on {host}" for address, host in sorted(holders.items())))


def _show_locking(stage: Stage, screen: Screen, result: Result) -> None:
    first = stage.client("first", "hold", ADDRESSES[0], "locked.txt")
    stage.attend([first], lambda: bool(first.lines), limit_s=_STEP_LIMIT_S)
    screen.say(f"through {ADDRESSES[0]}: opened for itself alone")
    second = stage.client("second", "hold", ADDRESSES[1], "locked.txt")
    stage.attend([second], lambda: bool(second.lines), limit_s=_STEP_LIMIT_S)
    refused = second.lines[0].get("status") == nt_errors.STATUS_SHARING_VIOLATION
    screen.say(f"through {ADDRESSES[1]}: {second.lines[0].get('refused', 'opened, too')}")
    first.finish()
    stage.attend([first], lambda: first.is_done, limit_s=_STEP_LIMIT_S)
    third = stage.client("third", "hold", ADDRESSES[1], "locked.txt")
    stage.attend([third], lambda: bool(third.lines), limit_s=_STEP_LIMIT_S)
    granted = "refused" not in third.lines[0]
    screen.say(f"through {ADDRESSES[1]}, after the first has let go: {'opened' if granted else 'refused'}")
    third.finish()
    stage.attend([third], lambda: third.is_done, limit_s=_STEP_LIMIT_S)
    result.add(
        "a file held through one node, asked for at another", "refused, then granted", refused and granted
    )


def _copy_through_a_power_cut(
    stage: Stage, screen: Screen, result: Result, mailboxes: int, files: int
) -> tuple[str, str]:
    """Gives who lost its power, and who has its address now."""
    address = ADDRESSES[0]
    victim = stage.holders("n0")[address]
    copier = stage.client("copy", "copy", address, _SOURCE, str(mailboxes))
    names = voicemail.mailboxes(min(_WRITTEN_TO, mailboxes))
    # Not before the copy has passed these: it would write over messages.
    copied = files * len(names) // mailboxes
    stage.attend([copier], lambda: _files(copier) >= copied, limit_s=_COPY_LIMIT_S)
    writers = [
        stage.client(f"writer-{number}", "write", ADDRESSES[number], f"caller-{number}", *names)
        for number in (1, 2)
    ]
    everyone = [copier, *writers]

    def watch(part: float) -> bool:
        left = sum("message" in line for writer in writers for line in writer.lines)
        screen.progress(
            _files(copier) / files, f"{_files(copier):,} of {files:,} files, {left:,} messages left"
        )
        return copier.is_done or _files(copier) >= part * files

    stage.attend(everyone, lambda: watch(_POWER_OFF_AT), limit_s=_COPY_LIMIT_S)
    for program in everyone:
        program.longest_us = 0
    stage.lab.power_off(victim)
    off_ns = time.monotonic_ns()
    screen.say(f"{victim}, which the copy goes through, loses its power")
    asked = next(host for host in stage.lab.nodes if host != victim)
    stage.attend(everyone, lambda: _wrote_since(copier, off_ns), limit_s=_STEP_LIMIT_S)
    wait_until(
        f"'{address}' has moved",
        lambda: stage.holders(asked).get(address, victim) != victim,
        timeout_s=_STEP_LIMIT_S,
    )
    taker = stage.holders(asked)[address]
    copy_s = copier.longest_us / 1e6
    screen.say(f"{taker} has {address}; the copy stood still for {copy_s:.2f} s and goes on")
    stage.attend(everyone, lambda: watch(1.0) and copier.is_done, limit_s=_COPY_LIMIT_S)
    screen.say(f"the copy is done: {files:,} files, each read back with the right checksum")
    for writer in writers:
        writer.finish()
    stage.attend(writers, lambda: all(writer.is_done for writer in writers), limit_s=_STEP_LIMIT_S)

    copy_s = copier.longest_us / 1e6
    others_s = max(writer.longest_us for writer in writers) / 1e6
    result.add("the copy stood still, while its node lost power", f"{copy_s:.2f} s", copy_s <= UNSERVED_MAX_S)
    result.add("clients of the other nodes stood still", f"{others_s:.2f} s", others_s <= UNSERVED_MAX_S)
    messages = [
        voicemail.Message(*line["message"])
        for writer in writers
        for line in writer.lines
        if "message" in line
    ]
    collisions = sum(writer.lines[-2].get("taken", 0) for writer in writers if len(writer.lines) > 1)
    wrong = voicemail.check_messages(stage.store, messages)
    for line in wrong[:10]:
        screen.say(line)
    screen.say(
        f"{len(messages):,} messages in {len(names)} mailboxes; "
        f"a number was the other writer's already {collisions:,} times"
    )
    result.add(
        "messages of two writers, in the same mailboxes",
        f"{len(messages):,}, {len(wrong)} lost or wrong",
        not wrong,
    )
    return victim, taker


def _verify(stage: Stage, screen: Screen, result: Result, mailboxes: int, files: int, taker: str) -> None:
    other = next(
        (address for address, host in sorted(stage.holders(taker).items()) if host != taker), ADDRESSES[1]
    )
    reader = stage.client("verify", "verify", other, str(mailboxes))

    def watch() -> bool:
        screen.progress(_files(reader) / files, f"{_files(reader):,} of {files:,} files read through {other}")
        return reader.is_done

    stage.attend([reader], watch, limit_s=_COPY_LIMIT_S)
    wrong = [*reader.lines[-1]["wrong"], *voicemail.check_tree(stage.store, mailboxes)]
    for line in wrong[:10]:
        screen.say(line)
    screen.say(f"{files:,} files compared twice")
    result.add("files of the store with another checksum", f"{len(wrong)} of {files:,}", not wrong)


def _files(program: Program) -> int:
    return int(program.lines[-1]["files"]) if program.lines else 0


def _wrote_since(program: Program, since_ns: int) -> bool:
    return (
        bool(program.lines)
        and int(program.lines[-1]["at_ns"]) > since_ns + 100_000_000
        and program.longest_us > 0
    )


def next_commands(name: str) -> str:
    """What to try on a cluster that was kept."""
    lab = f"./dev lab {{}} --name {name}"
    return "\n".join(
        (
            f"   {lab.format('sh')} n0 ctdbctl status",
            f"   {lab.format('sh')} n0 ctdbctl why",
            f"   {lab.format('power-off')} n1",
            f"   {lab.format('down')}",
        )
    )
