# SPDX-License-Identifier: GPL-3.0-or-later
"""The small process that hears heartbeats: it never waits for the daemon, a disk or memory."""
