# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl why recovery` and `why record`: asked of real daemons."""

from __future__ import annotations

import json

from ctdbpy.client import databases
from ctdbpy.client.connection import VOLATILE
from ctdbpy.wire.constants import DbFlag
from tests.unit.cli.conftest import Run
from tests.unit.daemon.conftest import Daemon


def test_recoveries_have_reasons(run: Run, daemon: Daemon) -> None:
    assert run("cluster", "recover", socket=daemon.socket).returncode == 0
    done = run("--json", "why", "recovery", socket=daemon.socket)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["answered"] == [0]
    assert not answer["recovering"]
    assert len(answer["recoveries"]) >= 2
    assert all(each["led_by"] == 0 and each["reason"] for each in answer["recoveries"])
    text = run("why", "recovery", socket=daemon.socket).stdout
    assert f"recovery led by node 0: {answer['recoveries'][-1]['reason']}\n" in text


def test_a_record_is_told_about_and_stays_where_it_is(run: Run, daemon: Daemon) -> None:
    with daemon.connect() as connection:
        databases.attach(connection, "some.tdb", VOLATILE)
        databases.attach(connection, "kept.tdb", DbFlag.PERSISTENT)
    unknown = run("--json", "why", "record", "some.tdb", "nothing", socket=daemon.socket)
    assert json.loads(unknown.stdout)["dmaster"] is None
    assert "this node has never had it" in run("why", "record", "some.tdb", "x", socket=daemon.socket).stdout
    assert run("db", "put", "some.tdb", "key", "value", socket=daemon.socket).returncode == 0
    answer = json.loads(run("--json", "why", "record", "some.tdb", "key", socket=daemon.socket).stdout)
    assert (answer["dmaster"], answer["dmaster_state"], answer["lmaster"]) == (0, "OK", 0)
    assert answer["because"]
    assert "here: node 0 has it" in run("why", "record", "some.tdb", "0x6b6579", socket=daemon.socket).stdout
    kept = json.loads(run("--json", "why", "record", "kept.tdb", "key", socket=daemon.socket).stdout)
    assert kept["lmaster"] is None
    assert any("transactions" in each for each in kept["because"])


def test_what_cannot_be_asked_is_one_line(run: Run, daemon: Daemon) -> None:
    missing = run("why", "record", "none.tdb", "key", socket=daemon.socket)
    assert missing.returncode == 1
    assert "no such database is attached" in missing.stderr
    for words in (("record", "some.tdb"), ("recovery", "now")):
        wrong = run("why", *words, socket=daemon.socket)
        assert wrong.returncode == 1
        assert "'record DATABASE KEY'" in wrong.stderr
    assert run("why", "1", "2", socket=daemon.socket).returncode == 2
