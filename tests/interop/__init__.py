# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's own programs on our daemon: what they say and do has to be what they say and do on Debian's."""
