# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole clusters of the real core and the real record engine on virtual time, from one seed."""
