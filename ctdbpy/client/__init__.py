# SPDX-License-Identifier: GPL-3.0-or-later
"""How any program talks to a daemon: over its Unix socket, as Samba and the tools do."""
