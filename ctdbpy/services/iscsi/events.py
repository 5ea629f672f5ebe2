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
    directory.mkdir(parents=True, exist_ok=True)
    orders.declare(directory, declaration.to_json())
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
    orders.kill(note, f"the tgtd of '{address}'")


def _reallocated(event: Event) -> None:
    """What has changed in the file counts from here on, at the addresses that it changed."""
    directory = _directory(event)
    declaration = _load(event)
    if declaration is None:
        if orders.noted(directory):
            _end_everything(directory)
            (directory / "declared.json").unlink()
        return
    directory.mkdir(parents=True, exist_ok=True)
    orders.declare(directory, declaration.to_json())
    if not orders.ensure(directory):
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
    declaration = _load(event)
    limit_s = float(event.number("CTDB_ISCSI_TIMEOUT", 5, least=1, most=20))
    directory = _directory(event)
    noted = orders.noted(directory)
    if declaration is None or not noted:
        return  # It begins with startup, or with the next change of addresses.
    if noted != declaration.to_json():
        event.warnings.append("the iSCSI targets have changed: 'ctdb ipreallocate' makes it count")
    served = type(declaration).from_json(noted)
    files = [lun.file for target in served.targets for lun in target.luns]
    parents = sorted({os.path.dirname(file) for file in files})
    directories.check("the directory of LUNs", parents, timeout_s=limit_s, state=directory)
    for file in files:
        if not os.path.isfile(file):
            raise ServiceError(
                f"cannot serve LUN '{file}': there is no such file here; is its file system mounted?"
            )
    if orders.ensure(directory):
        event.warnings.append("the keeper of iSCSI had ended: it was started anew")
    for address, targets in served.by_address().items():
        before = _status(directory, address, limit_s)
        try:
            _check_post(event, address, targets, before, limit_s)
        except ServiceError:
            # An address that has moved meanwhile is another node's.
            if _status(directory, address, limit_s) == before:
                raise


def _status(directory: Path, address: str, limit_s: float) -> dict[str, Any]:
    """How one address is; a keeper that does not say so is ended, and with it all that it does not watch."""
    try:
        status = orders.ask(directory, "status", timeout_s=limit_s)
    except ServiceError:
        orders.kill(directory / "keeper", "the keeper of iSCSI")
        raise
    post: dict[str, Any] = status.get(address, {"phase": "unknown", "standing": False})
    return post


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
    """The targets of the file; None if there is none, and none was promised."""
    # It takes a twentieth of a second to be there, which addresses that move need not wait for.
    from ctdbpy.services.iscsi.declaration import load

    given = event.text("CTDB_ISCSI_TARGETS")
    path = Path(given) if given else event.base / DEFAULT_FILE
    declaration = load(path)
    if declaration is None and given:
        raise event.misuse("CTDB_ISCSI_TARGETS", "there is no such file")
    if declaration is None and event.text(_UPSTREAM):
        raise event.misuse(
            _UPSTREAM,
            f"no scripts are run; declare the targets in '{path}' (docs/services.md) and remove the option",
        )
    if declaration is not None:
        _check_addresses(event, path, declaration)
    return declaration


def _check_addresses(event: Event, path: Path, declaration: Declaration) -> None:
    """An address that is never here may be for other nodes; if all are, it is a slip."""
    known = addresses.public(event)
    if known and not any(target.address in known for target in declaration.targets) and declaration.targets:
        raise ConfigError(
            f"cannot use '{path}': none of its addresses is in '{event.base}/public_addresses'; "
            "targets are served at public addresses alone"
        )


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
