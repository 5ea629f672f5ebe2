# SPDX-License-Identifier: GPL-3.0-or-later
"""05.system: limits of file systems, memory and load."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.unit.services.stand import Stand

FILE_SYSTEMS = "CTDB_MONITOR_FILESYSTEM_USAGE"
MEMORY = "CTDB_MONITOR_MEMORY_USAGE"
LOAD = "CTDB_MONITOR_LOAD"


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def quiet(**options: str) -> dict[str, str]:
    """Options that look at nothing but what is given."""
    return {FILE_SYSTEMS: "/:", MEMORY: ":", **options}


def test_other_events_are_none_of_its_affairs(stand: Stand) -> None:
    for event in ("init", "startup", "takeip eth0 10.0.0.1 24", "shutdown"):
        done = stand.run("05.system", *event.split(), **{MEMORY: "nonsense"})
        assert (done.status, done.said) == (0, "")


def test_without_options_databases_and_memory_are_looked_at(stand: Stand) -> None:
    directory = stand.directory / "databases"
    directory.mkdir()
    (stand.base / "ctdb.conf").write_text(
        "[database]\n"
        + "".join(
            f"{kind} database directory = {directory}\n" for kind in ("volatile", "persistent", "state")
        )
    )
    assert stand.run("05.system", "monitor").status == 0


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        (FILE_SYSTEMS, "{directory}::0", "file system '{directory}' is used to"),
        (FILE_SYSTEMS, "{directory}:0:0", "file system '{directory}' is used to"),
        (MEMORY, ":0", "memory is used to"),
        (LOAD, ":0", "the processors' load of 5 minutes is used to"),
    ],
)
def test_what_is_over_its_limit_makes_unhealthy(stand: Stand, option: str, value: str, what: str) -> None:
    given = value.format(directory=stand.directory)
    for _ in range(2):
        done = stand.run("05.system", "monitor", **quiet(**{option: given}))
        assert done.status == 1
        expected = re.escape(what.format(directory=stand.directory))
        assert re.match(rf"{expected} \d+ %, and 0 % is the limit(; the biggest .*)?\n$", done.said)


def test_the_biggest_processes_are_told_once(stand: Stand) -> None:
    said = [stand.run("05.system", "monitor", **quiet(**{MEMORY: ":0"})).said for _ in range(2)]
    assert [
        bool(re.search(r"; the biggest processes are .*\[\d+\] with \d+ MiB, ", each)) for each in said
    ] == [
        True,
        False,
    ]


def test_a_warning_is_told_once_and_its_end(stand: Stand) -> None:
    told = [
        stand.run("05.system", "monitor", **quiet(**{FILE_SYSTEMS: f"{stand.directory}:{limit}"}))
        for limit in ("0", "0", "100", "100")
    ]
    assert [done.status for done in told] == [0] * 4
    name = re.escape(f"file system '{stand.directory}'")
    used = psutil.disk_usage(str(stand.directory)).percent
    if used < 99:
        assert re.match(rf"WARNING: {name} is used to \d+ %, 0 % is a warning\n$", told[0].said)
        assert re.match(rf"NOTICE: {name} is used to \d+ % again\n$", told[2].said)
        assert [told[1].said, told[3].said] == ["", ""]


def test_all_that_is_over_is_told_at_once(stand: Stand) -> None:
    done = stand.run(
        "05.system", "monitor", **{FILE_SYSTEMS: f"{stand.directory}::0 /::0", MEMORY: "", LOAD: ":0"}
    )
    assert done.status == 1
    assert len(done.said.splitlines()) == 1
    assert done.said.count("is the limit") == 3


def test_a_file_system_that_is_gone_counts_if_it_has_a_limit(stand: Stand) -> None:
    gone = stand.directory / "gone"
    reason = f"cannot reach the directory '{gone}': No such file or directory\n"
    done = stand.run("05.system", "monitor", **quiet(**{FILE_SYSTEMS: f"{gone}:90"}))
    assert (done.status, done.said) == (0, f"WARNING: {reason}")
    done = stand.run("05.system", "monitor", **quiet(**{FILE_SYSTEMS: f"{gone}:90:95"}))
    assert (done.status, done.said) == (1, reason)


def test_a_file_system_that_hung_is_not_asked_again(stand: Stand) -> None:
    # What an earlier event left: a process that is still there.
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        ticks = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19]
        note = stand.state / "system" / str(stand.directory).strip("/").replace("/", "-") / "hung-check"
        note.parent.mkdir(parents=True)
        note.write_text(f"{child} {ticks} {stand.directory}")
        done = stand.run("05.system", "monitor", **quiet(**{FILE_SYSTEMS: f"{stand.directory}::100 /::0"}))
        assert done.status == 1
        # The other one is looked at all the same.
        assert f"cannot reach the directory '{stand.directory}': its file system still hangs; " in done.said
        assert "file system '/' is used" in done.said
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (FILE_SYSTEMS, "/:ninety"),
        (FILE_SYSTEMS, "/:90:101"),
        (FILE_SYSTEMS, "/"),
        (FILE_SYSTEMS, "var:90"),
        (MEMORY, "80%"),
        (MEMORY, "80:90:95"),
        (LOAD, "-1"),
    ],
)
def test_a_broken_option_gives_one_clear_line(stand: Stand, option: str, value: str) -> None:
    done = stand.run("05.system", "monitor", **quiet(**{option: value}))
    assert done.status == 1
    assert re.match(rf"cannot use {option}='{re.escape(value)}' of '.*/script.options': .*\n$", done.said)
