# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of the daemon's state."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ctdbpy.errors import HostError
from ctdbpy.host.directories import ensure_directories


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_missing_ones_are_made_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        notes = ensure_directories(
            [tmp_path / "lib" / "ctdb" / "state", tmp_path / "lib" / "ctdb" / "volatile"]
        )
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "lib" / "ctdb" / "state") == 0o700
    assert mode_of(tmp_path / "lib" / "ctdb") == 0o755
    assert notes[0] == f"made the directory '{tmp_path}/lib/ctdb/state' with mode 0700"
    assert len(notes) == 2


def test_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    assert ensure_directories([tmp_path / "a"]) == ()
    assert mode_of(tmp_path / "a") == 0o755


def test_another_mode_can_be_asked_for(tmp_path: Path) -> None:
    ensure_directories([tmp_path / "run"], mode=0o755)
    assert mode_of(tmp_path / "run") == 0o755


def test_unfit_ones_are_all_refused_at_once_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HostError) as caught:
        ensure_directories([tmp_path / name for name in ("file", "open", "dangling", "file/below")])
    assert str(caught.value).splitlines() == [
        f"cannot use the directory '{tmp_path}/file': it is not a directory; move it away",
        (
            f"cannot use the directory '{tmp_path}/open': others may write to it (mode 0777); "
            "run chmod go-w on it"
        ),
        f"cannot use the directory '{tmp_path}/dangling': No such file or directory",
        f"cannot use the directory '{tmp_path}/file/below': Not a directory",
    ]


@pytest.mark.root
def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(HostError, match="it belongs to uid 65534; run chown root on it"):
        ensure_directories([tmp_path / "theirs"])
