# SPDX-License-Identifier: GPL-3.0-or-later
"""What the client host runs: a program that copies the store, one that leaves messages, and others.

    python -m ctdbpy.lab.demo.client copy ADDRESS SOURCE MAILBOXES
    python -m ctdbpy.lab.demo.client verify ADDRESS MAILBOXES
    python -m ctdbpy.lab.demo.client hold ADDRESS FILE
    python -m ctdbpy.lab.demo.client write ADDRESS WRITER MAILBOX...

Each prints lines of JSON and ends by itself when its work is done; `write` and `hold` end
when their stdin does.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ctdbpy.lab.demo import voicemail
from ctdbpy.lab.demo.share import Refused, Share

SHARE: Final = "voicemail"
USER, PASSWORD = "clara", "clara's own"
_LINE_EVERY_NS: Final = 50_000_000
_BETWEEN_MESSAGES_S: Final = 0.05


class _Reporter:
    """Says how far it is, and how long the server was not heard."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._said_ns = 0

    def say(self, *, at_once: bool = False, **facts: Any) -> None:
        now_ns = time.monotonic_ns()
        if at_once or now_ns - self._said_ns >= _LINE_EVERY_NS:
            line = {"at_ns": now_ns, "longest_us": self._share.longest_us, **facts}
            print(json.dumps(line), flush=True)
            self._said_ns = now_ns
            self._share.longest_us = 0


def copy(share: Share, source: Path, number: int) -> None:
    """Copy a store, file by file; each is read back, and its checksum compared."""
    reporter = _Reporter(share)
    done = 0
    for mailbox in voicemail.mailboxes(number):
        for folder in voicemail.folders(mailbox):
            share.make_directory(folder)
        for path, _ in voicemail.files(mailbox):
            content = (source / path).read_bytes()
            share.write(path, content)
            if _checksum(share.read(path)) != _checksum(content):
                raise SystemExit(f"'{path}' is not what was written")
            done += 1
            reporter.say(files=done)
    reporter.say(files=done, done=True, at_once=True)


def verify(share: Share, number: int) -> None:
    """Read a store back and compare every checksum."""
    reporter = _Reporter(share)
    done = 0
    wrong: list[str] = []
    for mailbox in voicemail.mailboxes(number):
        for path, content in voicemail.files(mailbox):
            try:
                if _checksum(share.read(path)) != _checksum(content):
                    wrong.append(f"{path}: another checksum")
            except Refused as refusal:
                wrong.append(f"{path}: {refusal}")
            done += 1
            reporter.say(files=done)
    reporter.say(files=done, wrong=wrong, done=True, at_once=True)


def write(share: Share, writer: str, mailboxes: Sequence[str]) -> None:
    """Leave messages under the next free number, as others do at the same time, until stdin ends.

    The number belongs to whoever has its .txt first; a rename would not do, for smbd looks whether the new
    name is free before it renames, and two nodes may look at once.
    """
    reporter = _Reporter(share)
    free = dict.fromkeys(mailboxes, 0)
    taken = 0
    for serial in itertools.count():
        mailbox = mailboxes[serial % len(mailboxes)]
        message = voicemail.Message(mailbox, 0, writer, serial)
        while not share.claim(_path(mailbox, free[mailbox], ".txt"), message.text):
            free[mailbox] += 1
            taken += 1
        number = free[mailbox]
        share.write(_path(mailbox, number, ".wav"), message.sound)
        reporter.say(message=[mailbox, number, writer, serial], taken=taken, at_once=True)
        if select.select([sys.stdin], [], [], 0)[0]:
            break
        share.rest(_BETWEEN_MESSAGES_S)
    reporter.say(done=True, at_once=True)


def _path(mailbox: str, number: int, ending: str) -> str:
    return f"{mailbox}/INBOX/{voicemail.message_name(number)}{ending}"


def hold(share: Share, path: str) -> None:
    """Open a file for oneself alone, and let go of it when stdin ends."""
    reporter = _Reporter(share)
    try:
        let_go = share.hold(path)
    except Refused as refusal:
        reporter.say(refused=str(refusal), status=refusal.status, done=True, at_once=True)
        return
    reporter.say(held=path, at_once=True)
    sys.stdin.read()
    let_go()
    reporter.say(done=True, at_once=True)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Be a client."""
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, words in (
        ("copy", ("address", "source", "mailboxes")),
        ("verify", ("address", "mailboxes")),
        ("hold", ("address", "file")),
        ("write", ("address", "writer")),
    ):
        one = kinds.add_parser(kind)
        for word in words:
            one.add_argument(word)
        if kind == "write":
            one.add_argument("mailbox", nargs="+")
    given = parser.parse_args()
    share = Share(given.address, SHARE, USER, PASSWORD)
    if given.kind == "copy":
        copy(share, Path(given.source), int(given.mailboxes))
    elif given.kind == "verify":
        verify(share, int(given.mailboxes))
    elif given.kind == "hold":
        hold(share, given.file)
    else:
        write(share, given.writer, given.mailbox)


if __name__ == "__main__":
    main()
