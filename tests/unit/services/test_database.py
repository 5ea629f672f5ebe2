# SPDX-License-Identifier: GPL-3.0-or-later
"""00.ctdb: a clean start, sound databases. 01.reclock: the cluster lock's directory. 95.database: backups."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import tarfile
from pathlib import Path

import pytest

from ctdbpy.store import tdb
from tests.unit.services.stand import Ended, Stand

KINDS = ("volatile", "persistent", "state")


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    stand = Stand(tmp_path)
    lines = []
    for kind in KINDS:
        (stand.directory / kind).mkdir()
        lines.append(f"{kind} database directory = {stand.directory / kind}\n")
    (stand.base / "ctdb.conf").write_text("[database]\n" + "".join(lines))
    return stand


def make(path: Path, *, corrupt: bool = False) -> None:
    with tdb.Tdb.open(path, hash_size=10, flags=tdb.INCOMPATIBLE_HASH) as file:
        for number in range(100):
            file.store(b"%d" % number, bytes(100))
    if corrupt:
        data = bytearray(path.read_bytes())
        # The heads of records, not the head of the file.
        data[1000:8000] = bytes(range(250)) * 28
        path.write_bytes(data)


# -- the start ---------------------------------------------------------------------------------------


def test_scripts_start_with_no_state_but_what_lasts(stand: Stand) -> None:
    (stand.state / "service" / "one").mkdir(parents=True)
    (stand.state / "service" / "one" / "failcount").write_text("\n")
    (stand.state / "my-pnn").write_text("3\n")
    (stand.state / "away").symlink_to(stand.base)
    (stand.state / "lasting").mkdir()
    (stand.state / "lasting" / "natgw.json").write_text("[]")
    done = stand.run("00.ctdb", "init")
    assert (done.status, done.said) == (0, "")
    assert [str(path.relative_to(stand.state)) for path in stand.state.rglob("*")] == [
        "lasting",
        "lasting/natgw.json",
    ]
    assert stand.base.exists()


def test_a_state_directory_that_cannot_be_one_is_not_emptied(stand: Stand) -> None:
    done = stand.shell("export CTDB_SCRIPT_VARDIR=/var/x; run_service database init")
    assert done.status == 1
    assert done.said.startswith("cannot empty CTDB_SCRIPT_VARDIR='/var/x': ")


def test_sound_databases_are_left_alone(stand: Stand) -> None:
    for kind in KINDS[:2]:
        make(stand.directory / kind / "one.tdb.0")
    (stand.directory / "volatile" / "notes.txt").write_text("no database")
    before = {path: path.read_bytes() for path in stand.directory.glob("*/*.tdb.*")}
    assert stand.run("00.ctdb", "init") == stand.shell("exit 0")
    assert {path: path.read_bytes() for path in stand.directory.glob("*/*.tdb.*")} == before


def test_a_corrupt_persistent_database_keeps_the_daemon_from_starting(stand: Stand) -> None:
    path = stand.directory / "persistent" / "one.tdb.0"
    make(path, corrupt=True)
    content = path.read_bytes()
    done = stand.run("00.ctdb", "init")
    assert done.status == 1
    assert f"cannot start with persistent database '{path}': it is corrupt (" in done.said
    assert path.read_bytes() == content


def test_a_file_that_is_no_database_is_corrupt(stand: Stand) -> None:
    (stand.directory / "persistent" / "one.tdb.0").write_bytes(b"x" * 10_000)
    assert stand.run("00.ctdb", "init").status == 1


def test_corrupt_volatile_databases_are_put_aside_and_the_oldest_forgotten(stand: Stand) -> None:
    path = stand.directory / "volatile" / "one.tdb.0"
    for day in range(1, 5):
        path.with_name(f"{path.name}.2020010{day}.120000.corrupt").write_text("old")
    make(path, corrupt=True)
    make(path.with_name("two.tdb.0"))
    done = stand.run("00.ctdb", "init", CTDB_MAX_CORRUPT_DB_BACKUPS="3")
    assert done.status == 0
    assert re.search(
        rf"WARNING: volatile database '{path}' is corrupt \(.*\); it is kept as 'one.*corrupt'\n", done.said
    )
    left = sorted(each.name for each in path.parent.iterdir())
    assert left[0].startswith("one.tdb.0.20200103")
    assert len(left) == 4
    assert left[-1] == "two.tdb.0"


def test_a_locked_persistent_database_is_left_to_the_daemon(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctdbpy.services import database
    from ctdbpy.services.event import Event

    path = stand.directory / "persistent" / "one.tdb.0"
    make(path)
    monkeypatch.setattr(database, "CHECK_LIMIT_S", 0.2)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with tdb.Tdb.open(path) as file:
            file.lockall()
            os.write(write, b"x")
            signal.pause()
        os._exit(0)
    os.read(read, 1)
    try:
        database.check_files(Event.from_environment("init", [], {"CTDB_BASE": str(stand.base)}))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_the_scripts_own_database_is_attached(stand: Stand) -> None:
    assert stand.run("00.ctdb", "startup").status == 0
    assert stand.calls() == ["ctdb attach ctdb.tdb persistent"]
    stand.program("ctdb", "exit 1")
    assert stand.run("00.ctdb", "startup").status == 1
    assert stand.run("00.ctdb", "monitor").status == 0


def test_a_broken_option_gives_one_clear_line(stand: Stand) -> None:
    done = stand.run("00.ctdb", "init", CTDB_MAX_CORRUPT_DB_BACKUPS="many")
    assert done.status == 1
    assert re.fullmatch(
        r"cannot use CTDB_MAX_CORRUPT_DB_BACKUPS='many' of '.*': it must be a whole number .*\n", done.said
    )


# -- the cluster lock ----------------------------------------------------------------------------------


def test_the_directory_of_the_cluster_lock_is_made(stand: Stand) -> None:
    lock = stand.directory / "cluster" / "locks" / "lock"
    (stand.base / "ctdb.conf").write_text(f"[cluster]\ncluster lock = {lock}\n")
    assert stand.run("01.reclock", "monitor").status == 0
    assert not lock.parent.exists()
    for _ in range(2):
        assert stand.run("01.reclock", "init").status == 0
    assert list(lock.parent.parent.rglob("*")) == [lock.parent]


def test_a_lock_that_is_a_command_needs_no_directory(stand: Stand) -> None:
    (stand.base / "ctdb.conf").write_text(f"[cluster]\ncluster lock = !{stand.directory}/x/helper lock\n")
    assert stand.run("01.reclock", "init").status == 0
    (stand.base / "ctdb.conf").write_text("")
    assert stand.run("01.reclock", "init").status == 0
    assert not (stand.directory / "x").exists()


def test_a_directory_that_cannot_be_made_is_told(stand: Stand) -> None:
    (stand.directory / "file").write_text("")
    (stand.base / "ctdb.conf").write_text(f"[cluster]\ncluster lock = {stand.directory}/file/lock\n")
    done = stand.run("01.reclock", "init")
    assert done.status == 1
    assert done.said.startswith(f"cannot make the directory '{stand.directory}/file' of the cluster lock: ")


# -- backups --------------------------------------------------------------------------------------------

_TOOL = """case $* in
    leader) echo 1 ;;
    pnn) echo {pnn} ;;
    "-X getdbmap") printf '|ID|Name|Persistent|\\n|1|one.tdb|1|\\n|2|two.tdb|1|\\n|3|three.tdb|0|\\n' ;;
    "backupdb {bad}"*) echo "it is broken" >&2; exit 1 ;;
    backupdb*) echo "copy of $2" >"$3" ;;
    *) exit 1 ;;
esac"""


def options(stand: Stand, **more: str) -> dict[str, str]:
    return {"CTDB_PERSISTENT_DB_BACKUP_DIR": str(stand.directory / "backups"), **more}


def backups(stand: Stand) -> list[Path]:
    return sorted((stand.directory / "backups").iterdir())


def test_a_backup_has_every_persistent_database(stand: Stand) -> None:
    stand.program("ctdb", _TOOL.format(pnn=1, bad="none"))
    stand.set_options(**options(stand))
    done = stand.shell("run_service backup backup")
    assert (done.status, done.said) == (0, "")
    (backup,) = backups(stand)
    assert re.fullmatch(r"persistent-databases\.\d{8}T\d{6}Z\.tar\.gz", backup.name)
    assert (backup.stat().st_mode & 0o777, backup.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    with tarfile.open(backup) as tar:
        assert tar.getnames() == ["one.tdb.backup", "two.tdb.backup"]
        content = tar.extractfile("two.tdb.backup")
        assert content is not None
        assert content.read() == b"copy of two.tdb\n"


def test_what_cannot_be_backed_up_is_told_and_the_rest_is(stand: Stand) -> None:
    stand.program("ctdb", _TOOL.format(pnn=1, bad="one"))
    stand.set_options(**options(stand))
    done = stand.shell("run_service backup backup")
    assert done.status == 1
    assert "cannot back all persistent databases up: cannot run 'ctdb backupdb one.tdb" in done.said
    with tarfile.open(backups(stand)[0]) as tar:
        assert tar.getnames() == ["two.tdb.backup"]
    # The node is well all the same.
    done = stand.run("95.database", "monitor", **options(stand))
    assert done.status == 0
    assert done.said.startswith("WARNING: cannot back all persistent databases up: ")


def test_the_leader_makes_one_a_day(stand: Stand) -> None:
    stand.set_options(**options(stand))
    look = "run_service backup look"
    stand.program("ctdb", _TOOL.format(pnn=0, bad="none"))
    assert stand.shell(look) == Ended(0, "")
    assert stand.calls("ctdb") == ["ctdb leader", "ctdb pnn"]
    stand.program("ctdb", _TOOL.format(pnn=1, bad="none"))
    for count in (1, 1):
        assert stand.shell(look) == Ended(0, "")
        assert len(backups(stand)) == count
    old = backups(stand)[0].rename(
        stand.directory / "backups" / "persistent-databases.20200101T000000Z.tar.gz"
    )
    os.utime(old, (0, 0))
    assert stand.shell(look) == Ended(0, "")
    assert len(backups(stand)) == 2


def test_monitor_does_not_wait_for_a_backup(stand: Stand) -> None:
    turn = stand.directory / "turn"
    os.mkfifo(turn)
    stand.program(
        "ctdb", _TOOL.format(pnn=1, bad="none").replace("backupdb*)", f"backupdb*) echo now >{turn};")
    )
    # The backup waits for us, and no second one is begun meanwhile.
    for _ in range(2):
        assert stand.run("95.database", "monitor", **options(stand)) == Ended(0, "")
    assert [turn.read_text() for _ in range(2)] == ["now\n", "now\n"]
    with (stand.state / "backup" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert len(backups(stand)) == 1
    assert json.loads((stand.state / "backup" / "last.json").read_text())["trouble"] == ""


def test_two_backups_are_not_made_at_once(stand: Stand) -> None:
    stand.set_options(**options(stand))
    (stand.state / "backup").mkdir()
    with (stand.state / "backup" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = stand.shell("run_service backup backup")
    assert done == Ended(1, "cannot make a backup: another one is being made\n")


def test_old_backups_go(stand: Stand) -> None:
    stand.program("ctdb", _TOOL.format(pnn=1, bad="none"))
    directory = stand.directory / "backups"
    directory.mkdir()
    for day in range(1, 6):
        (directory / f"persistent-databases.2020010{day}T000000Z.tar.gz").write_text("")
    (directory / "mine").write_text("")
    stand.set_options(**options(stand, CTDB_PERSISTENT_DB_BACKUP_LIMIT="2"))
    assert stand.shell("run_service backup backup").status == 0
    left = [path.name for path in backups(stand)]
    assert left[:2] == ["mine", "persistent-databases.20200105T000000Z.tar.gz"]
    assert len(left) == 3


@pytest.mark.parametrize(("bad", "made"), [("one", 1), ("", 0)])
def test_a_backup_that_lacks_a_database_does_not_push_out_a_whole_one(
    stand: Stand, bad: str, made: int
) -> None:
    stand.program("ctdb", _TOOL.format(pnn=1, bad=bad))
    directory = stand.directory / "backups"
    directory.mkdir()
    whole = directory / "persistent-databases.20200101T000000Z.tar.gz"
    whole.write_text("")
    stand.set_options(**options(stand, CTDB_PERSISTENT_DB_BACKUP_LIMIT="1"))
    done = stand.shell("run_service backup backup")
    assert done.status == 1
    assert "cannot back all persistent databases up: cannot run 'ctdb backupdb one.tdb" in done.said
    new = [path.name for path in backups(stand) if path != whole]
    assert whole.exists()
    assert [name.endswith(".partial.tar.gz") for name in new] == [True] * made


def test_without_a_directory_nothing_is_backed_up(stand: Stand) -> None:
    assert stand.run("95.database", "monitor").status == 0
    assert stand.calls() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("CTDB_PERSISTENT_DB_BACKUP_DIR", "backups"),
        ("CTDB_PERSISTENT_DB_BACKUP_LIMIT", "0"),
        ("CTDB_PERSISTENT_DB_BACKUP_MODE", "rwx"),
    ],
)
def test_a_broken_backup_option_gives_one_clear_line(stand: Stand, option: str, value: str) -> None:
    done = stand.run("95.database", "monitor", **options(stand, **{option: value}))
    assert done.status == 1
    assert re.fullmatch(rf"cannot use {option}='{value}' of '.*/script.options': .*\n", done.said)
