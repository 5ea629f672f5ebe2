# SPDX-License-Identifier: GPL-3.0-or-later
"""The event runner, with real scripts, and the socket through which others ask for it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ctdbpy.daemon.event_socket import REQUEST_BYTES_MAX, EventSocket
from ctdbpy.daemon.events import EventRunner, LastRun, Order, Outcome, Run, script_environment
from ctdbpy.daemon.tasks import Tasks
from ctdbpy.host.children import Children
from ctdbpy.host.processes import is_running
from ctdbpy.wire import events as wire
from ctdbpy.wire.constants import RunState
from ctdbpy.wire.controls import Control
from tests.unit.daemon.conftest import Cluster, wait_until

T = TypeVar("T")
LIMIT_S = 30.0


class Place:
    """A directory of scripts and what runs them; `said` is what scripts print, `trouble` what is reported."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.scripts = base / "events" / "legacy"
        self.scripts.mkdir(parents=True, exist_ok=True)
        self.children = Children()
        self.crashes: list[BaseException] = []
        self.tasks = Tasks(lambda _name, error: self.crashes.append(error))
        self.said: list[str] = []
        self.trouble: list[str] = []
        self.changed = asyncio.Event()
        self.runner = EventRunner(
            base / "events",
            self.children,
            environ=dict(os.environ),
            debug_script=base / "debug.sh" if (base / "debug.sh").exists() else None,
            notify_script=base / "notify.sh",
            log_script=self.said.append,
            log_trouble=self._report,
            spawn=self._spawn,
        )

    def order(self, event: str, *args: str, timeout_s: float = LIMIT_S, **more: Any) -> Order:
        return Order(event, args, timeout_s, **more)

    def begin(self, order: Order) -> tuple[Run, asyncio.Future[Outcome]]:
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        return self.runner.run(order, ended.set_result), ended

    async def run(self, event: str, *args: str, **more: Any) -> Outcome:
        return await self.begin(self.order(event, *args, **more))[1]

    async def until(self, claim: Callable[[], bool]) -> None:
        """Wait for what is reported, or a task's end, to make something true."""
        while not claim():
            self.changed.clear()
            await self.changed.wait()

    def _report(self, line: str) -> None:
        self.trouble.append(line)
        self.changed.set()

    def _spawn(self, name: str, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.tasks.spawn(name, coro)
        task.add_done_callback(lambda _task: self.changed.set())
        return task


def at(base: Path, body: Callable[[Place], Awaitable[T]]) -> T:
    """Do something with a runner, within bounds; no task of it crashes, no script of it stays."""

    async def bounded() -> T:
        place = Place(base)
        try:
            async with asyncio.timeout(LIMIT_S):
                return await body(place)
        finally:
            place.tasks.cancel_all()
            assert await place.children.end_all(grace_s=0) == ()
            assert place.crashes == []

    return asyncio.run(bounded())


def script(base: Path, name: str, body: str, *, directory: str = "events/legacy") -> Path:
    path = base / directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_an_event_without_scripts_succeeds(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        assert await place.run("monitor") == Outcome(0)
        assert place.runner.last_run("legacy", "monitor") == LastRun(0, ())

    at(tmp_path, body)


def test_what_scripts_print_is_logged_and_kept(tmp_path: Path) -> None:
    script(tmp_path, "10.a.script", "echo one; echo two $2")
    script(tmp_path, "20.b.script", "echo gone >&2; exit 1")

    async def body(place: Place) -> None:
        outcome = await place.run("releaseip", "eth0")
        assert outcome == Outcome(errno.ENOEXEC, "event 'releaseip': 20.b failed with status 1: 'gone'")
        assert place.said == ["10.a: one", "10.a: two eth0", "20.b: gone"]
        last = place.runner.last_run("legacy", "releaseip")
        assert isinstance(last, LastRun)
        assert last.summary == 1
        assert [(end.name, end.result, end.output) for end in last.scripts] == [
            ("10.a", 0, b"one\ntwo eth0\n"),
            ("20.b", 1, b"gone\n"),
        ]

    at(tmp_path, body)


def test_events_run_one_at_a_time_in_the_order_asked_for(tmp_path: Path) -> None:
    script(tmp_path, "10.a.script", f"echo begin $1 >>{tmp_path}/order; echo end $1 >>{tmp_path}/order")

    async def body(place: Place) -> None:
        names = [f"event{number}" for number in range(8)]
        outcomes = await asyncio.gather(*(place.run(name) for name in names))
        assert outcomes == [Outcome(0)] * 8
        order = (tmp_path / "order").read_text().splitlines()
        assert order == [f"{what} {name}" for name in names for what in ("begin", "end")]

    at(tmp_path, body)


@pytest.mark.parametrize("event", ["takeip", "releaseip", "updateip", "monitor", "shutdown"])
def test_the_script_that_would_move_addresses_again_is_left_out(tmp_path: Path, event: str) -> None:
    script(tmp_path, "10.interface.script", 'echo "interface $*"')
    script(tmp_path, "11.routing.script", 'echo "routing $*"')

    async def body(place: Place) -> list[str]:
        assert (await place.run(event, "eth0")).status == 0
        return place.said

    said = at(tmp_path, body)
    mine = [f"11.routing: routing {event} eth0"]
    assert said == (mine if event.endswith("ip") else [f"10.interface: interface {event} eth0", *mine])


def test_a_monitor_event_gives_way_to_any_other(tmp_path: Path) -> None:
    begun = fifo(tmp_path / "begun")
    script(tmp_path, "10.a.script", f"[ $1 != monitor ] || {{ echo $$ >{begun}; sleep 1000; }}")

    async def body(place: Place) -> None:
        _run, monitor = place.begin(place.order("monitor"))
        pid = int(await asyncio.to_thread(begun.read_text))
        assert await place.run("takeip") == Outcome(0)
        assert (await monitor).status == errno.ECANCELED
        assert "'takeip' is to run" in (await monitor).text
        for child in place.children.running:
            assert (await child.wait()).pid == pid
        assert not is_running(pid)
        assert place.runner.last_run("legacy", "monitor") == errno.EINVAL

    at(tmp_path, body)


def test_a_monitor_event_is_refused_while_another_runs(tmp_path: Path) -> None:
    begun, go_on = fifo(tmp_path / "begun"), fifo(tmp_path / "on")
    script(tmp_path, "10.a.script", f"echo >{begun}; cat {go_on}")

    async def body(place: Place) -> None:
        _run, startup = place.begin(place.order("startup"))
        await asyncio.to_thread(begun.read_text)
        assert (await place.run("monitor")).status == errno.ECANCELED
        assert not startup.done()
        await asyncio.to_thread(go_on.write_text, "")
        assert await startup == Outcome(0)

    at(tmp_path, body)


def test_an_event_is_stopped_while_it_runs_or_waits(tmp_path: Path) -> None:
    begun = fifo(tmp_path / "begun")
    script(tmp_path, "10.a.script", f"[ $1 = shutdown ] || {{ echo >{begun}; sleep 1000; }}")

    async def body(place: Place) -> None:
        first, startup = place.begin(place.order("startup"))
        second, recovered = place.begin(place.order("recovered"))
        _third, shutdown = place.begin(place.order("shutdown"))
        await asyncio.to_thread(begun.read_text)
        place.runner.stop(second)
        place.runner.stop(first)
        assert (await startup).status == (await recovered).status == errno.ECANCELED
        assert await shutdown == Outcome(0)
        place.runner.stop(first)

    at(tmp_path, body)


def test_a_hung_script_is_reported_with_its_stack_and_ended_with_its_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script(tmp_path, "10.a.script", f"echo waiting; sleep 1000 & echo $$ $! >{pids}; wait")
    script(tmp_path, "debug.sh", 'echo "looked at $1 in $2"', directory=".")

    async def body(place: Place) -> None:
        outcome = await place.run("monitor", timeout_s=3)
        assert outcome.status == errno.ETIMEDOUT
        assert "10.a hung" in outcome.text
        first, second = pids.read_text().split()
        # The verdict does not wait for the looking, and what comes next does not either.
        assert place.trouble == []
        await place.until(lambda: place.children.running == ())
        trouble = "\n".join(place.trouble)
        assert f"stack of 10.a.script: process {first} (10.a.script)" in trouble
        assert f"process {second} (sleep)" in trouble
        assert f"event_debug: looked at {first} in monitor" in trouble
        assert not is_running(int(first))
        last = place.runner.last_run("legacy", "monitor")
        assert isinstance(last, LastRun)
        assert (last.summary, last.scripts[0].output) == (-errno.ETIMEDOUT, b"waiting\n")

    at(tmp_path, body)


@pytest.mark.parametrize("component", ["none", "", "..", "../events/legacy", "legacy/"])
def test_there_is_nothing_to_run_outside_the_directories_of_scripts(tmp_path: Path, component: str) -> None:
    script(tmp_path, "10.a.script", "")

    async def body(place: Place) -> None:
        assert place.runner.last_run(component, "monitor") == errno.ENOENT
        assert place.runner.enable(component, "10.a", is_enabled=False) == errno.ENOENT

    at(tmp_path, body)


def test_the_administrator_hears_a_word(tmp_path: Path) -> None:
    heard = fifo(tmp_path / "heard")
    script(tmp_path, "notify.sh", f'[ "$1" != unhealthy ] && echo "$*" >{heard}', directory=".")

    async def body(place: Place) -> None:
        place.runner.notify("healthy")
        assert await asyncio.to_thread(heard.read_text) == "healthy\n"
        place.runner.notify("unhealthy")
        await place.until(lambda: place.trouble != [])
        assert "'notify.sh'" in place.trouble[0]
        assert "when told 'unhealthy'" in place.trouble[0]

    at(tmp_path, body)


def test_scripts_find_upstreams_variables() -> None:
    environ = script_environment(
        {"PATH": "/bin"}, base=Path("/etc/ctdb"), log_location="syslog", log_level=4, is_interactive=True
    )
    assert environ == {
        "PATH": "/bin",
        "CTDB_BASE": "/etc/ctdb",
        "CTDB_LOGGING": "syslog",
        "CTDB_DEBUGLEVEL": "NOTICE",
        "CTDBPY_PYTHON": sys.executable,
        "CTDB_INTERACTIVE": "true",
    }
    assert script_environment(
        {"CTDB_BASE": "/tmp/x"}, base=Path("/etc/ctdb"), log_location="", log_level=0, is_interactive=False
    ) == {
        "CTDB_BASE": "/tmp/x",
        "CTDB_LOGGING": "",
        "CTDB_DEBUGLEVEL": "ERROR",
        "CTDBPY_PYTHON": sys.executable,
    }


class Asker:
    """A client of the event socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: wire.Request, reqid: int = 7) -> wire.Reply:
        self.writer.write(wire.encode_request(reqid, request))
        head = await self.reader.readexactly(4)
        length = wire.peek_length(head)
        assert length is not None
        answered, reply = wire.decode_reply(head + await self.reader.readexactly(length - 4))
        assert answered == reqid
        return reply


def asked(base: Path, body: Callable[[Place, Asker], Awaitable[None]]) -> None:
    """Do something with a client of a runner's socket; `trouble` has what the socket logs too."""

    async def served(place: Place) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(base / "socket"))
        listener.listen()
        served = EventSocket(listener, place.runner, place.trouble.append)
        await served.start()
        reader, writer = await asyncio.open_unix_connection(str(base / "socket"))
        try:
            await body(place, Asker(reader, writer))
            served.stop()
            assert await reader.read() == b""
        finally:
            served.stop()
            writer.close()

    at(base, served)


def test_the_socket_runs_events_and_tells_how_they_ended(tmp_path: Path) -> None:
    script(tmp_path, "10.a.script", 'echo -n "$*"; [ $1 != bad ]')

    async def body(place: Place, asker: Asker) -> None:
        status = wire.StatusRequest("legacy", "fine")
        assert await asker.ask(status) == wire.Reply(wire.Command.STATUS, errno.EINVAL)
        run = wire.RunRequest("legacy", "fine", " a   b ", 30)
        assert await asker.ask(run) == wire.Reply(wire.Command.RUN, 0)
        reply = await asker.ask(status)
        assert reply.status is not None
        (told,) = reply.status.scripts
        assert (told.name, told.result, told.output) == ("10.a", 0, "fine a b")
        assert (await asker.ask(wire.RunRequest("legacy", "bad", None, 30))).result == errno.ENOEXEC
        assert (await asker.ask(wire.RunRequest("none", "bad", None, 30))).result == errno.ENOENT
        assert (await asker.ask(wire.StatusRequest("none", "bad"))).result == errno.ENOENT
        off = wire.ScriptRequest("legacy", "10.a", wire.ScriptAction.DISABLE)
        assert (await asker.ask(off)).result == 0
        assert (await asker.ask(wire.RunRequest("legacy", "bad", None, 30))).result == 0
        reply = await asker.ask(wire.StatusRequest("legacy", "bad"))
        assert reply.status is not None
        assert reply.status.scripts[0].result == -errno.ENOEXEC

    asked(tmp_path, body)


@pytest.mark.parametrize(
    "packet",
    [
        struct.pack("=IIII", 16, 0, 1, 9),
        struct.pack("=I", 3),
        struct.pack("=I", REQUEST_BYTES_MAX + 1),
        struct.pack("=IIIII", 20, 0, 1, 1, 1000),
    ],
)
def test_a_client_that_makes_no_sense_loses_its_connection(tmp_path: Path, packet: bytes) -> None:
    async def body(place: Place, asker: Asker) -> None:
        asker.writer.write(packet)
        assert await asker.reader.read() == b""
        assert "closed a connection" in place.trouble[0]

    asked(tmp_path, body)


def test_a_client_that_leaves_before_its_event_ends_harms_nothing(tmp_path: Path) -> None:
    begun, go_on = fifo(tmp_path / "begun"), fifo(tmp_path / "on")
    script(tmp_path, "10.a.script", f"echo >{begun}; cat {go_on}")

    async def body(place: Place, asker: Asker) -> None:
        asker.writer.write(wire.encode_request(1, wire.RunRequest("legacy", "slow", None, 30)))
        await asyncio.to_thread(begun.read_text)
        asker.writer.close()
        await asker.writer.wait_closed()
        await asyncio.to_thread(go_on.write_text, "")
        await place.until(lambda: isinstance(place.runner.last_run("legacy", "slow"), LastRun))

    asked(tmp_path, body)


# -- the daemon as a process -----------------------------------------------------------------------------


def test_the_daemon_runs_scripts_and_tells_the_administrator(make: Cluster) -> None:
    daemon = make()[0]
    calls = daemon.base / "calls"
    script(daemon.base, "10.a.script", f'echo "$CTDB_BASE $*" >>{calls}')
    script(daemon.base, "notify.sh", f'echo "notify $1" >>{calls}', directory=".")
    daemon.start()
    wait_until(lambda: "notify healthy" in calls.read_text(), "the node is healthy")
    assert daemon.end() == 0
    lines = calls.read_text().splitlines()
    own = [line.removeprefix(f"{daemon.base} ") for line in lines if not line.startswith("notify")]
    assert own[:5] == ["init", "setup", "startrecovery", "recovered", "startup"]
    assert own[-1] == "shutdown"
    assert {line for line in lines if line.startswith("notify")} == {
        "notify init",
        "notify setup",
        "notify startup",
        "notify healthy",
    }


def test_a_daemon_whose_scripts_refuse_it_ends(make: Cluster) -> None:
    daemon = make()[0]
    script(daemon.base, "00.db.script", "echo 'the database is corrupt'; exit 1")
    daemon.spawn()
    assert daemon.wait() == 1
    assert "cannot start: event 'init': 00.db failed with status 1: 'the database is corrupt'" in daemon.log()
    assert not daemon.pidfile.exists()


def test_other_nodes_wait_for_one_whose_init_event_lasts(make: Cluster) -> None:
    first, second = make(2)
    go_on = fifo(first.base / "on")
    script(first.base, "10.a.script", f"[ $1 != init ] || cat {go_on}")
    first.spawn()
    wait_until(first.socket.exists, "its socket is there")
    second.start()
    second.wait_log("runstate RUNNING")
    with first.connect() as connection:
        assert connection.ask(Control.GET_RUNSTATE) == RunState.INIT
    go_on.write_text("")
    for daemon in (first, second):
        daemon.wait_log("its link stands")
        daemon.wait_log("runstate RUNNING")
        assert "refused a connection" not in daemon.log()


def test_a_signal_ends_a_daemon_whose_init_event_hangs(make: Cluster) -> None:
    daemon = make()[0]
    begun = fifo(daemon.base / "begun")
    script(daemon.base, "10.a.script", f"[ $1 != init ] || {{ echo >{begun}; sleep 1000; }}")
    daemon.spawn()
    begun.read_text()
    assert daemon.end() == 0
