# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses moving between nodes: for now, who asked for a takeover run and who may not have one."""
