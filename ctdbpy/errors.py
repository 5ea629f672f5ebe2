# SPDX-License-Identifier: GPL-3.0-or-later
"""The exception tree: every error that ctdbpy raises on purpose.

    CtdbpyError
    ├── ProtocolError      bytes that are not a valid packet, structure or reply
    ├── ConfigError        a file or setting an administrator has to mend
    ├── StoreError         a TDB file that cannot be opened, read or written
    ├── HostError          the machine refused: socket, process, address, privilege
    ├── ClientError        the daemon refused a request, or cannot be reached
    ├── ServiceError       a service is not well, or an event script cannot do what an event asks
    └── LabError           the cluster of namespaces could not be built or driven

Messages read `cannot <verb> <what>: <reason>`, with values quoted.
"""

from __future__ import annotations


class CtdbpyError(Exception):
    """Base of every error that ctdbpy raises on purpose."""


class ProtocolError(CtdbpyError):
    """Bytes from a socket do not decode; the message says which field and why."""


class ConfigError(CtdbpyError):
    """A configuration file or setting is wrong; the message names file and line."""


class StoreError(CtdbpyError):
    """A TDB file cannot be opened, read or written."""


class HostError(CtdbpyError):
    """The operating system refused something the daemon needs."""


class ClientError(CtdbpyError):
    """A daemon refused a request or cannot be reached."""


class ServiceError(CtdbpyError):
    """A service is not well, or cannot be started, stopped or moved; the message is the event's one line."""


class LabError(CtdbpyError):
    """The lab cluster cannot be built, driven or taken down."""
