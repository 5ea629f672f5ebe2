# SPDX-License-Identifier: GPL-3.0-or-later
"""A voicemail store: which files it has, what is in them, and whether a copy of it is whole.

Every content follows from its path or from who left the message, so that anybody can check it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDERS: Final = ("INBOX", "Old", "greet", "tmp", "unavail")
_RECORDINGS: Final = ("busy.wav", "greet.wav", "unavail.wav")
#: Messages that each mailbox begins with.
_MESSAGES: Final = {"INBOX": 2, "Old": 1}
_WAV_BYTES: Final = 1600


@dataclass(frozen=True, slots=True)
class Message:
    """One that a writer has left in a mailbox: acknowledged under this number of its INBOX."""

    mailbox: str
    number: int
    writer: str
    serial: int

    @property
    def text(self) -> bytes:
        return message_text(self.mailbox, self.writer, self.serial)

    @property
    def sound(self) -> bytes:
        return _sound(f"{self.mailbox} {self.writer} {self.serial}")


def mailboxes(number: int) -> list[str]:
    """Names of so many mailboxes."""
    return [str(1000 + each) for each in range(number)]


def message_name(number: int) -> str:
    """The name of a message's files, without the ending."""
    return f"msg{number:04d}"


def message_text(mailbox: str, writer: str, serial: int) -> bytes:
    """What a message's .txt says."""
    return f"[message]\norigmailbox={mailbox}\ncallerid={writer}\nmsg_id={writer}-{serial}\n".encode()


def files(mailbox: str) -> Iterator[tuple[str, bytes]]:
    """The files that a mailbox begins with: path in the store, content."""
    for name in _RECORDINGS:
        yield f"{mailbox}/{name}", _sound(f"{mailbox}/{name}")
    for folder, messages in _MESSAGES.items():
        for number in range(messages):
            path = f"{mailbox}/{folder}/{message_name(number)}"
            yield f"{path}.txt", message_text(mailbox, f"{folder}-began", number)
            yield f"{path}.wav", _sound(path)


def folders(mailbox: str) -> list[str]:
    """The directories of a mailbox, itself first."""
    return [mailbox, *(f"{mailbox}/{folder}" for folder in FOLDERS)]


def make_tree(root: Path, number: int) -> int:
    """Write the store of so many mailboxes below a directory; how many files it has."""
    count = 0
    for mailbox in mailboxes(number):
        for folder in folders(mailbox):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for path, content in files(mailbox):
            (root / path).write_bytes(content)
            count += 1
    return count


def check_tree(root: Path, number: int) -> list[str]:
    """What is wrong with a copy of the store that began with so many mailboxes: a line each."""
    wrong: list[str] = []
    for mailbox in mailboxes(number):
        for path, content in files(mailbox):
            try:
                found = (root / path).read_bytes()
            except OSError as error:
                wrong.append(f"{path}: {error.strerror}")
                continue
            if found != content:
                wrong.append(
                    f"{path}: {len(found)} bytes with checksum {_short(found)}, not {_short(content)}"
                )
    return wrong


def check_messages(root: Path, acknowledged: Iterable[Message]) -> list[str]:
    """What is wrong with the messages that writers have left: a line each.

    Each that was acknowledged is there, whole, under a number of its own; none is there twice, none is
    left over, and the numbers of an INBOX have no gap.
    """
    wrong: list[str] = []
    by_mailbox: dict[str, dict[int, Message]] = {}
    for message in acknowledged:
        known = by_mailbox.setdefault(message.mailbox, {})
        other = known.setdefault(message.number, message)
        if other is not message:
            wrong.append(
                f"{message.mailbox} {message_name(message.number)}: acknowledged to {other.writer} "
                f"{other.serial} and to {message.writer} {message.serial}"
            )
    for mailbox, messages in by_mailbox.items():
        wrong += _check_inbox(root / mailbox / "INBOX", mailbox, messages)
        wrong += [f"{path.relative_to(root)}: left behind" for path in (root / mailbox / "tmp").iterdir()]
    return wrong


def _check_inbox(inbox: Path, mailbox: str, messages: dict[int, Message]) -> list[str]:
    wrong: list[str] = []
    found = {path.name for path in inbox.iterdir()}
    began = _MESSAGES["INBOX"]
    for number in range(began + len(messages)):
        names = {f"{message_name(number)}.txt", f"{message_name(number)}.wav"}
        if missing := names - found:
            wrong.append(f"{mailbox}: {', '.join(sorted(missing))} is missing")
            continue
        found -= names
        if number < began:
            continue
        message = messages.get(number)
        if message is None:
            wrong.append(f"{mailbox}: {message_name(number)} is nobody's")
            continue
        name = message_name(number)
        if (inbox / f"{name}.txt").read_bytes() != message.text:
            wrong.append(f"{mailbox}: {name}.txt is not what {message.writer} {message.serial} has said")
        if (inbox / f"{name}.wav").read_bytes() != message.sound:
            wrong.append(f"{mailbox}: {name}.wav is not what {message.writer} {message.serial} has said")
    return wrong + [f"{mailbox}: {name} is too much" for name in sorted(found)]


def _sound(seed: str) -> bytes:
    """So many bytes that no other seed has, as a WAV file of 8 kHz."""
    noise = hashlib.shake_128(seed.encode()).digest(_WAV_BYTES)
    size = len(noise)
    header = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt "
    layout = (
        (16).to_bytes(4, "little")
        + b"\x01\x00\x01\x00"
        + (8000).to_bytes(4, "little") * 2
        + b"\x01\x00\x08\x00"
    )
    return header + layout + b"data" + size.to_bytes(4, "little") + noise


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
