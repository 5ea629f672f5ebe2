# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as an answer of an SMB server, and what does not."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest

DENIED = 0xC0000022
NO_RESOURCES = 0xC000009A


@pytest.fixture(scope="module")
def smb_session() -> ModuleType:
    with warnings.catch_warnings():
        # What newer Pythons think of impacket is not ours to mend.
        warnings.simplefilter("ignore")
        from ctdbpy.services import smb_session

        return smb_session


@pytest.fixture
def port() -> Iterator[int]:
    """A port where somebody listens; that is all a test needs that says itself what comes back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("stage", "code", "trouble"),
    [
        ("tree connect", DENIED, None),
        ("session setup", DENIED, None),
        ("negotiate", DENIED, "negotiate fails: STATUS_ACCESS_DENIED"),
        ("tree connect", NO_RESOURCES, "tree connect fails: STATUS_INSUFFICIENT_RESOURCES"),
        ("session setup", 0xC0FFEE00, "session setup fails: status 0xc0ffee00"),
    ],
)
def test_a_refusal_is_an_answer_and_an_error_is_none(
    smb_session: ModuleType,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    code: int,
    trouble: str | None,
) -> None:
    from impacket import smb3

    def refuse(attempt: object, *_: object) -> None:
        setattr(attempt, "stage", stage)  # noqa: B010
        raise smb3.SessionError(code)

    monkeypatch.setattr(smb_session, "_talk", refuse)
    said = smb_session.check(["127.0.0.1"], port, timeout_s=30)
    assert said == ({} if trouble is None else {"127.0.0.1": trouble})


def test_more_addresses_than_are_asked_at_once_are_all_asked(
    smb_session: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [f"127.0.1.{number}" for number in range(40)]
    monkeypatch.setattr(smb_session, "_talk", lambda *_: None)
    said = smb_session.check([*asked, "127.0.0.1"], port, timeout_s=30)
    assert said == dict.fromkeys(asked, "connection fails: Connection refused")


def test_those_that_hang_do_not_hide_the_others(smb_session: ModuleType, port: int) -> None:
    said = smb_session.check(["127.0.0.1", "127.0.1.1"], port, timeout_s=2)
    assert sorted(said) == ["127.0.0.1", "127.0.1.1"]
    assert said["127.0.0.1"] == "no answer to negotiate within 2 s"
    assert said["127.0.1.1"] == "connection fails: Connection refused"
