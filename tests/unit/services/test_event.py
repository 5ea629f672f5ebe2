# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service is told, and what it says about options that are wrong."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services.__main__ import main
from ctdbpy.services.event import SERVICES, Event


def event(**options: str) -> Event:
    return Event.from_environment("monitor", [], {"CTDB_BASE": "/etc/ctdb", **options})


def test_options_have_defaults() -> None:
    bare = event(EMPTY="")
    assert bare.text("EMPTY", "so") == "so"
    assert bare.words("NONE", "a b") == ("a", "b")
    assert bare.flag("NONE", default=True)
    assert bare.number("NONE", 7) == 7


def test_options_are_read() -> None:
    given = event(WORDS=" a  b ", FLAG="No", NUMBER="5")
    assert given.words("WORDS") == ("a", "b")
    assert not given.flag("FLAG", default=True)
    assert given.number("NUMBER", 7) == 5


@pytest.mark.parametrize(
    ("value", "rule"), [("x", "a whole number from 1 to 9"), ("0", "from 1 to 9"), ("10", "from 1 to 9")]
)
def test_a_wrong_number_is_told_in_one_line(value: str, rule: str) -> None:
    with pytest.raises(ServiceError, match=f"cannot use N='{value}' of '/etc/ctdb/script.options': .*{rule}"):
        event(N=value).number("N", 3, least=1, most=9)


def test_a_wrong_flag_is_told_in_one_line() -> None:
    with pytest.raises(ServiceError, match=r"cannot use F='maybe' .*'yes' or 'no'"):
        event(F="maybe").flag("F", default=True)


def test_an_unknown_service_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing", "monitor"]) == 1
    assert capsys.readouterr().out.startswith("usage: ")


def test_warnings_are_said_before_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(event: Event) -> None:
        event.warnings.append(f"{event.name} is slow")
        if event.arguments:
            raise ServiceError("cannot go on")

    monkeypatch.setitem(SERVICES, "stub", "stub_service")
    module = ModuleType("stub_service")
    monkeypatch.setattr(module, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, "stub_service", module)
    assert main(["stub", "monitor"]) == 0
    assert main(["stub", "takeip", "pub0"]) == 1
    assert capsys.readouterr().out == "monitor is slow\ntakeip is slow\ncannot go on\n"


def test_a_machine_that_refuses_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(event: Event) -> None:
        raise OSError(28, "No space left on device", "/var/x")

    module = ModuleType("stub_service")
    monkeypatch.setattr(module, "run", run, raising=False)
    monkeypatch.setitem(SERVICES, "stub", "stub_service")
    monkeypatch.setitem(sys.modules, "stub_service", module)
    assert main(["stub", "monitor"]) == 1
    said = "cannot do what 'monitor' asks of 'stub': [Errno 28] No space left on device: '/var/x'\n"
    assert capsys.readouterr().out == said
