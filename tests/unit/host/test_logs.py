# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's log."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from ctdbpy.errors import HostError
from ctdbpy.host import logs as logs_module
from ctdbpy.host.logs import NOTICE, Logs, python_level
from ctdbpy.host.syslog import LINE_BYTES_MAX, SyslogHandler

LOG = logging.getLogger("ctdbpy.daemon")

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d{4} "
    + re.escape(socket.gethostname())
    + r" ctdbpyd\[\d+\]: "
)


@contextmanager
def opened(location: str, level: int = 3, *, is_interactive: bool = False) -> Iterator[Logs]:
    logs = Logs.open(location, level, is_interactive=is_interactive)
    try:
        yield logs
    finally:
        logs.close()


def texts(path: Path) -> list[str]:
    return [LINE.sub("", line, count=1) for line in path.read_text().splitlines()]


def test_a_line_has_time_host_program_and_level(tmp_path: Path) -> None:
    with opened(f"file:{tmp_path}/log"):
        LOG.log(NOTICE, "node %d is up", 2)
    assert LINE.match((tmp_path / "log").read_text())
    assert texts(tmp_path / "log") == ["NOTICE: node 2 is up"]
    assert f"[{os.getpid()}]" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (0, "ERROR"),
        (1, "ERROR WARNING"),
        (2, "ERROR WARNING"),
        (3, "ERROR WARNING NOTICE"),
        (4, "ERROR WARNING NOTICE"),
        (5, "ERROR WARNING NOTICE INFO"),
        (9, "ERROR WARNING NOTICE INFO"),
        (10, "ERROR WARNING NOTICE INFO DEBUG"),
    ],
)
def test_a_level_lets_through_what_is_at_least_as_important(tmp_path: Path, level: int, names: str) -> None:
    with opened(f"file:{tmp_path}/log", level) as logs:
        assert logs.level == level
        for name in (logging.ERROR, logging.WARNING, NOTICE, logging.INFO, logging.DEBUG):
            LOG.log(name, "x")
    assert [text.partition(":")[0] for text in texts(tmp_path / "log")] == names.split()


def test_a_defect_is_written_with_where_it_happened(tmp_path: Path) -> None:
    with opened(f"file:{tmp_path}/log"):
        try:
            raise ZeroDivisionError("no node left")
        except ZeroDivisionError as error:
            LOG.critical("defect in %s", "takeover", exc_info=error)
    text = (tmp_path / "log").read_text()
    assert "CRITICAL: defect in takeover\n" in text
    assert "test_logs.py" in text
    assert text.endswith("ZeroDivisionError: no node left\n")


def test_the_level_changes_at_run_time(tmp_path: Path) -> None:
    with opened(f"file:{tmp_path}/log", 3) as logs:
        LOG.info("unheard")
        logs.set_level(5)
        LOG.info("heard")
        assert logs.level == 5
        with pytest.raises(ValueError, match="11 is not from 0 to 10"):
            logs.set_level(11)
        assert logs.level == 5
    assert texts(tmp_path / "log") == ["INFO: heard"]


@pytest.mark.parametrize("level", [-1, 11])
def test_a_level_outside_the_range_is_none(level: int) -> None:
    with pytest.raises(ValueError, match="is not from 0 to 10"):
        python_level(level)


def test_a_rotated_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(f"file:{path}") as logs:
        LOG.warning("before")
        path.rename(tmp_path / "log.1")
        assert logs.reopen() == f"log file '{path}' opened again"
        LOG.warning("after")
    assert sorted(texts(tmp_path / "log.1") + texts(path)) == ["WARNING: after", "WARNING: before"]
    assert "WARNING: after" in texts(path)


def test_a_file_that_cannot_be_opened_again_stays_in_use(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with opened(f"file:{tmp_path}/d/log") as logs:
        (tmp_path / "d").rename(tmp_path / "e")
        assert "still writing to the file open until now" in logs.reopen()
        LOG.warning("after")
    assert texts(tmp_path / "e" / "log") == ["WARNING: after"]


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with opened(f"file:{tmp_path}/log"):
            LOG.warning(text)
    assert texts(tmp_path / "log") == ["WARNING: first", "WARNING: second"]


@pytest.mark.parametrize("location", ["file:", "file:-", "file:/nosuch/log", "syslog:udp"])
def test_an_interactive_daemon_logs_to_stderr_wherever_the_log_is_set_to_go(
    location: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with opened(location, is_interactive=True) as logs:
        LOG.error("to be seen")
        assert logs.reopen() == "there is no log file to reopen"
    assert LINE.sub("", capfd.readouterr().err) == "ERROR: to be seen\n"


def test_a_file_without_a_name_is_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with opened("file:"):
        LOG.error("to be seen")
    assert "ERROR: to be seen" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("location", "why"),
    [("file:/nosuch/log", "No such file"), ("/log", "write file:PATH"), ("syslog:tcp", "write")],
)
def test_a_place_that_cannot_be_written_is_refused(location: str, why: str) -> None:
    with pytest.raises(HostError, match=f"cannot log to .*{why}"):
        Logs.open(location, 3)


def test_a_slow_log_drops_lines_rather_than_hold_the_daemon_up_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "QUEUE_LINES_MAX", 10)
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with opened(f"file:{fifo}") as logs:
        # Nobody reads, the pipe fills, the writing thread hangs: the daemon's side must go on.
        for number in range(200):
            LOG.warning("%d %s", number, "x" * 4000)
        assert logs.lost > 0
        said_so = threading.Event()

        def drain() -> None:
            tail = b""
            while data := os.read(reader, 65536):
                tail = tail[-100:] + data
                if b" log lines were lost: the log is written too slowly" in tail:
                    said_so.set()

        draining = threading.Thread(target=drain)
        draining.start()
        for _ in range(1000):
            LOG.warning("room again")
            if said_so.wait(0.01):
                break
        assert said_so.is_set()
    draining.join(timeout=10)
    assert not draining.is_alive()
    os.close(reader)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    """A syslog daemon's Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "log"))
        listener.settimeout(10)
        yield listener


def record(text: str, level: int = NOTICE) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": level})


@pytest.mark.parametrize("method", ["", "nonblocking"])
def test_syslog_gets_one_datagram_a_line_with_facility_and_severity(
    tmp_path: Path, receiver: socket.socket, method: str
) -> None:
    handler = SyslogHandler(method, "ctdbpyd", dev_log=str(tmp_path / "log"))
    assert handler.connect() is None
    severities = {logging.ERROR: 27, logging.WARNING: 28, NOTICE: 29, logging.INFO: 30, logging.DEBUG: 31}
    for level, priority in severities.items():
        handler.emit(record("text", level))
        assert receiver.recv(2000) == f"<{priority}>ctdbpyd[{os.getpid()}]: text".encode()
    handler.emit(record("x" * 5000))
    assert len(receiver.recv(8000)) == LINE_BYTES_MAX
    handler.close()


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("udp", r"<29>ctdbpyd\[\d+\]: text"),
        ("udp-rfc5424", r"<29>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d \S+ ctdbpyd \d+ - - text"),
    ],
)
def test_syslog_by_udp_has_the_format_of_its_name(method: str, form: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        handler = SyslogHandler(method, "ctdbpyd", udp_address=listener.getsockname())
        handler.emit(record("text"))
        assert re.fullmatch(form, listener.recv(2000).decode())
        handler.close()


def test_without_syslog_lines_go_to_stderr_and_syslog_is_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = tmp_path / "log"
    handler = SyslogHandler("", "ctdbpyd", dev_log=str(address))
    note = handler.connect()
    assert note is not None and f"cannot log to syslog at '{address}': No such file" in note
    handler.emit(record("not lost"))
    assert capfd.readouterr().err == "not lost\n"
    for _restart in range(2):
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(address))
            listener.settimeout(10)
            handler.emit(record("heard"))
            assert listener.recv(2000).endswith(b": heard")
    handler.close()


def test_a_syslog_that_does_not_read_never_blocks_the_nonblocking_method(
    tmp_path: Path, receiver: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = SyslogHandler("nonblocking", "ctdbpyd", dev_log=str(tmp_path / "log"))
    for number in range(2000):
        handler.emit(record(f"line {number}"))
    assert "line 1999\n" in capfd.readouterr().err
    handler.close()


def test_in_json_a_line_is_an_object_and_tells_its_incident(tmp_path: Path) -> None:
    logs = Logs.open(f"file:{tmp_path}/log", 3, form="json")
    try:
        LOG.warning("before")
        incident = ["one"]
        logs.use_incident(lambda: incident[0])
        LOG.log(NOTICE, 'two lines,\nä and a "quote"')
        incident[0] = "two"
        LOG.error("%s", "after")
    finally:
        logs.close()
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(each["level"], each["text"], each["incident"]) for each in said] == [
        ("WARNING", "before", None),
        ("NOTICE", 'two lines,\nä and a "quote"', "one"),
        ("ERROR", "after", "two"),
    ]
    assert {(each["program"], each["pid"], each["host"]) for each in said} == {
        ("ctdbpyd", os.getpid(), socket.gethostname())
    }
    assert all(datetime.fromisoformat(each["time"]).tzinfo is not None for each in said)
