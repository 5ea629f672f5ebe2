# SPDX-License-Identifier: GPL-3.0-or-later
"""Real daemons and services on hosts of a lab, with faults."""
