# SPDX-License-Identifier: GPL-3.0-or-later
"""The node that leads: how it is found, what it watches, how it recovers the cluster."""
