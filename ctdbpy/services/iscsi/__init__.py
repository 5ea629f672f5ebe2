# SPDX-License-Identifier: GPL-3.0-or-later
"""iSCSI by STGT: one tgtd for each public address that is here, which lives no longer than the address stays.

    events       what an event asks            declaration  the file of targets and LUNs
    keeper       starts and ends the tgtds     launch       what becomes a tgtd, once the LUNs are locked
    stgt         what a tgtd is told           health       whether one answers, as an initiator sees it

A LUN is served by one node at a time because its tgtd itself holds an fcntl lock on the backing file, taken
before the program is tgtd at all: nothing but the end of that process, or of its node in the eyes of the
cluster file system, gives the lock to another.
"""
