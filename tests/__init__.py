# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests, by what they need: nothing, virtual time, a lab, Debian's programs."""
