# SPDX-License-Identifier: GPL-3.0-or-later
"""ctdb.conf becomes frozen settings."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ctdbpy.config.settings import Settings, load_ctdb_conf
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.values import Context, Quorum
from ctdbpy.errors import ConfigError

CTDB_CONFIG = "/usr/libexec/ctdb/ctdb-config"


def load(base: Path, text: str) -> tuple[Settings, tuple[str, ...]]:
    (base / "ctdb.conf").write_text(text)
    return load_ctdb_conf(base / "ctdb.conf")


def test_every_row_of_the_table_has_its_field_and_every_field_its_row() -> None:
    assert [spec.field for spec in SETTINGS] == [field.name for field in dataclasses.fields(Settings)]


def test_the_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    for spec in SETTINGS:
        value = getattr(Settings(), spec.field)
        if value is None:
            continue
        context = Context(tmp_path, warn=lambda _note: None)
        if spec.option == "location":
            assert value == spec.default
        else:
            assert spec.read(spec.default, context) == value, spec.option


def test_a_missing_file_gives_the_defaults_and_says_so(tmp_path: Path) -> None:
    settings, (warning,) = load_ctdb_conf(tmp_path / "ctdb.conf")
    assert settings == Settings()
    assert "is not there" in warning


def test_every_option_can_be_set(tmp_path: Path) -> None:
    script = tmp_path / "debug.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    settings, warnings = load(
        tmp_path,
        f"""
        [logging]
        location = file:{tmp_path}/log
        log level = debug
        [cluster]
        cluster lock = !/usr/bin/lock a b
        leader capability = no
        leader timeout = 0x10
        node address = [2001:DB8::1]
        transport = tcp
        nodes list = /cluster/nodes
        quorum = Majority
        port = 4380
        [database]
        volatile database directory = {tmp_path}
        persistent database directory = {tmp_path}
        state database directory = {tmp_path}
        lock debug script = /elsewhere/debug.sh
        tdb mutexes = FALSE
        [event]
        debug script = debug.sh
        [failover]
        disabled = yes
        shutdown failover timeout = 0
        shutdown extra timeout = 7
        [legacy]
        realtime scheduling = false
        lmaster capability = false
        start as stopped = true
        start as disabled = true
        script log level = 5
        """,
    )
    assert warnings == ()
    assert settings == Settings(
        log_location=f"file:{tmp_path}/log",
        log_level=10,
        cluster_lock="!/usr/bin/lock a b",
        leader_capability=False,
        leader_timeout_s=16,
        node_address="2001:db8::1",
        nodes_list="/cluster/nodes",
        quorum=Quorum.MAJORITY,
        port=4380,
        volatile_directory=tmp_path,
        persistent_directory=tmp_path,
        state_directory=tmp_path,
        lock_debug_script=script,
        tdb_mutexes=False,
        event_debug_script=script,
        failover_disabled=True,
        shutdown_failover_timeout_s=0,
        shutdown_extra_timeout_s=7,
        realtime_scheduling=False,
        lmaster_capability=False,
        start_as_stopped=True,
        start_as_disabled=True,
        script_log_level=5,
    )


@pytest.mark.parametrize(
    ("section", "line", "advice"),
    [
        ("legacy", "realtime scheduling = 1", "write true, yes, false or no"),
        ("legacy", "realtime scheduling = no # because", "write true"),
        ("cluster", "leader timeout = 0", "from 1"),
        ("cluster", "leader timeout = -4", "from 1"),
        ("cluster", "leader timeout = soon", "whole number"),
        ("cluster", "leader timeout = 99999999999", "2147483647"),
        ("cluster", "leader timeout = " + "9" * 5000, "too long"),
        ("cluster", "leader timeout =", "empty"),
        ("cluster", "node address = storage1", "host names are not looked up"),
        ("cluster", "node address = 10.0.0.1:4379", "a port cannot be given"),
        ("cluster", "node address = 10.0.0.1/24", "prefix length"),
        ("cluster", "node address = fe80::1%eth0", "zone"),
        ("cluster", "transport = ib", "only 'tcp'"),
        ("cluster", "quorum = two", "auto, majority, lock or none"),
        ("cluster", "quorum = lock", "set 'cluster lock' too"),
        ("cluster", "port = 65536", "65535"),
        ("cluster", "fence command = fence.sh off", "write the full path"),
        ("cluster", "fence command = /etc/nosuch/fence.sh", "not there or not executable"),
        ("cluster", "fence timeout = 0", "from 1"),
        ("logging", "log level = loud", "NOTICE"),
        ("logging", "log level = 11", "0 to 10"),
        ("logging", "location = /var/log/x", "write file:PATH"),
        ("logging", "location = file:/nosuch/dir/log", "'/nosuch/dir' does not exist"),
        ("logging", "location = syslog:tcp", "udp-rfc5424"),
        ("database", "volatile database directory = /nosuch", "does not exist"),
        ("database", "lock debug script = nosuch.sh", "is not there"),
        ("event", "debug script = ctdb.conf", "chmod +x"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_how_to_mend_it(
    tmp_path: Path, section: str, line: str, advice: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"# a comment\n[{section}]\n{line}\n")
    text = str(caught.value)
    assert advice in text
    assert f"{tmp_path}/ctdb.conf:" in text
    assert line.partition(" =")[0] in text


def test_all_wrong_lines_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[cluster]\ntransport = ib\nleader timeout = 0\n[legacy\n")
    for line in (2, 3, 4):
        assert f"ctdb.conf:{line}:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("[nosuch]\na = b\n", "unknown section '[nosuch]'"),
        ("[legcy]\n", "did you mean 'legacy'?"),
        ("[cluster]\nLeader Timeout = 7\n", "did you mean 'leader timeout'?"),
        ("leader timeout = 7\n", "stands in no known section"),
        ("[cluster]\nleader timeout\n", "it has no '='"),
    ],
)
def test_what_ctdbd_passes_over_is_passed_over_with_a_warning(tmp_path: Path, text: str, advice: str) -> None:
    settings, warnings = load(tmp_path, text)
    assert settings == Settings()
    assert any(advice in warning for warning in warnings)


def test_section_names_are_read_in_any_case(tmp_path: Path) -> None:
    assert load(tmp_path, "[CLUSTER]\nleader timeout = 7\n")[0].leader_timeout_s == 7


def test_the_last_of_two_lines_counts(tmp_path: Path) -> None:
    assert load(tmp_path, "[cluster]\nleader timeout = 7\nleader timeout = 8\n")[0].leader_timeout_s == 8


def test_a_unit_after_a_number_is_passed_over_as_upstream_does_but_not_silently(tmp_path: Path) -> None:
    settings, (warning,) = load(tmp_path, "[cluster]\nleader timeout = 7 minutes\n")
    assert settings.leader_timeout_s == 7
    assert "reads 7 and ignores 'minutes'" in warning


@pytest.mark.parametrize(
    ("text", "level"), [("ERROR", 0), ("warn", 1), ("NOT", 3), ("info", 5), ("7", 7), ("10", 10)]
)
def test_log_levels_are_names_beginnings_of_names_and_numbers(tmp_path: Path, text: str, level: int) -> None:
    assert load(tmp_path, f"[logging]\nlog level = {text}\n")[0].log_level == level


def test_the_deprecated_lock_counts_until_the_new_one_is_set(tmp_path: Path) -> None:
    settings, (warning,) = load(tmp_path, "[cluster]\nrecovery lock = /a\n")
    assert settings.lock == "/a"
    assert "write 'cluster lock'" in warning
    assert load(tmp_path, "[cluster]\nrecovery lock = /a\ncluster lock = /b\n")[0].lock == "/b"


@pytest.mark.parametrize(
    ("settings", "nodes", "quorum"),
    [
        (Settings(), 1, Quorum.NONE),
        (Settings(), 2, Quorum.NONE),
        (Settings(cluster_lock="/lock"), 2, Quorum.LOCK),
        (Settings(), 3, Quorum.MAJORITY),
        (Settings(cluster_lock="/lock"), 3, Quorum.MAJORITY),
        (Settings(cluster_lock="/lock", quorum=Quorum.LOCK), 3, Quorum.LOCK),
        (Settings(quorum=Quorum.NONE), 5, Quorum.NONE),
    ],
)
def test_quorum_is_a_majority_from_three_nodes_up_else_the_lock(
    settings: Settings, nodes: int, quorum: Quorum
) -> None:
    assert settings.quorum_for(nodes) is quorum


@pytest.mark.parametrize(
    ("data", "why"), [(b"[logging]\n\xff", "conf:2': byte 0xff is not UTF-8"), (b"#" * (2 << 20), "larger")]
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "ctdb.conf").write_bytes(data)
    with pytest.raises(ConfigError, match=why):
        load_ctdb_conf(tmp_path / "ctdb.conf")


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_ctdb_conf(tmp_path)


# An IPv6 node address in brackets is left out: newest master takes it, as we do, and 4.17 does not.
ORACLE = [
    ("legacy", "realtime scheduling", ["true", "YES", "no", "1", "on", "no # x"]),
    ("cluster", "leader timeout", ["1", "0x10", "010", "5 s", "0", "-1", "99999999999", "+7"]),
    ("cluster", "node address", ["10.0.0.1", "::1", "::ffff:10.0.0.1", "10.1", "x", "10.0.0.1:1"]),
    ("cluster", "transport", ["tcp", "TCP", "ib", "udp"]),
    ("logging", "log level", ["NOTICE", "notice", "NOT", "3", "10", "11", "loud"]),
    ("logging", "location", ["syslog", "syslog:udp", "syslog:x", "file:", "file:-", "file:/nosuch/x", "/x"]),
    ("database", "state database directory", ["/", "/nosuch"]),
    ("event", "debug script", ["nosuch.sh", "there.sh", "/any/there.sh", "plain"]),
]


@pytest.mark.skipif(not os.access(CTDB_CONFIG, os.X_OK), reason="Debian's package ctdb is not installed")
@pytest.mark.parametrize(
    ("section", "option", "value"),
    [(section, option, v) for section, option, values in ORACLE for v in values],
)
def test_a_value_is_accepted_exactly_when_upstreams_own_checker_accepts_it(
    tmp_path: Path, section: str, option: str, value: str
) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "there.sh").write_text("#!/bin/sh\n")
    (tmp_path / "there.sh").chmod(0o755)
    (tmp_path / "ctdb.conf").write_text(f"[{section}]\n{option} = {value}\n")
    try:
        load_ctdb_conf(tmp_path / "ctdb.conf")
        accepted = True
    except ConfigError:
        accepted = False
    checked = subprocess.run(
        [CTDB_CONFIG, "validate"],
        env={"CTDB_TEST_MODE": "1", "CTDB_BASE": str(tmp_path)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert accepted == (checked.returncode == 0), checked.stderr.decode()


def test_upstreams_shipped_file_loads_without_a_warning(tmp_path: Path) -> None:
    shipped = Path("/etc/ctdb/ctdb.conf")
    if not shipped.exists():
        pytest.skip("Debian's package ctdb is not installed")
    shutil.copy(shipped, tmp_path)
    assert load_ctdb_conf(tmp_path / "ctdb.conf")[1] == ()
