# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle holds what helps, and no secret."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from ctdbpy.cli.masking import MASK, mask_data, mask_text
from tests.unit.cli.conftest import Run
from tests.unit.daemon.conftest import Daemon

SECRET = "hunter2-Geheim"


@pytest.mark.parametrize(
    "text",
    [
        f"password = {SECRET}",
        f"CTDB_LDAP_PASSWORD='{SECRET}'",
        f'export API_KEY="{SECRET}"',
        f"SMTP_PASS={SECRET}",
        f"  bind secret: {SECRET}",
        f'{{"password": "{SECRET}", "user": "x"}}',
        f"- {{user: a, password: {SECRET}}}",
        f"command: mount -o user=a,password={SECRET} //server/share",
        f"exec tool --password {SECRET} --quiet",
        f"exec tool --auth-token='{SECRET}'",
        f"net -U administrator%{SECRET} ads info",
        f"asked https://user:{SECRET}@monitor.example/api",
        f"password: |\n    {SECRET}\n    {SECRET}\nother: 1",
        f"password:\n    {SECRET}\nother: 1",
        f"PASSWORD='one\n{SECRET}'\nother=1",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----\nother",
    ],
)
def test_what_is_called_a_secret_is_taken_out(text: str) -> None:
    masked = mask_text(text)
    assert SECRET not in masked
    assert MASK in masked
    assert masked.count("\n") == text.count("\n") + 1
    if "other" in text:
        assert "other" in masked


@pytest.mark.parametrize(
    "text",
    [
        "log level = INFO\n",
        "nodes:\n  - {number: 0, address: 10.0.0.1}\n",
        "vacuum of secrets.tdb: 3 records\n",
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert mask_text(text) == text


def test_data_keeps_its_shape() -> None:
    data = {
        "password": SECRET,
        "nodes": [{"api_key": 1, "n": 2, "text": f"x --token {SECRET}"}],
        "tokens": {"a": 1},
    }
    assert mask_data(data) == {
        "password": MASK,
        "nodes": [{"api_key": MASK, "n": 2, "text": f"x --token {MASK}"}],
        "tokens": {"a": 1},
    }


def _files(bundle: Path) -> dict[str, str]:
    with tarfile.open(bundle) as archive:
        found = {}
        for entry in archive.getmembers():
            stream = archive.extractfile(entry)
            assert stream is not None
            found[entry.name.partition("/")[2]] = stream.read().decode()
        return found


def test_a_bundle_holds_answers_configuration_and_log(daemon: Daemon, run: Run, tmp_path: Path) -> None:
    base = daemon.base
    (base / "script.options").write_text(f"CTDB_TEST_PASSWORD={SECRET}\nCTDB_TEST_OTHER=seen\n")
    environ = {"CTDB_BASE": str(base), "CTDB_TEST_MODE": "yes"}
    done = run("support-bundle", "-o", str(tmp_path / "b.tar.gz"), socket=daemon.socket, **environ)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.tar.gz").stat().st_mode & 0o777 == 0o600
    files = _files(tmp_path / "b.tar.gz")
    assert json.loads(files["answers/status.json"])["this_node"] == 0
    assert json.loads(files["nodes/0/node-statistics.json"])
    options = next(text for name, text in files.items() if name.endswith("script.options"))
    assert "CTDB_TEST_OTHER=seen" in options
    assert json.loads(files["about.json"])["host"]
    assert not [name for name, text in files.items() if SECRET in text]


def test_without_a_daemon_there_is_one_too_and_nothing_is_written_over(run: Run, tmp_path: Path) -> None:
    environ = {"CTDB_BASE": str(tmp_path), "CTDB_TEST_MODE": "yes"}
    bundle = tmp_path / "b.tar.gz"
    done = run("support-bundle", "--json", "-o", str(bundle), **environ)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert any(line.startswith("status: ") for line in answer["absent"])
    told = run("support-bundle", "-o", str(tmp_path / "c.tar.gz"), **environ).stdout
    assert f"without {len(answer['absent'])} answers that nobody gave" in told
    size = os.path.getsize(bundle)
    again = run("support-bundle", "-o", str(bundle), **environ)
    assert (again.returncode, "it is there already" in again.stderr) == (1, True)
    assert os.path.getsize(bundle) == size


def test_the_log_of_a_daemon_that_writes_to_standard_error_is_looked_for_elsewhere(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "ctdb.conf").write_text("[logging]\nlocation = file:\n")
    (tmp_path / "nodes").write_text("127.0.0.1\n")
    said = run("log", "show", CTDB_BASE=str(tmp_path), CTDB_TEST_MODE="yes")
    assert (said.returncode, "journalctl -u ctdbpyd" in said.stderr) == (1, True)
