# SPDX-License-Identifier: GPL-3.0-or-later
"""Links between nodes: TCP connections made, accepted and handed on; their bytes are the engine's."""
