# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs for other programs: metrics for Prometheus, and probes for whoever watches over containers."""
