# SPDX-License-Identifier: GPL-3.0-or-later
"""What bytes mean: packets, controls, structures, records and tunables of the CTDB protocol.

Pure: bytes in, frozen values out, and back. Every number is in the byte order of the host, as all nodes of
a cluster share one architecture; every length is checked against the bytes left before anything is built.
Anything that does not decode raises `ctdbpy.errors.ProtocolError` and nothing else.
"""
