# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs for administrators: ordinary clients of the daemon on this node."""
