# SPDX-License-Identifier: GPL-3.0-or-later
"""The events of 70.iscsi. The keeper acts on addresses by itself; scripts see that it runs, and ask it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctdbpy.errors import ConfigError, ServiceError
from ctdbpy.services import addresses, directories
from ctdbpy.services.event import Event
from ctdbpy.services.iscsi import health, orders
from ctdbpy.services.iscsi.stgt import PORT

if TYPE_CHECKING:
    from ctdbpy.services.iscsi.declaration import Declaration, Target

DEFAULT_FILE: Final = "iscsi.yaml"
_UPSTREAM: Final = "CTDB_START_ISCSI_SCRIPTS"
#: A tgtd that fails so often in a row will not get better by itself.
FAILURES_MAX: Final = 3
#: A load ends the tgtds of all addresses that changed, one after the other.
LOAD_LIMIT_S: Final = 20.0
_UNKNOWN: Final = {"phase": "unknown", "standing": False}


def run(event: Event) -> None:
    """Do what an event asks; a node without targets has nothing to do. Raises ServiceError or ConfigError."""
    handler = {
        "startup": _startup,
        "monitor": _monitor,
        "takeip": _take,
        "updateip": _take,
        "releaseip": _release,
        "ipreallocated": _reallocated,
        "shutdown": _shutdown,
    }.get(event.name)
    if handler is not None:
        handler(event)


def _startup(event: Event) -> None:
    directory = _directory(event)
    _end_everything(directory)
    declaration = _load(event)
    if declaration is None:
        (directory / "declared.json").unlink(missing_ok=True)
        return
    _check_programs()
    _declare(event, declaration)
    orders.ensure(directory)


def _take(event: Event) -> None:
    directory = _directory(event)
    if orders.noted(directory):
        orders.ensure(directory)
        orders.ask(directory, f"take {_address(event)}")


def _release(event: Event) -> None:
    """When it is done, nothing here can write to the address's LUNs any more; else the event fails."""
    address = _address(event)
    directory = _directory(event)
    note = orders.notes(directory).get(address)
    if note is None:
        return
    if orders.holder(directory / "keeper"):
        try:
            orders.ask(directory, f"release {address}")
        except ServiceError as error:
            event.warnings.append(str(error))
            # It protects nothing any more, and the next addresses that go shall not have to wait for it, too.
            orders.kill(directory / "keeper", "the keeper of iSCSI")
    orders.kill(note, f"the tgtd of '{address}'")


def _reallocated(event: Event) -> None:
    """What has changed in the file counts from here on, at the addresses that it changed.

    A file that is wrong makes no takeover run fail: what was served before it was changed is served on.
    """
    directory = _directory(event)
    try:
        declaration = _load(event)
        if declaration is not None:
            _declare(event, declaration)
        elif orders.noted(directory):
            _end_everything(directory)
            (directory / "declared.json").unlink()
    except (ConfigError, ServiceError) as error:
        event.warnings.append(str(error))
    if orders.noted(directory) and not orders.ensure(directory):
        orders.ask(directory, "load", timeout_s=LOAD_LIMIT_S)


def _shutdown(event: Event) -> None:
    _end_everything(_directory(event))


def _directory(event: Event) -> Path:
    """Where the keeper has its files: a tgtd that outlives the daemon has to be found by the next one."""
    return event.state / "lasting" / "iscsi"


def _end_everything(directory: Path) -> None:
    """End the keeper with all its tgtds, and what an earlier one has left."""
    orders.kill(directory / "keeper", "the keeper of iSCSI")
    for address, note in orders.notes(directory).items():
        orders.kill(note, f"the tgtd of '{address}'")


def _address(event: Event) -> str:
    """The address that an event of one address is about; its mask comes last."""
    if len(event.arguments) < 3:
        raise ServiceError(f"cannot do '{event.name}': it needs an interface, an address and its mask bits")
    return event.arguments[-2]


# -- monitor ------------------------------------------------------------------------------------------------


def _monitor(event: Event) -> None:
    directory = _directory(event)
    noted = orders.noted(directory)
    limit_s = _limit_s(event)
    try:
        declaration = _load(event)
    except (ConfigError, ServiceError) as error:
        if not noted:
            raise
        event.warnings.append(f"{error}; until it is mended, what was served before is served")
    else:
        if noted and (declaration is None or noted != declaration.to_json()):
            event.warnings.append("the iSCSI targets have changed: 'ctdb ipreallocate' makes it count")
    if not noted:
        return  # It begins with startup, or with the next change of addresses.
    served = _noted(noted)
    files = _files(served)
    _check_directories(event, directory, files)
    for file in files:
        if not os.path.isfile(file):
            raise ServiceError(
                f"cannot serve LUN '{file}': there is no such file here; is its file system mounted?"
            )
    if orders.ensure(directory):
        event.warnings.append("the keeper of iSCSI had ended: it was started anew")
    posts = _posts(directory, limit_s)
    for address, targets in served.by_address().items():
        post = posts.get(address, _UNKNOWN)
        try:
            _check_post(event, address, targets, post, limit_s)
        except ServiceError:
            # An address that has moved meanwhile is another node's. One that is here still may look better
            # for a moment, while what has failed is tried again.
            again = _posts(directory, limit_s).get(address, _UNKNOWN)
            if again["standing"] or again == post:
                raise


def _posts(directory: Path, limit_s: float) -> dict[str, Any]:
    """How each address is; a keeper that does not say so is ended, and with it all that it does not watch."""
    try:
        return orders.ask(directory, "status", timeout_s=limit_s)
    except ServiceError:
        orders.kill(directory / "keeper", "the keeper of iSCSI")
        raise


def _check_post(
    event: Event, address: str, targets: tuple[Target, ...], post: dict[str, Any], limit_s: float
) -> None:
    match post["phase"]:
        case "failed":
            raise ServiceError(post["reason"])
        case "waiting":
            # Another node would wait as long: to move the address helps nobody.
            event.warnings.append(post["reason"])
        case "idle" | "unknown" if post["standing"]:
            raise ServiceError(
                f"cannot serve '{address}': it is here, but was given up; 'ctdb ipreallocate' takes it"
            )
        case "serving":
            if post["failures"] >= FAILURES_MAX:
                raise ServiceError(
                    f"cannot serve '{address}' without a break: its tgtd failed {post['failures']} times"
                )
            health.discover(address, PORT, timeout_s=limit_s)
            for file in (lun.file for target in targets for lun in target.luns):
                _check_lock(address, file, post["pid"])


def _check_lock(address: str, file: str, pid: int) -> None:
    """Some file systems give other numbers than the process's own, below 0: then any lock counts."""
    holder = orders.holder(Path(file))
    if holder == 0 or (holder > 0 and holder != pid):
        raise ServiceError(
            f"cannot go on serving '{address}': its tgtd (process {pid}) has lost the lock on '{file}'; "
            "the file was replaced, or its file system has given up this node"
        )


# -- what there is to serve ---------------------------------------------------------------------------------


def _load(event: Event) -> Declaration | None:
    """The targets at addresses that this node may have; None if there is no file, and none was promised.

    Raises ConfigError when the file is wrong, ServiceError when it cannot be reached.
    """
    # It takes a twentieth of a second to be there, which addresses that move need not wait for.
    from ctdbpy.services.iscsi.declaration import Declaration, load

    given = event.text("CTDB_ISCSI_TARGETS")
    path = Path(given) if given else event.base / DEFAULT_FILE
    if given:
        # It may be on the cluster file system, which may hang.
        _check_directories(event, _directory(event), [given])
    declaration = load(path)
    if declaration is None and given:
        raise event.misuse("CTDB_ISCSI_TARGETS", "there is no such file")
    if declaration is None:
        if event.text(_UPSTREAM):
            raise event.misuse(
                _UPSTREAM,
                f"no scripts are run; declare the targets in '{path}' (docs/iscsi.md), remove the option",
            )
        return None
    known = addresses.public(event)
    targets = tuple(target for target in declaration.targets if target.address in known)
    if declaration.targets and not targets:
        raise ConfigError(
            f"cannot use '{path}': none of its addresses is in '{event.base}/public_addresses'; "
            "targets are served at public addresses alone"
        )
    return Declaration(targets)


def _declare(event: Event, declaration: Declaration) -> None:
    """Note what is to be served, for the keeper and for later events; say which disks may find no room."""
    directory = _directory(event)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = declaration.to_json()
    if orders.noted(directory) == text:
        return
    orders.declare(directory, text)
    _check_directories(event, directory, _files(declaration))
    for lun in (lun for target in declaration.targets for lun in target.luns):
        try:
            status = os.stat(lun.file)
        except OSError:
            continue  # Whoever is to serve it says so.
        if not lun.sparse and status.st_blocks * 512 < status.st_size:
            event.warnings.append(
                f"LUN '{lun.file}' has holes: a write may find the file system full, which a disk cannot "
                "say; fill them with 'fallocate -l SIZE', or write 'sparse: yes'"
            )


def _noted(text: str) -> Declaration:
    from ctdbpy.services.iscsi.declaration import Declaration

    return Declaration.from_json(text)


def _files(declaration: Declaration) -> list[str]:
    return [lun.file for target in declaration.targets for lun in target.luns]


def _check_directories(event: Event, directory: Path, files: list[str]) -> None:
    """See whether the directories of files answer in time. Raises ServiceError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    parents = sorted({os.path.dirname(file) for file in files})
    directories.check("the directory of iSCSI", parents, timeout_s=_limit_s(event), state=directory)


def _limit_s(event: Event) -> float:
    return float(event.number("CTDB_ISCSI_TIMEOUT", 5, least=1, most=20))


def _check_programs() -> None:
    for program in ("tgtd", "tgtadm"):
        if shutil.which(program) is None:
            raise ServiceError(
                f"cannot serve iSCSI: there is no program '{program}'; install the package tgt"
            )
    everywhere = {"0.0.0.0", "::"} & set(addresses.listeners(PORT))
    if everywhere:
        raise ServiceError(
            f"cannot serve iSCSI: somebody listens on port {PORT} of every address; disable tgt.service"
        )
