# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command explains itself and takes --json, and starting does not import what is not used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ctdbpy.cli.ctdbctl import ctdbctl
from tests.unit.cli.conftest import Run
from tests.unit.daemon.conftest import LIMIT_S, Daemon


def commands(
    group: click.Group = ctdbctl, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def test_every_command_says_what_it_does() -> None:
    found = dict(commands())
    assert len(found) > 90
    assert [words for words, command in found.items() if not (command.help or "").strip()] == []


def test_every_command_that_answers_takes_json() -> None:
    # These hand over to another program, or print what a shell evaluates.
    others = {("completion",), ("ip", "gateway")}
    without = {
        words
        for words, command in commands()
        if not any("--json" in option.opts for option in command.params)
    }
    assert without <= others


@pytest.mark.parametrize("words", [["--help"], ["node", "--help"], ["node", "list"]])
def test_starting_is_light(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ctdbpy.cli.ctdbctl import main\nmain(sys.argv[1:])\n"
        "print(sorted({'asyncio', 'rich', 'ctdbpy.store.tdb', 'ctdbpy.core.node'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "CTDB_SOCKET": str(tmp_path / "nothing")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_json_may_stand_before_or_behind(run: Run, daemon: Daemon) -> None:
    first = json.loads(run("--json", "node", "pnn", socket=daemon.socket).stdout)
    assert first == json.loads(run("node", "pnn", "--json", socket=daemon.socket).stdout) == {"pnn": 0}


def test_what_takes_service_away_wants_a_yes(run: Run, daemon: Daemon) -> None:
    daemon.wait_log("own flags UNHEALTHY -> OK")
    refused = run("node", "stop", socket=daemon.socket)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "ctdbctl: cannot go on without a yes: this node will leave the cluster: "
        "its clients lose their connections; add --yes\n"
    )
    assert run("node", "status", socket=daemon.socket).returncode == 0
    done = run("node", "stop", "--yes", "--no-wait", "--json", socket=daemon.socket)
    assert json.loads(done.stdout) == {"done": "node 0 is stopped", "node": 0}
    assert run("node", "status", socket=daemon.socket).returncode == 32
    back = run("node", "continue", "--wait", socket=daemon.socket)
    assert (back.returncode, back.stdout) == (0, "node 0 is not stopped\n")
    assert "waiting until node 0 is no longer stopped\n" in back.stderr


def test_an_unknown_node_or_word_is_named(run: Run, daemon: Daemon) -> None:
    for words, said in {
        ("node", "ping", "7"): "cannot find node 7: there is none; there are 0",
        ("db", "status", "nothing.tdb"): "cannot find database 'nothing.tdb': no such database is attached",
        ("tunable", "get", "Timeout"): "cannot find tunable 'Timeout': there is none; there are",
        ("ip", "move", "nowhere", "0"): "cannot use 'nowhere': it is not an address",
        ("log", "level", "LOUD"): "cannot set log level 'LOUD': there are ERROR",
    }.items():
        done = run(*words, socket=daemon.socket)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


def test_records_are_stored_and_shown(run: Run, daemon: Daemon) -> None:
    def ask(*words: str) -> str:
        done = run(*words, socket=daemon.socket)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name, kind in (("locking.tdb", "volatile"), ("secrets.tdb", "persistent")):
        ask("db", "attach", name, kind)
        ask("db", "put", name, "key", "0x00ff")
        assert json.loads(ask("db", "get", name, "key", "--json"))["value_hex"] == "00ff"
        assert "key\n" in ask("db", "keys", name)
        ask("db", "put", name, "other", "text")
        shown = json.loads(ask("db", "cat", name, "--json"))["records"]
        assert {each["key"]: each["value"] for each in shown}.items() >= {
            ("key", "\\x00\\xff"),
            ("other", "text"),
        }
        ask("db", "delete", name, "key", "--yes")
        gone = run("db", "get", name, "key", socket=daemon.socket)
        assert gone.stderr == f"ctdbctl: cannot find key 'key' in '{name}': there is no such record\n"


def test_commands_run_on_nodes_and_end_with_the_last_failure(run: Run, make: object, tmp_path: Path) -> None:
    carrier = tmp_path / "carrier"
    carrier.write_text('#!/bin/sh\n[ "$1" = -n ] || exit 99\nAT=$2 exec sh -c "$3"\n')
    carrier.chmod(0o755)
    (tmp_path / "nodes").write_text("127.0.0.1\n#127.0.0.2\n127.0.0.3\n")
    where = {"ONNODE_SSH": str(carrier), "CTDB_TEST_MODE": "1", "CTDB_BASE": str(tmp_path)}
    done = run("node", "exec", "all", 'echo "at $AT"', **where)
    assert (done.returncode, done.stdout) == (0, "at 127.0.0.1\nat 127.0.0.3\n")
    assert done.stderr == "\n>> NODE: 127.0.0.1 <<\n\n>> NODE: 127.0.0.3 <<\n"
    done = run("node", "exec", "-p", "0,2", 'echo "at $AT"; [ $AT = 127.0.0.3 ] || exit 7', **where)
    assert done.returncode == 7
    assert done.stdout == "[127.0.0.1] at 127.0.0.1\n[127.0.0.3] at 127.0.0.3\n"
    done = run("node", "exec", "--json", "2", "sh", "-c", "exit 3", **where)
    assert done.returncode == 3
    assert json.loads(done.stdout)["nodes"][0]["exit_code"] == 3
    done = run("node", "exec", "0-2", "true", **where)
    assert done.stderr == "ctdbctl: cannot run it on node 1: there is none; there are 0, 2\n"


def test_files_are_pushed_whole(run: Run, tmp_path: Path) -> None:
    carrier = tmp_path / "carrier"
    carrier.write_text(f'#!/bin/sh\nsed -i "s|^|$1: |" {tmp_path}/file.txt; exec sh -c "$2"\n')
    carrier.chmod(0o755)
    (tmp_path / "nodes").write_text("192.0.2.1\n192.0.2.2\n")
    pushed = tmp_path / "file.txt"
    pushed.write_text("text\n")
    pushed.chmod(0o640)
    where = {"ONNODE_SSH": str(carrier)}
    done = run("node", "push", "-f", f"{tmp_path}/nodes", "1", str(pushed), "--yes", **where)
    assert (done.returncode, done.stdout) == (0, "1 files are on 1 nodes\n"), done.stderr
    assert (pushed.read_text(), pushed.stat().st_mode & 0o777) == ("text\n", 0o640)
    refused = run("node", "push", "-f", f"{tmp_path}/nodes", "1", str(pushed), **where)
    assert "are replaced on 1 nodes; add --yes" in refused.stderr
    done = run("node", "push", "-f", f"{tmp_path}/nodes", "1", str(pushed), "--yes", ONNODE_SSH="false")
    assert done.stderr == f"ctdbctl: cannot copy '{pushed}' to node 1: status 1\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(run: Run, shell: str) -> None:
    assert "_CTDBCTL_COMPLETE" in run("completion", shell).stdout
    if shell == "bash":
        done = run("x", _CTDBCTL_COMPLETE="bash_complete", COMP_WORDS="ctdbctl node dr", COMP_CWORD="2")
        assert done.stdout == "plain,drain\n"


def test_shells_complete_what_only_the_daemon_knows(run: Run, daemon: Daemon) -> None:
    assert run("db", "attach", "locking.tdb", socket=daemon.socket).returncode == 0
    for words, completed in {
        "ctdbctl db status l": "locking.tdb",
        "ctdbctl node ping ": "0",
        "ctdbctl tunable get recovert": "RecoverTimeout",
    }.items():
        begun = {"COMP_WORDS": words, "COMP_CWORD": "3", "_CTDBCTL_COMPLETE": "bash_complete"}
        assert run(socket=daemon.socket, **begun).stdout == f"plain,{completed}\n"
    begun = {"COMP_WORDS": "ctdbctl db cat l", "COMP_CWORD": "3", "_CTDBCTL_COMPLETE": "bash_complete"}
    alone = run(**begun)
    assert (alone.stdout.strip(), alone.stderr) == ("", "")


def test_long_work_tells_how_far_it_is(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "records").write_text("".join(f'"key{number}" "{"x" * 900}"\n' for number in range(300)))
    for words in (
        ("attach", "kept.tdb", "persistent"),
        ("load", "kept.tdb", f"{tmp_path}/records"),
        ("backup", "kept.tdb", f"{tmp_path}/backup"),
    ):
        assert run("db", *words, socket=daemon.socket).returncode == 0
    told = run("db", "backup", "kept.tdb", f"{tmp_path}/backup", "--wait", socket=daemon.socket)
    assert re.search(r"^waiting until all is written: \d+ records are$", told.stderr, re.MULTILINE)
    told = run("db", "restore", f"{tmp_path}/backup", "--yes", "--wait", socket=daemon.socket)
    assert told.returncode == 0
    assert "waiting until all records are there: 301 of 301 are sent\n" in told.stderr


def test_without_records_json_is_whole_too(run: Run, daemon: Daemon) -> None:
    assert run("db", "attach", "locking.tdb", socket=daemon.socket).returncode == 0
    for words in (["db", "cat", "locking.tdb"], ["db", "cat", "locking.tdb", "--local"]):
        assert json.loads(run(*words, "--json", socket=daemon.socket).stdout) == {"records": []}


def in_shell(daemon: Daemon, rest: str) -> subprocess.CompletedProcess[str]:
    """`ctdbctl` followed by words for the shell: pipes, other outputs."""
    return subprocess.run(
        f"{sys.executable} -m ctdbpy.cli {rest}",
        shell=True,
        env={**os.environ, "CTDB_SOCKET": str(daemon.socket)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [("> /dev/full", 1, "ctdbctl: cannot write the answer: No space left on device\n"), (">&-", 0, "")],
)
def test_an_answer_that_cannot_be_written_is_no_traceback(
    daemon: Daemon, where: str, code: int, said: str
) -> None:
    done = in_shell(daemon, f"node pnn {where}")
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(
    "words",
    [
        ["ip", "move", "192.0.2.77", "0"],
        ["ip", "connection-add", "203.0.113.5:4000", "192.0.2.77:445"],
        ["ip", "connection-delete", "203.0.113.5:4000", "192.0.2.77:445"],
    ],
)
def test_what_is_no_public_address_is_refused_at_once(run: Run, daemon: Daemon, words: list[str]) -> None:
    done = run(*words, socket=daemon.socket)
    assert (done.returncode, done.stdout) == (1, "")
    assert "192.0.2.77" in done.stderr and "public address" in done.stderr


def test_a_stopped_node_does_not_speak_for_the_cluster(run: Run, daemon: Daemon) -> None:
    daemon.wait_log("own flags UNHEALTHY -> OK")
    for words in (["db", "attach", "locking.tdb"], ["node", "stop", "--yes"]):
        done = run(*words, socket=daemon.socket)
        assert done.returncode == 0, done.stderr
    for words in (["db", "cat", "locking.tdb"], ["db", "keys", "locking.tdb"], ["cluster", "recover"]):
        done = run(*words, socket=daemon.socket)
        assert (done.returncode, done.stdout) == (1, "")
        assert "this node is STOPPED; ask on another one" in done.stderr


def test_who_refuses_is_named(run: Run, daemon: Daemon) -> None:
    daemon.wait_log("own flags UNHEALTHY -> OK")
    (daemon.base / "public_addresses").write_text("192.0.2.9/24 nowhere\n")
    done = run("ip", "reload", socket=daemon.socket)
    assert done.returncode == 1
    assert "cannot do RELOAD_PUBLIC_IPS: node 0: " in done.stderr


def test_an_event_that_no_script_has_seen_has_not_run(run: Run, daemon: Daemon) -> None:
    base = {"CTDB_TEST_MODE": "1", "CTDB_BASE": str(daemon.base)}
    (daemon.base / "events" / "legacy").mkdir(parents=True, exist_ok=True)
    done = run("event", "run", "monitor", "--json", socket=daemon.socket, **base)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"done": "no script is enabled: none has run on monitor", "scripts": []}
    missing = run("event", "disable", "99.nothing", socket=daemon.socket, **base)
    assert missing.stderr.startswith("ctdbctl: cannot disable '99.nothing': there is no such script")


def test_who_reads_no_further_ends_it_quietly(daemon: Daemon) -> None:
    done = in_shell(daemon, "tunable list | head -1")
    assert done.returncode == 0
    assert done.stdout.startswith("TUNABLE") and done.stderr == ""


def test_nobody_takes_a_node_for_off_that_runs(run: Run, daemon: Daemon) -> None:
    done = run("node", "confirm-off", "0", "--yes", socket=daemon.socket)
    assert done.returncode == 1
    assert "node 0 is connected: it runs" in done.stderr
    done = run("node", "confirm-off", "5", "--yes", socket=daemon.socket)
    assert "there is no node 5" in done.stderr
