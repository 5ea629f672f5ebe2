# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages the core itself sends: those that clients leave behind for when they are gone."""
