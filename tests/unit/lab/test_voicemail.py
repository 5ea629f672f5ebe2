# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's store, and whether its checks see what is wrong with a copy."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from ctdbpy.lab.demo import voicemail
from ctdbpy.lab.demo.voicemail import Message


@pytest.fixture
def store(tmp_path: Path) -> Path:
    voicemail.make_tree(tmp_path, 2)
    return tmp_path


def leave(root: Path, message: Message) -> Message:
    name = root / message.mailbox / "INBOX" / voicemail.message_name(message.number)
    name.with_suffix(".txt").write_bytes(message.text)
    name.with_suffix(".wav").write_bytes(message.sound)
    return message


def test_a_store_is_what_it_should_be(store: Path) -> None:
    assert voicemail.check_tree(store, 2) == []
    assert sorted(path.name for path in (store / "1000").iterdir()) == sorted(
        ["INBOX", "Old", "busy.wav", "greet", "greet.wav", "tmp", "unavail", "unavail.wav"]
    )
    with wave.open(str(store / "1001" / "greet.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (8000, 1, 1600)


def test_a_byte_or_a_file_less_is_seen(store: Path) -> None:
    damaged = store / "1000" / "Old" / "msg0000.wav"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (store / "1001" / "busy.wav").unlink()
    assert [line.split(":")[0] for line in voicemail.check_tree(store, 2)] == [
        "1000/Old/msg0000.wav",
        "1001/busy.wav",
    ]


def test_messages_that_are_all_there_are_right(store: Path) -> None:
    left = [leave(store, Message("1000", 2, "a", 0)), leave(store, Message("1000", 3, "b", 0))]
    assert voicemail.check_messages(store, left) == []


def test_each_mistake_with_messages_is_seen(store: Path) -> None:
    left = [leave(store, Message("1000", number, "a", number)) for number in (2, 3, 4)]
    inbox = store / "1000" / "INBOX"
    (inbox / "msg0002.wav").unlink()
    (inbox / "msg0003.txt").write_bytes(Message("1000", 3, "b", 3).text)
    (inbox / "msg0009.txt").write_bytes(b"")
    (store / "1000" / "tmp" / "a-5.txt").write_bytes(b"")
    left.append(Message("1000", 4, "b", 9))
    text = "\n".join(voicemail.check_messages(store, left))
    for seen in ("msg0002.wav is missing", "msg0003.txt is not what a 3", "msg0009.txt is too much"):
        assert seen in text
    assert "a-5.txt: left behind" in text
    assert "msg0004: acknowledged to a 4 and to b 9" in text
