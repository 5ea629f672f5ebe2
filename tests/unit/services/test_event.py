# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service is told, and what it says about options that are wrong."""

from __future__ import annotations

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services.__main__ import main
from ctdbpy.services.event import Event


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
