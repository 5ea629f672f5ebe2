# SPDX-License-Identifier: GPL-3.0-or-later
"""ctdbpy: a clustered NAS head; the daemon that keeps Samba coherent over several nodes."""

__version__ = "0.1.0"
