# SPDX-License-Identifier: GPL-3.0-or-later
"""ctdb.tunables and tunables.d."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.config.tunables_file import load_tunables
from ctdbpy.wire.tunables import Tunables


def load(base: Path, text: str) -> tuple[Tunables, tuple[str, ...]]:
    (base / "ctdb.tunables").write_text(text)
    return load_tunables(base / "ctdb.tunables", base / "tunables.d")


def test_without_files_the_defaults_hold(tmp_path: Path) -> None:
    assert load_tunables(tmp_path / "ctdb.tunables", tmp_path / "tunables.d") == (Tunables(), ())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("MonitorInterval=20", 20),
        (" monitorINTERVAL = 0x20\r", 32),
        ("MonitorInterval=010", 8),
        ("MonitorInterval=+7", 7),
        ("MonitorInterval=4294967295", 2**32 - 1),
        ("MonitorInterval=0", 0),
    ],
)
def test_a_line_sets_a_tunable(tmp_path: Path, text: str, value: int) -> None:
    tunables, errors = load(tmp_path, f"# comment\n{text}\n")
    assert errors == ()
    assert tunables == Tunables().replaced("MonitorInterval", value)


def test_our_own_tunables_can_be_set_too(tmp_path: Path) -> None:
    tunables, errors = load(tmp_path, "SpinUs=300\n")
    assert errors == ()
    assert tunables.get("SpinUs") == 300


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("MonitorIntervall=20", "there is no such tunable; did you mean 'MonitorInterval'?"),
        ("Xyzzy=20", "there is no such tunable"),
        ("MaxRedirectCount=4", "obsolete"),
        ("MonitorInterval=", "it has no value"),
        ("MonitorInterval", "it has no value"),
        ("MonitorInterval=-1", "not a whole number"),
        ("MonitorInterval=5s", "not a whole number"),
        ("MonitorInterval=09", "not a whole number"),
        ("MonitorInterval=4294967296", "more than 4294967295"),
        ("MonitorInterval=" + "9" * 5000, "far too long"),
        ("[tunables]", "this file has no sections"),
        ("=3", "there is no name"),
    ],
)
def test_a_wrong_line_is_reported_and_the_others_count(tmp_path: Path, line: str, why: str) -> None:
    tunables, (error,) = load(tmp_path, f"RecoverTimeout=31\n{line}\nTakeoverTimeout=8\n")
    assert f"{tmp_path}/ctdb.tunables:2: " in error
    assert why in error
    assert tunables == Tunables().replaced("RecoverTimeout", 31).replaced("TakeoverTimeout", 8)


def test_later_files_win_in_order_of_name(tmp_path: Path) -> None:
    more = tmp_path / "tunables.d"
    more.mkdir()
    (more / "20.tunables").write_text("MonitorInterval=22\n")
    (more / "10.tunables").write_text("MonitorInterval=11\nTakeoverTimeout=8\n")
    (more / "30.tunables.rpmsave").write_text("MonitorInterval=33\n")
    tunables, errors = load(tmp_path, "MonitorInterval=20\nRecoverTimeout=31\n")
    assert errors == ()
    assert [tunables.get(n) for n in ("MonitorInterval", "TakeoverTimeout", "RecoverTimeout")] == [22, 8, 31]


def test_a_file_that_cannot_be_read_is_reported_and_the_others_count(tmp_path: Path) -> None:
    (tmp_path / "tunables.d").mkdir()
    (tmp_path / "tunables.d" / "a.tunables").write_text("MonitorInterval=22\n")
    (tmp_path / "ctdb.tunables").write_bytes(b"\xff")
    tunables, (error,) = load_tunables(tmp_path / "ctdb.tunables", tmp_path / "tunables.d")
    assert "not UTF-8" in error
    assert tunables.get("MonitorInterval") == 22


def test_a_file_in_place_of_the_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tunables.d").write_text("")
    _tunables, (error,) = load_tunables(tmp_path / "ctdb.tunables", tmp_path / "tunables.d")
    assert "Not a directory" in error
