# SPDX-License-Identifier: GPL-3.0-or-later
"""What event scripts do: each `eventscripts/NN.name.script` hands its event to a module here."""
