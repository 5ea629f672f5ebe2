# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` that upstream's program has other programs do: event scripts, NAT gateway, LVS.

Events are done here; the other two are run, if their programs are installed.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Final

from ctdbpy.cli.ctdb.tool import Failed, Tool, leading_number, warn
from ctdbpy.cli.service_programs import path_of
from ctdbpy.client import event_socket
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError
from ctdbpy.wire.events import RUN_ALL, EventStatus, RunRequest, ScriptStatus, StatusRequest

_ENDED_BY_HAND: Final = 64
_NO_STATUS: Final = 255

_USAGE: Final = (
    ("run", "<timeout> <component> <event> <args>", "run an event's scripts"),
    ("status", "<component> <event>", "print how they ended"),
    ("script list", "<component>", "print the scripts"),
    ("script enable", "<component> <script>", "enable a script"),
    ("script disable", "<component> <script>", "disable a script"),
)


def do_natgw(_tool: Tool, what: str) -> int:
    return _run_helper("NAT gateway helper", path_of("ctdb_natgw"), what)


def do_lvs(_tool: Tool, what: str) -> int:
    return _run_helper("LVS helper", path_of("ctdb_lvs"), what)


def _run_helper(name: str, path: str, *arguments: str) -> int:
    try:
        status = subprocess.run([path, *arguments], check=False).returncode
    except OSError as error:
        status = _ENDED_BY_HAND + (error.errno or errno.ENOEXEC)
    if status < 0:
        raise Failed(errno.EINTR, f"{name} terminated with signal {-status}")
    if _ENDED_BY_HAND <= status < _NO_STATUS:
        raise Failed(status - _ENDED_BY_HAND, f"{name} failed with error {status - _ENDED_BY_HAND}")
    return status


# -- events -----------------------------------------------------------------------------------------


def do_event(_tool: Tool, *words: str) -> int:
    helper = os.environ.get("CTDB_EVENT_HELPER")
    if helper:
        return _run_helper("event daemon helper", helper, *words)
    paths = Paths.from_environment(os.environ)
    match words:
        case ["run", timeout, component, event, *arguments]:
            return _run(paths, leading_number(timeout), component, event, " ".join(arguments))
        case ["status", component, event]:
            return _status(paths, component, event)
        case ["script", "list", component]:
            return _list(paths, component)
        case ["script", "enable", component, script]:
            return _enable(paths, component, script)
        case ["script", "disable", component, script]:
            return _disable(paths, component, script)
    print("Usage: ctdb event COMMAND\n\nCommands:")
    for command, arguments_text, text in _USAGE:
        print(f"  {command:<15} {arguments_text:<38}  {text}")
    return 1


def do_scriptstatus(_tool: Tool, event: str = "monitor") -> int:
    do_event(_tool, "status", "legacy", event)
    return 0


def _run(paths: Paths, timeout_s: int, component: str, event: str, arguments: str) -> int:
    run_all = "CTDB_TEST_MODE" in os.environ and "CTDB_EVENT_RUN_ALL" in os.environ
    request = RunRequest(component, event, arguments or None, max(0, timeout_s), RUN_ALL if run_all else 0)
    try:
        result = event_socket.ask(paths.event_socket, request, timeout_s=None).result
    except ClientError as error:
        warn(f"ctdb: {error}")
        return 1
    said = {
        errno.ENOENT: f"Event dir for {component} does not exist",
        errno.ETIMEDOUT: f"Event {event} in {component} timed out",
        errno.ECANCELED: f"Event {event} in {component} got cancelled",
        errno.ENOEXEC: f"Event {event} in {component} failed",
    }
    if result:
        print(said.get(result, f"Failed to run event {event} in {component}, result={result}"))
    return abs(result)


def _status(paths: Paths, component: str, event: str) -> int:
    request = StatusRequest(component, event)
    try:
        reply = event_socket.ask(paths.event_socket, request, timeout_s=30.0)
    except ClientError as error:
        warn(f"ctdb: {error}")
        return 1
    if reply.result or reply.status is None:
        said = {
            errno.ENOENT: f"Event dir for {component} does not exist",
            errno.EINVAL: f"Event {event} has never run in {component}",
        }
        unknown = f"Unknown error ({reply.result}) for event {event} in {component}"
        print(said.get(reply.result, unknown))
        return abs(reply.result)
    return _print_status(reply.status)


def _print_status(status: EventStatus) -> int:
    for script in status.scripts:
        print(_script_line(script))
        if script.result not in (0, -errno.ENOEXEC):
            print(f"  OUTPUT: {script.output or ''}")
    return abs(status.summary)


def _script_line(script: ScriptStatus) -> str:
    begin = time.ctime(script.begin.sec)
    took_s = script.end.time_s - script.begin.time_s
    match script.result:
        case 0:
            return f"{script.name:<20} {'OK':<10} {took_s:.3f} {begin}"
        case result if result == -errno.ETIMEDOUT:
            return f"{script.name:<20} {'TIMEDOUT':<10} {begin}"
        case result if result == -errno.ENOEXEC:
            return f"{script.name:<20} {'DISABLED':<10}"
        case result if result < 0:
            return f"{script.name:<20} {'CANNOT RUN':<10} ({os.strerror(-result)})"
        case _:
            return f"{script.name:<20} {'ERROR':<10} {took_s:.3f} {begin}"


def _list(paths: Paths, component: str) -> int:
    # Only here: what runs scripts brings an event loop along.
    from ctdbpy.host.scripts import Script, list_scripts

    provided_in = paths.data / "events" / component
    if not provided_in.exists():
        return errno.ENOENT
    provided_in = provided_in.resolve()
    try:
        provided = list_scripts(provided_in)
    except OSError:
        provided = ()
    try:
        enabled = list_scripts(paths.etc / "events" / component)
    except OSError as error:
        return error.errno or 1

    def is_link_to(link: Script, script: Script) -> bool:
        return link.path.is_symlink() and os.readlink(link.path) == str(script.path)

    own = {link.name: link for link in enabled}
    for script in provided:
        link = own.get(script.name)
        is_enabled = link is not None and is_link_to(link, script)
        if is_enabled:
            del own[script.name]
        print(f"{'*' if is_enabled else ' '} {script.name}")
    if provided and own:
        print()
    for link in own.values():
        print(f"{'*' if link.is_enabled else ' '} {link.name}")
    return 0


def _enable(paths: Paths, component: str, name: str) -> int:
    script = _script(paths.etc, component, name)
    mode = _mode(script)
    if mode is None:
        provided = _script(paths.data, component, name)
        if not provided.exists():
            print(f"Script {name} does not exist in {component}")
            return errno.ENOENT
        try:
            script.symlink_to(provided.resolve())
        except OSError:
            print(f"Failed to create symlink {script}")
            return errno.EIO
        return 0
    if stat.S_ISLNK(mode):
        return 0
    return _make_executable(paths, component, name, script, mode, is_enabled=True)


def _disable(paths: Paths, component: str, name: str) -> int:
    script = _script(paths.etc, component, name)
    mode = _mode(script)
    if mode is None:
        return 0
    if not stat.S_ISLNK(mode):
        return _make_executable(paths, component, name, script, mode, is_enabled=False)
    try:
        script.unlink()
    except OSError:
        print(f"Failed to remove symlink {script}")
        return errno.EIO
    return 0


def _make_executable(
    paths: Paths, component: str, name: str, script: Path, mode: int, *, is_enabled: bool
) -> int:
    from ctdbpy.host.scripts import enable_script

    if not stat.S_ISREG(mode):
        print(f"Script {script} is not a file or a link")
        return errno.EINVAL
    try:
        enable_script(paths.etc / "events" / component, name, is_enabled=is_enabled)
    except OSError as error:
        if error.errno == errno.EINVAL:
            print(f"Script {name} is invalid in {component}")
        elif error.errno == errno.ENOENT:
            print(f"Script {name} does not exist in {component}")
        return error.errno or 1
    return 0


def _script(root: Path, component: str, name: str) -> Path:
    return root / "events" / component / f"{name}.script"


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except OSError:
        return None
