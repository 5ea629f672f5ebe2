# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's log: upstream's levels and locations on Python's logging.

Lines are written by a thread of their own, so that a slow disk or syslog never holds the daemon up; what
does not fit in the queue is counted and reported. The level is CTDB's number (0 ERROR, 1 WARNING, 3 NOTICE,
5 INFO, 10 DEBUG) wherever this room is asked or answers.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TextIO

from ctdbpy.errors import HostError
from ctdbpy.host.syslog import SYSLOG_METHODS, SyslogHandler

NOTICE = 25
"""Python's number for a level that logging does not have: between INFO and WARNING."""

QUEUE_LINES_MAX = 10_000

_LEVELS = ((0, logging.ERROR), (2, logging.WARNING), (4, NOTICE), (9, logging.INFO), (10, logging.DEBUG))
"""(highest CTDB level, Python's level) in order."""

logging.addLevelName(NOTICE, "NOTICE")


def python_level(level: int) -> int:
    """Return Python's level for CTDB's 0-10. Raises ValueError outside."""
    for highest, name in _LEVELS:
        if 0 <= level <= highest:
            return name
    raise ValueError(f"log level {level} is not from 0 to 10")


class Logs:
    """The open log. Everything logged below the logger `ctdbpy` goes there."""

    def __init__(self, handler: logging.Handler, level: int, note: str | None) -> None:
        self.note = note
        """What the daemon should say first: that it writes elsewhere than asked. Usually None."""
        self._level = level
        self._handler = handler
        self._lines = _Lines()
        self._listener = logging.handlers.QueueListener(self._lines.queue, handler)
        self._logger = logging.getLogger("ctdbpy")
        self._logger.propagate = False
        self._logger.setLevel(python_level(level))
        self._logger.addHandler(self._lines)
        self._listener.start()

    @classmethod
    def open(
        cls,
        location: str,
        level: int,
        *,
        form: str = "text",
        is_interactive: bool = False,
        program: str = "ctdbpyd",
    ) -> Logs:
        """Start logging to `location` (`file:PATH`, `syslog[:METHOD]`); an interactive daemon logs to stderr.
        `form` is text or json; syslog has its own.

        Raises HostError when a file cannot be written or the location is none. An absent syslog is no
        error, as upstream has it: lines go to stderr until it is there.
        """
        kind, _colon, rest = location.partition(":")
        note: str | None = None
        handler: logging.Handler
        lines = _JsonFormatter(program) if form == "json" else _LineFormatter(program)
        if is_interactive or (kind == "file" and rest in ("", "-")):
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(lines)
        elif kind == "file":
            handler = _LogFile(Path(rest))
            handler.setFormatter(lines)
        elif kind == "syslog" and rest in ("", *SYSLOG_METHODS):
            syslog = SyslogHandler(rest, program)
            note = syslog.connect()
            handler = syslog
        else:
            raise HostError(f"cannot log to '{location}': write file:PATH, syslog or syslog:METHOD")
        return cls(handler, level, note)

    @property
    def level(self) -> int:
        """CTDB's number of the level in force, as it was set."""
        return self._level

    def set_level(self, level: int) -> None:
        """Change the level. Raises ValueError outside 0-10."""
        self._logger.setLevel(python_level(level))
        self._level = level

    def use_incident(self, incident: Callable[[], str | None]) -> None:
        """Ask this what a line belongs to, when it is written; None is nothing."""
        self._lines.incident = incident

    def reopen(self) -> str:
        """Open the log file again after rotation; return the line that says how it went."""
        if not isinstance(self._handler, _LogFile):
            return "there is no log file to reopen"
        return self._handler.reopen()

    @property
    def lost(self) -> int:
        """Lines dropped because the queue was full."""
        return self._lines.lost

    def close(self) -> None:
        """Write what is queued and stop; lines logged later are lost."""
        self._logger.removeHandler(self._lines)
        self._listener.stop()
        self._handler.close()


class _Lines(logging.handlers.QueueHandler):
    """The daemon's side of the queue: never waits, counts what it drops and says so later."""

    def __init__(self) -> None:
        super().__init__(queue.Queue(QUEUE_LINES_MAX))
        self.lost = 0
        self._unreported = 0
        self.incident: Callable[[], str | None] = lambda: None

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """What the line belongs to is told now: by the time it is written more may have happened."""
        record.incident = self.incident()
        prepared: logging.LogRecord = super().prepare(record)
        return prepared

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand one line over, or drop it."""
        try:
            if self._unreported:
                text = f"{self._unreported} log lines were lost: the log is written too slowly"
                self.queue.put_nowait(logging.makeLogRecord({"msg": text, "levelno": logging.WARNING}))
                self._unreported = 0
            self.queue.put_nowait(record)
        except queue.Full:
            self.lost += 1
            self._unreported += 1


class _LogFile(logging.StreamHandler[TextIO]):
    """A log file that can be opened again under the same name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(self._open())

    def _open(self) -> TextIO:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HostError(f"cannot log to '{self._path}': {error.strerror}") from error
        return open(fd, "a", encoding="utf-8", errors="backslashreplace")

    def reopen(self) -> str:
        """Change over to what the name stands for now; on failure the old file stays in use."""
        try:
            stream = self._open()
        except HostError as error:
            return f"{error}; still writing to the file open until now"
        old = self.setStream(stream)
        if old is not None:
            old.close()
        return f"log file '{self._path}' opened again"

    def close(self) -> None:
        """Close the file too."""
        super().close()
        self.stream.close()


class _LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123456+0100 HOST ctdbpyd[123]: NOTICE: text`: time and host as upstream."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._prefix = f"{socket.gethostname()} {program}[{os.getpid()}]"

    def format(self, record: logging.LogRecord) -> str:
        """Return the whole line, several when the message has several."""
        zone = self.formatTime(record, "%z")
        microseconds = int((record.created - int(record.created)) * 1e6)
        when = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{microseconds:06d}{zone}"
        return f"{when} {self._prefix}: {logging.getLevelName(record.levelno)}: {record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    """Each line an object, for programs that gather logs."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._origin = {"host": socket.gethostname(), "program": program, "pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, whatever the message has."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="microseconds")
        said = {"level": logging.getLevelName(record.levelno), "text": record.getMessage()}
        incident = getattr(record, "incident", None)
        return json.dumps({"time": when, **self._origin, **said, "incident": incident}, ensure_ascii=False)
