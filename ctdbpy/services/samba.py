# SPDX-License-Identifier: GPL-3.0-or-later
"""Samba's file server, smbd: started, stopped and asked whether it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import addresses, directories, managers
from ctdbpy.services.event import Event
from ctdbpy.services.managers import Daemon
from ctdbpy.services.samba_configuration import KeptConfiguration, SambaConfiguration

_SMBD: Final = Daemon(("smbd", "smb"), ("smbd", "-D"), "smbd", Path("/run/samba/smbd.pid"), listens=True)
_PORT_MAX: Final = 65535
_NETBIOS_PORT: Final = 139
#: The server and the directories may each take so long, and EventScriptTimeout is 30 s for all scripts.
_CHECK_LIMIT_S: Final = 10


def run(event: Event) -> None:
    """Do what an event asks of smbd. Raises ServiceError, which says what is not well."""
    name = event.text("CTDB_SERVICE_SMB")
    smbd = replace(_SMBD, units=(name,)) if name else _SMBD
    match event.name:
        case "startup":
            _kept(event).forget()
            # One that runs already lost its cluster daemon, and with that its locks.
            managers.restart(event, smbd)
        case "shutdown":
            managers.stop(event, smbd)
        case "reload":
            _kept(event).forget()
            managers.reload(event, smbd)
        case "monitor":
            _monitor(event)


def _monitor(event: Event) -> None:
    kept = _kept(event)
    configuration = kept.load()
    if configuration is None:
        _check(event, kept.read())
        return
    try:
        _check(event, configuration)
    except ServiceError as error:
        # What is missing may be what has been taken out of the configuration since.
        try:
            fresh = kept.read()
        except ServiceError:
            raise error from None
        if fresh == configuration:
            raise
        _check(event, fresh)
    trouble = kept.trouble()
    if trouble is not None:
        event.warnings.append(f"cannot read Samba's configuration, an older copy is used: {trouble}")
    kept.refresh()


def _kept(event: Event) -> KeptConfiguration:
    return KeptConfiguration(event.keep("samba"))


def _check(event: Event, configuration: SambaConfiguration) -> None:
    limit_s = event.number("CTDB_SAMBA_CHECK_TIMEOUT", _CHECK_LIMIT_S, least=1)
    ports = _ports(event, configuration)
    heard = {port: addresses.listeners(port) for port in ports}
    for port, listeners in heard.items():
        if not listeners:
            raise ServiceError(f"cannot reach smbd: nobody listens on TCP port {port}")
    # First: where the file system hangs smbd often does, too.
    if not event.flag("CTDB_SAMBA_SKIP_SHARE_CHECK", default=False):
        directories.check(
            "the share directory",
            list(configuration.share_directories()),
            timeout_s=limit_s,
            state=event.keep("samba"),
        )
    if event.flag("CTDB_SAMBA_CHECK_SESSION", default=True):
        port = next((port for port in ports if port != _NETBIOS_PORT), ports[0])
        _check_sessions(addresses.hosted(event) or [_nearest(heard[port])], port, limit_s)


def _ports(event: Event, configuration: SambaConfiguration) -> list[int]:
    words = event.words("CTDB_SAMBA_CHECK_PORTS")
    if not all(word.isdecimal() and 0 < int(word) <= _PORT_MAX for word in words):
        raise event.misuse("CTDB_SAMBA_CHECK_PORTS", "it must be TCP ports, divided by blanks")
    ports = [int(word) for word in words] or configuration.ports()
    if not ports:
        raise ServiceError(
            "cannot check smbd: 'smb ports' of its configuration names none; set CTDB_SAMBA_CHECK_PORTS"
        )
    return ports


def _check_sessions(targets: list[str], port: int, limit_s: int) -> None:
    # Here, so that the events that have to be quick do not import it.
    from ctdbpy.services import smb_session

    troubles = smb_session.check(targets, port, timeout_s=limit_s)
    if not troubles:
        return
    # An address that has left meanwhile is another node's to answer for.
    here = addresses.local()
    for address in targets:
        if address in troubles and address in here:
            raise ServiceError(f"cannot use smbd at '{address}' port {port}: {troubles[address]}")


def _nearest(listeners: list[str]) -> str:
    """Where smbd is asked on a node that has no public address: it has to become healthy to be given one."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    for wildcard, loopback in everywhere.items():
        if wildcard in listeners:
            return loopback
    return listeners[0]
