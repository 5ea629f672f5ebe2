# SPDX-License-Identifier: GPL-3.0-or-later
"""Event scripts: one event at a time in each directory of scripts, for the core or for the socket's clients.

What upstream's ctdb-eventd does, inside the daemon: nothing here waits for a script but tasks of its own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ctdbpy
from ctdbpy.config.loglevels import LOG_LEVELS
from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children
from ctdbpy.host.scripts import ScriptEnd, ScriptsRun, enable_script, list_scripts

#: The directory of scripts that ctdb's own events run.
COMPONENT: Final = "legacy"
MONITOR: Final = "monitor"

#: Of so many events a component's last results are kept; a tool can ask for events of any name.
RESULTS_MAX: Final = 100
#: An event asked for while so many wait is refused: the scripts do not keep up.
WAITING_MAX: Final = 1000
#: By event: the script that would do what the daemon has done already, and fail for that.
DONE_ALREADY: Final = {"takeip": "10.interface", "releaseip": "10.interface", "updateip": "10.interface"}
STACKS_LIMIT_S: Final = 5.0
DEBUG_LIMIT_S: Final = 60.0
NOTIFY_LIMIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """An event to run. `goes_on`: a script that fails does not keep the next from running."""

    event: str
    args: tuple[str, ...]
    timeout_s: float
    goes_on: bool = False
    component: str = COMPONENT


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: 0, ENOEXEC a script failed, ETIMEDOUT, ECANCELED, or why none could be run.

    ENOENT: there is no directory with scripts of this component.
    """

    status: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class LastRun:
    """What is known of an event's last run that was not cancelled; `summary` is the result that failed it."""

    summary: int
    scripts: tuple[ScriptEnd, ...]


class Run:
    """An event that waits or runs."""

    def __init__(self, order: Order, done: Callable[[Outcome], None]) -> None:
        self.order = order
        self.outcome: Outcome | None = None
        self.task: asyncio.Task[None] | None = None
        self._done = done

    def finish(self, outcome: Outcome) -> None:
        """It has ended, or will never begin."""
        self.outcome = outcome
        self._done(outcome)


class EventRunner:
    """All directories of scripts below `directory`, what runs in them, and how it ended last.

    log_script(line): takes what scripts print. log_trouble(line): takes what administrators should know.
    """

    def __init__(
        self,
        directory: Path,
        children: Children,
        *,
        environ: Mapping[str, str],
        debug_script: Path | None,
        notify_script: Path,
        log_script: Callable[[str], None],
        log_trouble: Callable[[str], None],
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._directory = directory
        self._children = children
        self._environ = environ
        self._debug_script = debug_script
        self._notify_script = notify_script
        self._log_script = log_script
        self._log_trouble = log_trouble
        self._spawn = spawn
        self._components: dict[str, _Component] = {}
        self._is_debugging = False
        self._options: Mapping[str, Mapping[str, str]] = {}

    def use_options(self, options: Mapping[str, Mapping[str, str]]) -> None:
        """Give each script of COMPONENT the variables under its name, and those under "all", from now on."""
        self._options = options

    # -- events ---------------------------------------------------------------------------

    def run(self, order: Order, done: Callable[[Outcome], None]) -> Run:
        """Run an event once those before it have ended; `done` is called with the outcome.

        A monitor event that runs is cancelled for any other; one that comes while another runs is refused.
        """
        run = Run(order, done)
        component = self._component(order.component)
        running = component.running
        if running is not None and running.order.event != MONITOR and order.event == MONITOR:
            run.finish(Outcome(errno.ECANCELED, f"event '{running.order.event}' is running"))
        elif len(component.waiting) >= WAITING_MAX:
            run.finish(Outcome(errno.EBUSY, f"{WAITING_MAX} events are waiting"))
        else:
            component.waiting.append(run)
            if running is not None and running.order.event == MONITOR:
                self._cancel(component, running, f"event '{order.event}' is to run")
            self._next(component)
        return run

    def stop(self, run: Run) -> None:
        """End an event's scripts, or do not begin them."""
        component = self._component(run.order.component)
        if component.running is run:
            self._cancel(component, run, "it was stopped")
            self._next(component)
        elif run in component.waiting:
            component.waiting.remove(run)
            run.finish(Outcome(errno.ECANCELED, "it was stopped"))

    def last_run(self, component: str, event: str) -> LastRun | int:
        """How an event ended when it last ran; ENOENT there are no scripts, EINVAL it has never run."""
        if not self._is_directory(component):
            return errno.ENOENT
        return self._component(component).results.get(event, errno.EINVAL)

    def enable(self, component: str, script: str, *, is_enabled: bool) -> int:
        """Let a script take part, or not any more: 0 or an errno."""
        if not self._is_directory(component):
            return errno.ENOENT
        try:
            enable_script(self._directory / component, script, is_enabled=is_enabled)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    # -- the administrator --------------------------------------------------------------------

    def notify(self, word: str) -> None:
        """Run notify.sh with a word about the node; nobody waits for it."""
        if self._notify_script.exists():
            self._spawn(f"notify {word}", self._notify(word))

    async def _notify(self, word: str) -> None:
        try:
            argv = [str(self._notify_script), word]
            exit_ = await self._children.run(argv, timeout_s=NOTIFY_LIMIT_S, environ=self._environ)
        except HostError as error:
            self._log_trouble(str(error))
            return
        if not exit_.is_success:
            said = exit_.output[-200:].decode(errors="replace").strip()
            self._log_trouble(f"{exit_} when told '{word}': {said!r}")

    # -- private --------------------------------------------------------------------------------

    def _component(self, name: str) -> _Component:
        component = self._components.get(name)
        if component is None:
            component = _Component()
            if self._is_directory(name):
                self._components[name] = component
        return component

    def _is_directory(self, component: str) -> bool:
        is_name = component not in ("", ".", "..") and "/" not in component
        return is_name and (self._directory / component).is_dir()

    def _next(self, component: _Component) -> None:
        if component.running is None and component.waiting:
            run = component.running = component.waiting.popleft()
            run.task = self._spawn(f"event {run.order.event}", self._serve(component, run))

    def _cancel(self, component: _Component, run: Run, reason: str) -> None:
        assert run.task is not None
        run.task.cancel()
        component.running = None
        run.finish(Outcome(errno.ECANCELED, f"event '{run.order.event}' was cancelled: {reason}"))

    async def _serve(self, component: _Component, run: Run) -> None:
        order = run.order
        options = self._options if order.component == COMPONENT else {}
        scripts_run = ScriptsRun(self._children, self._environ, options)
        try:
            # In a thread: the directory may lie on a disk that takes its time.
            scripts = await asyncio.to_thread(list_scripts, self._directory / order.component)
            done_already = DONE_ALREADY.get(order.event) if order.component == COMPONENT else None
            scripts = tuple(script for script in scripts if script.name != done_already)
            summary = await scripts_run.run(
                scripts, (order.event, *order.args), timeout_s=order.timeout_s, goes_on=order.goes_on
            )
        except OSError as error:
            outcome = Outcome(error.errno or errno.EIO, f"cannot read the event scripts: {error}")
        else:
            component.keep(order.event, LastRun(summary, tuple(scripts_run.ends)))
            outcome = _outcome(order, summary, scripts_run.ends)
        finally:
            for child in scripts_run.hung:
                self._spawn(f"end hung event {order.event}", self._end_hung(order.event, child))
            for end in scripts_run.ends:
                self._log_output(end)
        component.running = None
        run.finish(outcome)
        self._next(component)

    def _log_output(self, end: ScriptEnd) -> None:
        for line in end.output.decode(errors="replace").splitlines():
            self._log_script(f"{end.name}: {line}")

    async def _end_hung(self, event: str, child: Child) -> None:
        """Keep what can be seen of a script that hangs, then end it with all it started."""
        name = os.path.basename(child.argv[0])
        try:
            await self._log_program(f"stack of {name}", [*_STACKS, str(child.pid)], STACKS_LIMIT_S)
            if self._debug_script is not None and child.is_running and not self._is_debugging:
                self._is_debugging = True
                try:
                    argv = [str(self._debug_script), str(child.pid), event]
                    await self._log_program("event_debug", argv, DEBUG_LIMIT_S)
                finally:
                    self._is_debugging = False
            await child.end()
        except HostError as error:
            self._log_trouble(str(error))

    async def _log_program(self, what: str, argv: list[str], limit_s: float) -> None:
        try:
            exit_ = await self._children.run(argv, timeout_s=limit_s, environ=self._environ)
        except HostError as error:
            self._log_trouble(str(error))
            return
        for line in exit_.output.decode(errors="replace").splitlines():
            self._log_trouble(f"{what}: {line}")
        if not exit_.is_success:
            self._log_trouble(f"{what}: {exit_}")


def script_environment(
    environ: Mapping[str, str], *, base: Path, log_location: str, log_level: int, is_interactive: bool
) -> dict[str, str]:
    """What scripts find in their environment, upstream's variables among it."""
    names = {level: name for name, level in LOG_LEVELS.items()}
    level = max(level for level in names if level <= log_level)
    own = {
        "CTDB_LOGGING": log_location,
        "CTDB_DEBUGLEVEL": names[level],
        # With this interpreter scripts reach the daemon's own package (`ctdbpy.services`).
        "CTDBPY_PYTHON": sys.executable,
    }
    if is_interactive:
        own["CTDB_INTERACTIVE"] = "true"
    return {"CTDB_BASE": str(base), **environ, **own}


class _Component:
    """One directory of scripts."""

    def __init__(self) -> None:
        self.running: Run | None = None
        self.waiting: deque[Run] = deque()
        self.results: dict[str, LastRun] = {}

    def keep(self, event: str, last: LastRun) -> None:
        self.results.pop(event, None)
        self.results[event] = last
        if len(self.results) > RESULTS_MAX:
            del self.results[next(iter(self.results))]


def _outcome(order: Order, summary: int, ends: list[ScriptEnd]) -> Outcome:
    if summary == 0:
        return Outcome(0)
    failed = [end for end in ends if end.has_failed]
    text = f"event '{order.event}': " + "; ".join(str(end) for end in failed)
    return Outcome(errno.ETIMEDOUT if summary == -errno.ETIMEDOUT else errno.ENOEXEC, text)


# The package is found where this one is, whatever the scripts' environment says.
_STACKS: Final = [sys.executable, "-P", str(Path(ctdbpy.__file__).parent / "host" / "stacks.py")]
