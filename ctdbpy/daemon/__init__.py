# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon: core, store, net and host joined into one process, the pump."""
