# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and end of the daemon: files, locks, sockets, priority, then the loop.

Everything that can be wrong is found before clients are let in, and said in one line that
tells what to do. Exit codes: 0 asked to end, 1 cannot start, 2 usage, 10 socket taken, 11 pid
file taken (both as upstream's), 70 a defect of ours, 75 databases did not freeze when the right to serve was
lost. The unit starts it again after all of them but 0 and 2.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import ctdbpy
from ctdbpy.config.configuration import Configuration, load
from ctdbpy.config.paths import Paths
from ctdbpy.core import effects, inputs
from ctdbpy.core.node import Node
from ctdbpy.core.state import FoundDatabase, NodeConfig, Quorum
from ctdbpy.daemon.addresses import Addresses, AddressHelper, PretendedAddresses
from ctdbpy.daemon.cluster_lock import ClusterLocks
from ctdbpy.daemon.configuring import (
    ConfigurationFiles,
    core_nodes,
    core_public,
    offer_script_options,
    script_options,
)
from ctdbpy.daemon.event_socket import EventSocket
from ctdbpy.daemon.events import EventRunner, script_environment
from ctdbpy.daemon.fences import Fences
from ctdbpy.daemon.guard import Guard
from ctdbpy.daemon.locks import LockWaiters
from ctdbpy.daemon.poller import Poller
from ctdbpy.daemon.pump import Pump
from ctdbpy.daemon.records import FileLayout, LocalRecords
from ctdbpy.daemon.selector import EngineSelector
from ctdbpy.daemon.tasks import Tasks
from ctdbpy.daemon.workers import Workers
from ctdbpy.errors import ConfigError, HostError, StoreError
from ctdbpy.host.children import Children
from ctdbpy.host.directories import RUN_MODE, ensure_directories
from ctdbpy.host.logs import NOTICE, Logs, python_level
from ctdbpy.host.notify import Notifier
from ctdbpy.host.pidfile import PidFile
from ctdbpy.host.realtime import lock_memory, raise_priority
from ctdbpy.host.scripts import list_scripts
from ctdbpy.host.unix_socket import ListeningSocket
from ctdbpy.net.datagrams import bind_datagrams
from ctdbpy.net.links import Links, listen_as_one_of
from ctdbpy.store.databases import Health, persistent_files
from ctdbpy.wire.constants import INVALID_GENERATION, Capability

log = logging.getLogger("ctdbpy.daemon")

EXIT_CANNOT_START: Final = 1
EXIT_SOCKET: Final = 10
EXIT_PIDFILE: Final = 11
EXIT_DEFECT: Final = 70

#: Some systems' limit is without bounds; no node has so many clients.
FILES_MAX: Final = 1 << 18

#: What the daemon says it is to other nodes: C daemons of another minor version end themselves on hearing it.
SAMBA_VERSION: Final = (4, 17)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="ctdbpyd",
        description="The daemon of a ctdbpy node. "
        "Without arguments it runs in the foreground, on /etc/ctdbpy/cluster.yaml or the files in /etc/ctdb.",
        epilog="Files: /etc/ctdbpy/cluster.yaml, if it is there; else "
        "/etc/ctdb/{ctdb.conf,nodes,public_addresses,ctdb.tunables}. See ctdbpyd(8).",
    )
    parser.add_argument(
        "-i", "--interactive", action="store_true", help="log to stderr instead of the log location"
    )
    parser.add_argument("--version", action="version", version=f"ctdbpyd {ctdbpy.__version__}")
    options = parser.parse_args(argv)
    try:
        base = Paths.from_environment(os.environ)
        configuration = load(base)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CANNOT_START
    with ExitStack() as stack:
        try:
            logs = Logs.open(
                configuration.settings.log_location,
                configuration.settings.log_level,
                form=configuration.settings.log_format,
                is_interactive=options.interactive,
            )
        except HostError as error:
            sys.stderr.write(f"{error}\n")
            return EXIT_CANNOT_START
        stack.callback(logs.close)
        if logs.note:
            log.warning("%s", logs.note)
        return _run(base, configuration, logs, stack, is_interactive=options.interactive)


def _run(
    base: Paths, configuration: Configuration, logs: Logs, stack: ExitStack, *, is_interactive: bool
) -> int:
    """`base`: the paths as they are without settings."""
    paths = configuration.paths
    code = EXIT_CANNOT_START
    try:
        log.info("ctdbpyd %s starting as process %d", ctdbpy.__version__, os.getpid())
        for line in configuration.warnings:
            log.warning("%s", line)
        for line in (*ensure_directories((paths.run,), RUN_MODE), *ensure_directories(paths.databases)):
            log.info("%s", line)
        code = EXIT_PIDFILE
        pidfile = PidFile.acquire(paths.pidfile)
        stack.callback(pidfile.release)
        try:
            offer_script_options(base, configuration)
        except OSError as error:
            raise HostError(f"cannot write '{base.cluster_options}': {error.strerror}") from error
        code = EXIT_SOCKET
        listening = ListeningSocket.listen(paths.socket)
        stack.callback(listening.close)
        event_listening = ListeningSocket.listen(paths.event_socket)
        stack.callback(event_listening.close)
        code = EXIT_CANNOT_START
        for note in (pidfile.note, listening.note, event_listening.note):
            if note:
                log.log(NOTICE, "%s", note)
        _raise_file_limit()
        if configuration.settings.realtime_scheduling and not paths.test_mode:
            for outcome in (lock_memory(), raise_priority()):
                log.log(NOTICE if outcome.done else logging.WARNING, "%s", outcome.text)
        addresses = {node.pnn: node.address for node in configuration.nodes if not node.deleted}
        pnn, node_listener = listen_as_one_of(
            addresses, configuration.port, configuration.settings.node_address
        )
        stack.callback(node_listener.close)
    except (HostError, StoreError) as error:
        log.error("%s", error)
        sys.stderr.write(f"{error}\n")
        return code
    start = _Start(base, configuration, logs, pnn, is_interactive)
    sockets = _Sockets(listening, event_listening, node_listener)
    layout = FileLayout(
        volatile=paths.volatile,
        persistent=paths.persistent,
        hash_size=configuration.tunables.get("DatabaseHashSize"),
        max_dead=configuration.tunables.get("DatabaseMaxDead"),
        mutexes=configuration.settings.tdb_mutexes,
    )
    records = LocalRecords(pnn, layout)
    poller = Poller(records)
    records.set_spin = poller.set_spin
    stack.callback(poller.close)
    selector = EngineSelector(poller)
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            ended = runner.run(start.serve(records, poller, selector, sockets))
    except (HostError, StoreError) as error:
        log.error("%s", error)
        sys.stderr.write(f"{error}\n")
        return EXIT_CANNOT_START
    except Exception as error:
        # The loop's own callbacks report to `on_crash`; this is what went wrong around them.
        log.critical("defect", exc_info=error)
        return EXIT_DEFECT
    log.log(NOTICE if ended.code == 0 else logging.ERROR, "ctdbpyd ends: %s", ended.reason)
    return ended.code


@dataclass(frozen=True, slots=True)
class _Sockets:
    """Where programs, those who ask for events, and other nodes connect."""

    clients: ListeningSocket
    events: ListeningSocket
    nodes: socket.socket


@dataclass(frozen=True, slots=True)
class _Start:
    base: Paths
    configuration: Configuration
    logs: Logs
    pnn: int
    is_interactive: bool

    async def serve(
        self,
        records: LocalRecords,
        poller: Poller,
        selector: EngineSelector,
        sockets: _Sockets,
    ) -> effects.Exit:
        """Build the node and its pump, and run until the core or a signal ends it."""
        configuration, paths = self.configuration, self.configuration.paths
        loop = asyncio.get_running_loop()
        crashed: asyncio.Future[effects.Exit] = loop.create_future()

        def on_crash(name: str, error: BaseException) -> None:
            log.critical("defect in task '%s'", name, exc_info=error)
            if not crashed.done():
                crashed.set_result(effects.Exit(EXIT_DEFECT, f"task '{name}' failed: {error}"))

        def on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
            error = context.get("exception")
            on_crash(
                str(context.get("message")),
                error if isinstance(error, BaseException) else RuntimeError(str(context)),
            )

        version = _version(paths, os.environ)
        notifier = Notifier.take(os.environ)
        loop.set_exception_handler(on_loop_error)
        tasks = Tasks(on_crash)
        datagrams = await bind_datagrams(configuration.nodes[self.pnn].address, configuration.port)
        children = Children()
        health = Health(paths.state, self.pnn)
        node = Node(self._node_config(health, loop.time()), records)
        self.logs.use_incident(lambda: _incident(node))
        pump: Pump
        workers = Workers(
            records,
            children,
            lambda happened: pump.step(happened),
            log.warning,
            pnn=self.pnn,
            backlog=poller.backlog,
            await_drained=poller.await_drained,
        )
        guard = Guard(
            self.pnn,
            configuration.port,
            datagrams,
            poller,
            children,
            lambda happened: pump.step(happened),
            realtime=configuration.settings.realtime_scheduling and not paths.test_mode,
        )
        records.on_tunables.append(guard.set_limits)
        addresses = self._addresses(children, guard, lambda happened: pump.step(happened))
        guard.on_lease.append(addresses.want_lease)
        waiters = LockWaiters(records, children, log.warning)
        records.on_detach += [workers.forget, waiters.forget]
        cluster_locks = ClusterLocks(
            configuration.settings.lock or "",
            children,
            lambda happened: pump.step(happened),
            log.warning,
            tasks.spawn,
        )
        records.on_tunables.append(cluster_locks.set_limits)
        fences = Fences(
            configuration.settings.fence_command or "",
            float(configuration.settings.fence_timeout_s),
            children,
            lambda happened: pump.step(happened),
            tasks.spawn,
            may_serve=lambda: poller.has_lease,
        )
        links = Links(
            sockets.nodes,
            configuration.nodes[self.pnn].address,
            configuration.port,
            on_connection=poller.add_link,
            on_up=lambda pnn: pump.step(inputs.LinkUp(pnn)),
            on_down=lambda pnn, reason: pump.step(inputs.LinkDown(pnn, reason)),
            close=records.close_link,
            log=log.warning,
            spawn=tasks.spawn,
        )
        events = self._events(children, tasks)
        event_socket = EventSocket(sockets.events.socket, events, log.warning)
        await event_socket.start()
        pump = Pump(
            node,
            records,
            poller,
            listener=sockets.clients.socket,
            links=links,
            workers=workers,
            waiters=waiters,
            cluster_locks=cluster_locks,
            fences=fences,
            guard=guard,
            addresses=addresses,
            health=health,
            events=events,
            notifier=notifier,
            files=ConfigurationFiles(self.base, configuration, self.pnn, events.use_options),
            set_log_level=self.logs.set_level,
            version=version[0] << 16 | version[1],
            spawn=tasks.spawn,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, pump.step, inputs.ShutdownAsked(f"signal {number.name}"))
        loop.add_signal_handler(signal.SIGHUP, lambda: log.info("%s", self.logs.reopen()))
        pump.start(selector.upcalls_fd)
        if notifier.watchdog_s is not None:
            _keep_alive(notifier, notifier.watchdog_s / 2)
        done, _ = await asyncio.wait((pump.exit, crashed), return_when=asyncio.FIRST_COMPLETED)
        notifier.stopping("ending")
        pump.stop_serving()
        event_socket.stop()
        tasks.cancel_all()
        for error in await children.end_all(grace_s=0.5):
            log.warning("%s", error)
        datagrams.close()
        health.close()
        return done.pop().result()

    def _addresses(
        self, children: Children, guard: Guard, on_input: Callable[[inputs.Input], None]
    ) -> Addresses:
        configuration = self.configuration
        if configuration.paths.test_mode:
            names = (name for each in configuration.public_addresses for name in each.interfaces)
            return PretendedAddresses(names, on_input)
        return AddressHelper(
            children,
            (guard.memory_fd, guard.wake_fd),
            on_input,
            realtime=configuration.settings.realtime_scheduling,
        )

    def _events(self, children: Children, tasks: Tasks) -> EventRunner:
        paths, settings = self.configuration.paths, self.configuration.settings
        script_level = python_level(settings.script_log_level)
        runner = EventRunner(
            paths.event_scripts.parent,
            children,
            environ=script_environment(
                os.environ,
                base=paths.etc,
                log_location="file:" if self.is_interactive else settings.log_location,
                log_level=settings.log_level,
                is_interactive=self.is_interactive,
            ),
            debug_script=settings.event_debug_script,
            notify_script=paths.notify_script,
            log_script=lambda line: log.log(script_level, "%s", line),
            log_trouble=log.error,
            spawn=tasks.spawn,
        )
        runner.use_options(script_options(self.configuration.script_options or ()))
        return runner

    def _node_config(self, health: Health, now_s: float) -> NodeConfig:
        configuration = self.configuration
        settings = configuration.settings
        capabilities = Capability.DEFAULT
        if not settings.leader_capability:
            capabilities &= ~Capability.RECMASTER
        if not settings.lmaster_capability:
            capabilities &= ~Capability.LMASTER
        return NodeConfig(
            pnn=self.pnn,
            nodes=core_nodes(configuration.nodes),
            tunables=configuration.tunables,
            capabilities=capabilities,
            stopped=settings.start_as_stopped,
            disabled=settings.start_as_disabled,
            cluster_lock=settings.lock or "",
            quorum=Quorum(configuration.quorum.value),
            leader_timeout_s=float(settings.leader_timeout_s),
            fences=settings.fence_command is not None,
            databases=tuple(
                FoundDatabase(name, health.reason(name) or "")
                for name in persistent_files(configuration.paths.persistent, self.pnn)
            ),
            public_addresses=core_public(configuration.public_addresses),
            moves_addresses=not settings.failover_disabled,
            puts_addresses=settings.puts_addresses,
            scripts_first=_scripts_first(settings.scripts_first, configuration.paths),
            shutdown_wait_s=float(settings.shutdown_failover_timeout_s),
            wall_offset_s=time.time() - now_s,
            pid=os.getpid(),
            version=_version(configuration.paths, os.environ),
            mutexes=settings.tdb_mutexes,
            log_level=settings.log_level,
        )


def _keep_alive(notifier: Notifier, interval_s: float) -> None:
    """Tell the service manager that the loop turns, as long as it does."""
    notifier.alive()
    asyncio.get_running_loop().call_later(interval_s, _keep_alive, notifier, interval_s)


def _incident(node: Node) -> str | None:
    """What lines belong together on all nodes: the last recovery that began, by the generation it brought."""
    generation = node.state.last_generation
    return None if generation == INVALID_GENERATION else f"{generation:08x}"


def _raise_file_limit() -> None:
    """Take as many descriptors as the service allows: each Samba process holds one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES_MAX), hard))


def _version(paths: Paths, environ: Mapping[str, str]) -> tuple[int, int]:
    """The version told to other nodes; in test mode CTDB_TEST_SAMBA_VERSION, as upstream's tests set it."""
    wanted = environ.get("CTDB_TEST_SAMBA_VERSION", "")
    if paths.test_mode and wanted.isdecimal() and 0 < int(wanted) <= 0xFFFFFFFF:
        return int(wanted) >> 16, int(wanted) & 0xFFFF
    return SAMBA_VERSION


def _scripts_first(wanted: bool | None, paths: Paths) -> bool:
    """If nothing is set: NFS locks are reclaimed in a grace period that scripts begin."""
    if wanted is not None:
        return wanted
    try:
        scripts = list_scripts(paths.event_scripts)
    except OSError:
        return False
    return any(script.is_enabled and "nfs" in script.name for script in scripts)
