# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases as the core sees them: attaching, freezing, committing, walking and vacuuming them."""
