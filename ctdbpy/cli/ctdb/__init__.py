# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `ctdb` for scripts written for upstream's: its arguments, texts and exit codes."""
